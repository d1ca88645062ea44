"""kill -9 of processes that make, use and end tokens and sessions and write the audit trail, at each commit point and at random.

Nothing acknowledged is lost, nothing is done twice or by half, an action and its entry are there together or not at all,
what is over opens nothing and is swept in the end. Another process looks.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import visiting
from dying import POINTS, Driver
from visiting import BEGUN, BLOCKS, OVER, VISITING
from waiting import until

import onefold
from onefold import Database, Tx, tokens
from onefold.server import auth
from onefold.testing.cluster import Installation
from onefold.testing.http import Caller
from onefold.testing.workload import run

KILLS_S = 0.5  # At least; each fault is there once.
TRUST_MS = 200  # In the place of two seconds.


@pytest.fixture(scope="module")
def driver() -> Iterator[Driver]:
    with Driver() as started:
        yield started


class Story:
    """What becomes of one token and its sessions, each step killed at each commit point of it."""

    def __init__(self, db: Database, driver: Driver, *, apart: bool = False) -> None:
        self.lists: dict[str, list[int]] = {}
        self._db = db
        self._driver = driver
        self._apart = apart

    def step(self, name: str, *given: Any, appends: tuple[str, ...] = (), element: int = BEGUN) -> None:
        """It dies at each point and is tried again until it is done; then these lists are longer, and no other."""
        for point in POINTS[self._db.dialect]:
            before = self._look(visiting.rows)
            others = self._look(backends) if point == "sent" else 0
            self._driver.kill(self._db.url, point, name, *given, apart=self._apart)
            if point == "sent":
                until(lambda others=others: self._look(backends) <= others, "the end of the backend that lost its client")
            done = self._look(visiting.rows) != before
            assert done == (point == "after") or point == "sent", f"{name}, killed {point}"
            if done:
                self.lists |= {key: [*self.lists.get(key, []), element] for key in appends}
            assert self._look(visiting.lists_of_all) == self.lists, f"{name}, killed {point}"
            if done:
                return
        raise AssertionError("it was never done")

    def id_of(self, who: str) -> str:
        return dict(self._look(visiting.everybody))[who]

    def dust_in(self, block: str) -> int:
        return self._look(visiting.dust_in, block)

    def _look(self, fn: Callable[..., Any], *given: Any) -> Any:
        return self._db.reader().run(fn, *given)


def backends(tx: Tx) -> int:
    """Of this database: that of the test, and those of whoever died."""
    row = tx.one(
        """SELECT count(*) FROM pg_stat_activity -- :space
            WHERE datname = current_database() AND backend_type = 'client backend'"""
    )
    assert row is not None
    return row[0]


def both(who: str) -> tuple[str, str]:
    return f"door/{who}", f"trail/{who}"


def test_killed_at_each_commit_point_each_thing_is_done_whole_or_not_at_all(db_url: str, driver: Driver) -> None:
    with onefold.connect(db_url) as db:
        story = Story(db, driver)
        story.step("create", "who/1", appends=both("who/1"))
        token_id = story.id_of("who/1")
        story.step("touch", token_id, appends=("use/who/1",))
        story.step("begin", "who/2", token_id, appends=both("who/2"))
        story.step("begin", "who/3", token_id, appends=both("who/3"))
        story.step("end", "who/2", story.id_of("who/2"), appends=both("who/2"), element=OVER)
        story.step("leave_dust")
        for block in BLOCKS:
            assert story.dust_in(block) == 1
            story.step(block)
            assert story.dust_in(block) == 0
        story.step("revoke", "who/1", token_id, appends=both("who/1"), element=OVER)


def test_an_entry_in_another_transaction_is_found_missing(onefold_sqlite_url: str, driver: Driver) -> None:
    """The canary: were it not, nothing above would mean anything."""
    with onefold.connect(onefold_sqlite_url) as db:
        with pytest.raises(AssertionError, match="create, killed after"):
            Story(db, driver, apart=True).step("create", "who/1", appends=both("who/1"))


@pytest.mark.usefixtures("again")
def test_processes_killed_at_random_lose_and_double_nothing(db_url: str, tmp_path: Path) -> None:
    """They go on as others; `make sim` has every other fault besides (`tests/testing/test_workload.py::test_long`)."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    path = tmp_path / "history.jsonl"
    report = run(VISITING, Installation(db_url), path=path, seconds=KILLS_S, seed=seed, faults=["kill"], processes=1)
    report.expect_valid()
    assert report.counts["ok"]
    assert "kill" in report.faults


def trusted_for_ms(db: Database, driver: Driver, threads: ThreadPoolExecutor) -> float:
    """How long a server lets a token in after a process that died had revoked it; at most about three times `TRUST_MS`."""
    secret, digest = tokens.new_secret()
    token_id = db.run(tokens.create, "who/1", digest=digest, rights=("*",)).id
    last_ns = 0
    with Caller(onefold.asgi(db), token=tokens.bearer(token_id, secret)) as ask:
        killing = threads.submit(driver.kill, db.url, "after", "revoke", "who/1", token_id)

        def is_over() -> bool:
            nonlocal last_ns
            asked_ns = time.monotonic_ns()
            if ask("GET", "/v1/tokens").status == 401:
                return True
            last_ns = asked_ns
            return killing.done() and asked_ns > killing.result() + 3 * TRUST_MS * 1_000_000

        until(is_over, "the end of trust")
    return (last_ns - killing.result()) / 1_000_000


def test_a_revocation_by_a_process_that_died_holds_for_whoever_trusted(
    db_url: str, driver: Driver, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody told the server: it asks again when its trust is over. And one that trusts for ever is found out."""
    with onefold.connect(db_url) as db:
        monkeypatch.setattr(auth, "TRUST_MS", TRUST_MS)
        assert trusted_for_ms(db, driver, threads) <= TRUST_MS
        monkeypatch.setattr(auth, "TRUST_MS", float("inf"))
        assert trusted_for_ms(db, driver, threads) > TRUST_MS
