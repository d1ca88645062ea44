"""What an append costs on SQLite, and that every read goes by a key."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from events_kinds import Placed, check_order, everything

import onefold
from onefold import Database, Tx, events

FRAME_BYTES = 24 + 4_096  # Of the write-ahead log: a header and a page.
APPENDS = 200


@pytest.fixture
def lite(tmp_path: Path) -> Iterator[Database]:
    """Without rehearsal, so that what is counted is what a program pays."""
    with onefold.connect(tmp_path / "events.db") as db:
        yield db


def writer_of(db: Database) -> sqlite3.Connection:
    connection = db._engine._parts.writer.batches.connection  # type: ignore[attr-defined]
    assert isinstance(connection, sqlite3.Connection)
    return connection


@contextmanager
def traced(connection: sqlite3.Connection) -> Iterator[list[str]]:
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    try:
        yield statements
    finally:
        connection.set_trace_callback(None)


def test_an_append_is_one_statement(lite: Database) -> None:
    lite.run(events.append, "order/1", Placed(1))
    with traced(writer_of(lite)) as statements:
        lite.run(events.append, "order/1", Placed(2))
    assert [text.split()[0] for text in statements] == ["BEGIN", "INSERT", "COMMIT"]


def test_an_append_writes_three_pages_and_now_and_then_one_more(lite: Database, tmp_path: Path) -> None:
    """The table, the key of its streams, the index of its categories; more only where a page is full."""
    log = tmp_path / "events.db-wal"
    lite.run(events.append, "order/0", Placed(0))
    writer_of(lite).execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    for n in range(APPENDS):
        lite.run(events.append, f"order/{n % 4}", Placed(n))
    pages = log.stat().st_size // FRAME_BYTES / APPENDS
    print("pages per append:", pages)
    assert 3 <= pages < 4


def test_an_event_is_in_no_more_trees_than_that(lite: Database) -> None:
    """The index of correlations is not written where there is none."""
    found = lite.run(lambda tx: tx.all("SELECT name FROM sqlite_master WHERE tbl_name = 'onefold_events' AND rootpage > 0"))
    assert {row[0] for row in found} == {
        "onefold_events", "onefold_events_category", "onefold_events_correlation", "sqlite_autoindex_onefold_events_2",
    }  # fmt: skip


def seed(db: Database) -> None:
    for n in range(30):
        db.run(events.append, f"order/{n % 3}", Placed(n), correlation=f"chain/{n % 2}")
    db.run(events.append, "rare/1", Placed(1))
    db.run(events.subscribe, "all")
    db.run(events.subscribe, "orders", category="order")


def fail(_tx: Tx, _event: events.Event) -> None:
    raise ValueError


def consume_orders(tx: Tx) -> None:
    events.consume(tx, "orders", fail, category="order", attempts_max=1, limit=3)


READS: dict[str, Callable[[Tx], Any]] = {
    "stream": lambda tx: events.read_stream(tx, "order/1", after=2, limit=3),
    "category": lambda tx: events.read_category(tx, "order", after=2, limit=3),
    "all": lambda tx: events.read_all(tx, after=2, limit=3),
    "correlation": lambda tx: events.read_correlation(tx, "chain/1", limit=3),
    "version": lambda tx: events.version_of(tx, "order/1"),
    "head": events.head,
    "position": lambda tx: events.position_of(tx, "order/1@2"),
    "lag": lambda tx: (events.subscription_of(tx, "all"), events.subscription_of(tx, "orders")),
    "lags": events.list_subscriptions,
    "consume": consume_orders,
    "retry": lambda tx: (consume_orders(tx), events.retry_parked(tx, "orders", lambda _tx, _event: None)),
    "append": lambda tx: events.append(tx, "order/1", Placed(1), Placed(2), correlation="chain/1"),
}


PLANS = {  # By which key; a search by the space alone reads everything.
    "stream": "INDEX sqlite_autoindex_onefold_events_2 (space=? AND stream=? AND version>?)",
    "category": "INDEX onefold_events_category (space=? AND (category,seq)>(?,?) AND category<?)",
    "all": "PRIMARY KEY (space=? AND seq>?)",
    "correlation": "INDEX onefold_events_correlation (space=? AND (correlation,seq)>(?,?) AND correlation<?)",
    "version": "INDEX sqlite_autoindex_onefold_events_2 (space=? AND stream=?)",
    "head": "PRIMARY KEY (space=?)",  # The last one of its range.
    "position": "INDEX sqlite_autoindex_onefold_events_2 (space=? AND stream=? AND version=?)",
    "lag": "COVERING INDEX onefold_events_category (space=? AND category=?)",  # The last one again.
    "lags": "COVERING INDEX onefold_events_category (space=? AND category=?)",
    "consume": "INDEX onefold_events_category (space=? AND (category,seq)>(?,?) AND category<?)",
    "retry": "PRIMARY KEY (space=? AND seq=?)",
    "append": "INDEX sqlite_autoindex_onefold_events_2 (space=? AND stream=?)",
}


@pytest.mark.parametrize("what", READS)
def test_every_statement_goes_by_a_key(lite: Database, what: str) -> None:
    """No scan of a table or an index, no sort: what is read grows with the answer, not with the past."""
    seed(lite)
    connection = writer_of(lite)
    with traced(connection) as statements:
        lite.run(READS[what])
    planned = [text for text in statements if text.split()[0] in {"SELECT", "INSERT", "UPDATE", "DELETE"}]
    steps = [row[3] for text in planned for row in connection.execute(f"EXPLAIN QUERY PLAN {text}").fetchall()]
    assert any(PLANS[what] in step for step in steps), steps
    assert not [step for step in steps if "TEMP B-TREE" in step or "SCAN onefold" in step], steps


def test_spaces_number_for_themselves(lite: Database) -> None:
    for n in range(9):
        lite.at(f"tenant/{n % 3}").run(events.append, f"order/{n % 2}", Placed(n), Placed(n))
    for n in range(3):
        found = lite.at(f"tenant/{n}").run(events.read_all).items
        assert [event.position for event in found] == [1, 2, 3, 4, 5, 6]
        assert lite.at(f"tenant/{n}").run(events.head) == 6
        check_order(everything(lite.at(f"tenant/{n}")))
    assert everything(lite) == []
