"""A transaction of the user's own, joined with `onefold.use`: the same words as inside `run`, on both engines."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from engine_words import GET, INSERT, count, get, put

import onefold
from onefold import Conflict, Doomed, Invalid, OnefoldError, Tx
from onefold.engine.sqlite import wakes


@pytest.fixture
def owner(db_url: str) -> Iterator[Any]:
    connection = psycopg.connect(db_url) if db_url.startswith("postgresql") else sqlite3.connect(db_url)
    yield connection
    connection.close()


def test_many_rows_are_written_in_the_space_of_the_tx(owner: Any) -> None:
    tx = onefold.use(owner, space_name="tenant/1")
    tx.many(INSERT, ({"key": key, "total": len(key)} for key in ("a", "bb", "ccc")))
    owner.commit()
    assert [get(onefold.use(owner, space_name="tenant/1"), key) for key in ("a", "bb", "ccc")] == [1, 2, 3]
    owner.rollback()
    assert count(onefold.use(owner, space_name="tenant/2")) == 0


def test_a_row_of_many_that_is_refused_dooms_the_tx(owner: Any) -> None:
    tx = onefold.use(owner)
    with pytest.raises(Conflict):
        tx.many(INSERT, [{"key": "a", "total": 1}, {"key": "a", "total": 2}])
    with pytest.raises(Doomed):
        get(tx, "a")


def test_one_of_two_rows_is_refused_and_dooms_the_tx(owner: Any) -> None:
    tx = onefold.use(owner)
    put(tx, "a")
    put(tx, "b")
    with pytest.raises(Invalid) as refused:
        tx.one("SELECT key FROM onefold.counter_totals WHERE space = :space ORDER BY key")
    assert refused.value.code == "many_rows"
    with pytest.raises(Doomed):
        put(tx, "c")


def test_a_statement_that_is_refused_dooms_the_tx(owner: Any) -> None:
    put(tx := onefold.use(owner), "a")
    with pytest.raises(Conflict):
        tx.run(INSERT, key="a", total=2)
    with pytest.raises(Doomed):
        tx.all(GET, key="a")


def test_a_savepoint_undoes_its_part_and_the_tx_goes_on(owner: Any) -> None:
    put(tx := onefold.use(owner), "a")
    with pytest.raises(Conflict):
        with tx.savepoint():
            put(tx, "b")
            tx.run(INSERT, key="a", total=2)
    put(tx, "c", 3)
    owner.commit()
    again = onefold.use(owner)
    assert [get(again, key) for key in "abc"] == [1, None, 3]


def test_after_the_owner_rolled_back_nobody_is_told(owner: Any) -> None:
    tx = onefold.use(owner)
    told: list[int] = []
    tx.on_commit(lambda: told.append(1))
    owner.rollback()
    tx.rolled_back()
    tx.committed()
    assert told == []


def test_callbacks_come_once_however_often_the_commit_is_told_of(owner: Any) -> None:
    tx = onefold.use(owner)
    told: list[int] = []
    tx.on_commit(lambda: told.append(1))
    owner.commit()
    tx.committed()
    tx.committed()
    assert told == [1]


def test_what_the_owner_undid_is_not_told(owner: Any, db_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wakes, "POLL_S", 3600.0)  # A look at the file wakes everybody.
    with onefold.connect(db_url) as db:
        undone, kept = [db.waiter("undone/1"), db.waiter("undone/2")], db.waiter("kept")
        tx, told = onefold.use(owner), []
        nothing = tx.marks()
        for n in (1, 2):
            tx.wake(f"undone/{n}")
            tx.on_commit(lambda: told.append(1))
        tx.cut(nothing)
        tx.wake("kept")
        owner.commit()
        tx.committed()
        assert kept.wait(20)
        assert not any(waiter.wait(0) for waiter in undone)
        assert told == []
        for waiter in (kept, *undone):
            waiter.close()


def test_another_name_with_the_number_of_a_space_is_refused(owner: Any) -> None:
    tx = onefold.use(owner, space_name="tenant/1")
    tx.run("UPDATE onefold.spaces SET name = 'tenant/other' WHERE space = :space")
    owner.commit()
    with pytest.raises(Invalid) as refused:
        onefold.use(owner, space_name="tenant/1")
    assert refused.value.code == "space_collision"


def test_a_transaction_that_may_only_read_is_not_said_to_lack_the_schema(owner: Any) -> None:
    if isinstance(owner, psycopg.Connection):
        owner.read_only = True
    else:
        owner.execute("PRAGMA query_only = ON")
    with pytest.raises(Invalid) as refused:
        onefold.use(owner)
    assert refused.value.code == "read_only"


def test_a_server_that_ends_the_owners_connection_is_told_in_our_words(postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as owner, psycopg.connect(postgres_url, autocommit=True) as admin:
        tx = onefold.use(owner)
        admin.execute("SELECT pg_terminate_backend(%s)", [owner.info.backend_pid])
        with pytest.raises(OnefoldError):
            put(tx, "a")
        with pytest.raises(OnefoldError):
            onefold.use(owner)
        owner.close()


def test_a_transaction_that_sqlite_ended_is_not_gone_on_with(tmp_path: Path) -> None:
    with onefold.connect(tmp_path / "a.db") as database:
        raw = sqlite3.connect(database.url)
        raw.execute("CREATE TABLE own (x UNIQUE ON CONFLICT ROLLBACK)")
        steps: list[Callable[[Tx], object]] = [
            lambda tx: tx.add("half", 1), lambda tx: tx.many(INSERT, [{"key": "half", "total": 1}]),
            lambda tx: tx.savepoint().__enter__(),
        ]  # fmt: skip
        for number, step in enumerate(steps):
            tx = onefold.use(raw)
            tx.add("first", 1)
            raw.execute("INSERT INTO own VALUES (?)", (number,))
            with pytest.raises(sqlite3.IntegrityError):
                raw.execute("INSERT INTO own VALUES (?)", (number,))
            for _ in range(2):
                with pytest.raises(Doomed):
                    step(tx)
            raw.commit()
        raw.close()
        assert database.run(lambda tx: (tx.total("first"), tx.total("half"))) == (0, 0)
