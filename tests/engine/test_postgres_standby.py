"""A synchronous standby that is away: what no standby has is not acknowledged, since a failover would lose it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator

import pytest
from engine_words import get
from load import insert
from waiting import until

from onefold import Database, OnefoldError, Unknown
from onefold.engine.postgres import unknown
from onefold.testing.cluster import Installation, cluster

WAITING = "FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query = 'COMMIT'"
ASKING = "FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE 'UPDATE onefold.tx%'"
HASTY_MS = 300
PATIENT_MS = 60_000

_numbers = itertools.count()


@pytest.fixture(scope="module")
def pair() -> Iterator[Installation]:
    with cluster("postgres", nodes=0, standbys=1) as made:
        yield made


@pytest.fixture
def db(pair: Installation) -> Iterator[Database]:
    with pair.connect() as db:
        db.run(insert, f"before {next(_numbers)}")  # Its space and its connection are made.
        yield db


class Commit(threading.Thread):
    """A call whose COMMIT waits for a standby that is away."""

    def __init__(self, db: Database, key: str, *, deadline_ms: int = PATIENT_MS) -> None:
        super().__init__()
        self.key = key
        self.answer: object = "nothing"
        self._db = db.options(deadline_ms=deadline_ms)
        self.start()

    def run(self) -> None:
        try:
            self.answer = self._db.run(insert, self.key)
        except OnefoldError as error:
            self.answer = error


def ask(made: Installation, query: str) -> int:
    assert made.primary is not None
    with made.primary.admin() as connection:
        row = connection.execute(query).fetchone()
    assert row is not None
    return row[0]


def waits(made: Installation) -> bool:
    return ask(made, f"SELECT count(*) {WAITING}") > 0


@pytest.mark.parametrize("how", ["its deadline", "pg_cancel_backend", "pg_terminate_backend", "a cut connection"])
def test_a_commit_that_no_standby_has_is_unknown(pair: Installation, db: Database, how: str, monkeypatch) -> None:
    assert pair.toxiproxy is not None
    monkeypatch.setattr(unknown, "RESOLVE_NS_MAX", 300_000_000)
    (standby,) = pair.standbys
    standby.kill9()
    try:
        commit = Commit(db, how, deadline_ms=HASTY_MS if how == "its deadline" else PATIENT_MS)
        if how != "its deadline":
            until(lambda: waits(pair), "a COMMIT to wait for the standby")
        if how.startswith("pg_"):
            assert ask(pair, f"SELECT count({how}(pid)) {WAITING}") == 1
        elif how == "a cut connection":
            with pair.toxiproxy.down(pair.proxy):
                pass
        commit.join(30)
        assert isinstance(commit.answer, Unknown), commit.answer
    finally:
        standby.start()
    assert db.run(get, how) == 1  # It was only not certain.


def test_a_standby_that_comes_back_in_time_makes_it_known(pair: Installation, db: Database) -> None:
    assert pair.toxiproxy is not None
    (standby,) = pair.standbys
    standby.kill9()
    try:
        commit = Commit(db, "late")
        until(lambda: waits(pair), "a COMMIT to wait for the standby")
        with pair.toxiproxy.down(pair.proxy):
            pass
        until(lambda: ask(pair, f"SELECT count(*) {ASKING}"), "the question to wait for it too")
        assert commit.is_alive()
    finally:
        standby.start()
    commit.join(30)
    assert commit.answer is None
    assert db.run(get, "late") == 1
