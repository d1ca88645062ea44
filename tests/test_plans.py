"""A law for every SQL text: none walks through the whole of a table that grows.

On PostgreSQL with tables that were never analysed, where the planner knows least and takes any index
that begins right; on SQLite as it plans always. What is found is a scan without a key: of a table, or of
a whole index.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from block_tables import tables_of
from test_laws import sql_texts

import onefold
from onefold import jobs
from onefold.engine.postgres.codec import plan_of
from onefold.engine.sql import Dialect, compile_statement
from onefold.index import BLOCKS
from onefold.messaging.jobs.attempts import CLAIM_POSTGRES

# Tables that do not grow with use, and why.
SMALL = {
    "booking_tidied": "one row",
    "event_steps": "one row",
    "jobs_workers": "a row for each worker that lives or just died",
    "lock_floors": "a row for each space",
    "lock_sweep": "one row",
}
# The types that the engine sends; without values PostgreSQL must be told where it cannot infer them.
_NUMBER = re.compile(r"_ms$|^(amount|count|every|expected|minor|most)$")
_ONLY_POSTGRES = re.compile(r"pg_\w+\(|\bAS (?:MATERIALIZED )?\(\s*(?:INSERT|UPDATE|DELETE)\b")
ONLY_SQLITE = "-- engine: sqlite"  # As schema files say it.
# SQLite takes only the first column of `(space, id) IN (SELECT ...)` to the index when it is the index's first, and
# then looks through the whole space; of `(id, space)` it takes both.
_BY_ROW_VALUE = re.compile(r"\((?:[\w.]+, )+[\w.]+\)\s+IN \(")
_BY_SPACE_ALONE = re.compile(r"SEARCH (\w+) .*\(space=\?\)$")
_INDEX_SCANS = {"Index Scan", "Index Only Scan", "Bitmap Index Scan"}



@jobs.kind("plans.waiting")
class Waiting(msgspec.Struct, frozen=True):
    """Put by the thousand."""


Scans = list[tuple[str, str]]  # Which table, and the planner's words.


def runs_on(dialect: Dialect, block: str, text: str) -> bool:
    """Whether the engine ever gets the text: it may be written for the other one, or name a table of the other one."""
    other: Dialect = "postgres" if dialect == "sqlite" else "sqlite"
    named = set(re.findall(r"\bonefold\.(\w+)", text))
    if named & (tables_of(block, other) - tables_of(block, dialect)):
        return False
    return ONLY_SQLITE not in text if dialect == "postgres" else not _ONLY_POSTGRES.search(text)


def scans_on_sqlite(connection: sqlite3.Connection, text: str) -> Scans:
    statement = compile_statement(text, "sqlite")
    aliases = dict((alias, table) for table, alias in re.findall(r"onefold\.(\w+) (?:AS )?(\w+)", text))
    found: Scans = []
    for *_, step in connection.execute(f"EXPLAIN QUERY PLAN {statement.text}", [None] * len(statement.parameters)):
        scanned, by_space = re.match(r"SCAN (\w+)", step), _BY_SPACE_ALONE.match(step)
        if not (hit := scanned or by_space):
            continue
        name = hit[1]
        table = name.removeprefix("onefold_") if name.startswith("onefold_") else aliases.get(name)
        if table and (scanned or _BY_ROW_VALUE.search(text) or not ends_soon(text, table)):
            found.append((table, step))  # Without a table it is a row source of the text's own, such as a WITH.
    return found


def ends_soon(text: str, table: str) -> bool:
    """Whether whoever walks through a space of the table stops by a LIMIT, or at the largest key."""
    names = {"events": "(?:events|event_log)"}.get(table, table)
    return bool(re.search(rf"FROM onefold\.{names}\b[^()]*\bLIMIT\b|SELECT max\(\w+\) FROM onefold\.{names}\b", text))


def plan_on_postgres(connection: psycopg.Connection[Any], text: str) -> list[dict[str, Any]]:
    plan = plan_of(text)
    sql = plan.text.decode()
    for number, name in reversed(list(enumerate(plan.names, 1))):
        if _NUMBER.search(name):
            sql = re.sub(rf"\${number}\b", f"CAST(${number} AS bigint)", sql)
    result = connection.pgconn.exec_(f"EXPLAIN (GENERIC_PLAN, FORMAT JSON) {sql}".encode())
    assert result.status == psycopg.pq.ExecStatus.TUPLES_OK, result.error_message.decode()
    value = result.get_value(0, 0)
    assert value is not None
    return list(nodes_of(json.loads(value)[0]["Plan"]))


def scans_on_postgres(connection: psycopg.Connection[Any], text: str) -> Scans:
    return [
        (str(node.get("Relation Name") or node["Index Name"]), f"{node['Node Type']} {node.get('Index Name', '')}")
        for node in plan_on_postgres(connection, text)
        if node["Node Type"] == "Seq Scan" or (node["Node Type"] in _INDEX_SCANS and "Index Cond" not in node)
    ]


def nodes_of(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from nodes_of(part)


def unexcused(scans: Scans) -> Scans:
    return [(table, step) for table, step in scans if table not in SMALL]


@pytest.fixture
def lite(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    onefold.migrate(tmp_path / "plans.db")
    connection = sqlite3.connect(tmp_path / "plans.db")
    yield connection
    connection.close()


def set_up(connection: psycopg.Connection[Any]) -> None:
    """As on all connections of the engine."""
    connection.execute("SET enable_seqscan = off")
    connection.execute("SET enable_bitmapscan = off")


@pytest.fixture
def server(postgres_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        set_up(connection)
        analysed = connection.execute("SELECT count(*) FROM pg_statistic JOIN pg_class c ON c.oid = starelid "
                                      "WHERE relnamespace = 'onefold'::regnamespace").fetchone()  # fmt: skip
        assert analysed == (0,), "the tables have statistics"
        yield connection


@pytest.mark.parametrize("block", BLOCKS)
def test_no_text_scans_a_table_that_grows_on_sqlite(lite: sqlite3.Connection, block: str) -> None:
    for where, text in sql_texts(block):
        if runs_on("sqlite", block, text):
            assert unexcused(scans_on_sqlite(lite, text)) == [], where


@pytest.mark.parametrize("block", BLOCKS)
def test_no_text_scans_a_table_that_grows_on_postgres(server: psycopg.Connection[Any], block: str) -> None:
    for where, text in sql_texts(block):
        if runs_on("postgres", block, text):
            assert unexcused(scans_on_postgres(server, text)) == [], where


def test_a_scan_is_seen(lite: sqlite3.Connection, server: psycopg.Connection[Any]) -> None:
    for text in (
        "SELECT s.slot FROM onefold.booking_slots s WHERE s.expires_at_ms <= :now_ms -- all spaces",
        "DELETE FROM onefold.booking_slots WHERE hold_id = :hold_id -- all spaces",
        "SELECT slot FROM onefold.booking_slots WHERE hold_id = :hold_id ORDER BY space, show_id -- all spaces",
    ):
        assert [table for table, _ in scans_on_sqlite(lite, text)] == ["booking_slots"], text
        assert [table for table, _ in scans_on_postgres(server, text)] == ["booking_slots"], text
    halves = [f"DELETE FROM onefold.jobs_done WHERE ({key}) IN (SELECT {key} FROM onefold.jobs_done d "
              "WHERE d.expires_at_ms <= :now_ms ORDER BY d.expires_at_ms LIMIT 5) -- all spaces" for key in ("space, id", "id, space")]  # fmt: skip
    assert [scans_on_sqlite(lite, text) for text in halves] == [
        [("jobs_done", "SEARCH onefold_jobs_done USING PRIMARY KEY (space=?)")], [],
    ]  # fmt: skip
    # In RETURNING a column has no type, so that no index serves it on SQLite.
    returned = ("DELETE FROM onefold.webhook_failed WHERE space = :space AND endpoint_id = :endpoint_id RETURNING message_id, "
                "(SELECT m.id FROM onefold.webhook_messages m WHERE m.space = :space AND m.id = {})")  # fmt: skip
    assert [table for table, _ in scans_on_sqlite(lite, returned.format("onefold.webhook_failed.message_id"))] == ["webhook_messages"]
    assert scans_on_sqlite(lite, returned.format("CAST(onefold.webhook_failed.message_id AS TEXT)")) == []
    keyed = "SELECT slot FROM onefold.booking_slots WHERE space = :space AND show_id = :show AND buyer = :by"
    assert scans_on_sqlite(lite, keyed) == scans_on_postgres(server, keyed) == []


def test_every_excuse_is_needed(lite: sqlite3.Connection, server: psycopg.Connection[Any]) -> None:
    seen: set[str] = set()
    for block in BLOCKS:
        for _, text in sql_texts(block):
            scans = scans_on_postgres(server, text) if runs_on("postgres", block, text) else []
            if runs_on("sqlite", block, text):
                scans += scans_on_sqlite(lite, text)
            seen |= {table for table, _ in scans}
    assert seen == set(SMALL)


def test_claims_take_the_order_of_their_lane_though_it_was_analysed_full_and_empty(postgres_url: str) -> None:
    with onefold.connect(postgres_url) as db:
        db.run(lambda tx: len(jobs.put_many(tx, [Waiting()] * 5_000)))
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("ANALYZE onefold.jobs_ready")
        connection.execute("DELETE FROM onefold.jobs_ready")
        connection.execute("ANALYZE onefold.jobs_ready")
        set_up(connection)
        assert sorts(connection) == 0
        connection.execute("SET enable_bitmapscan = on")
        assert sorts(connection) > 0, "what it is off for"


def sorts(connection: psycopg.Connection[Any]) -> int:
    return sum(node["Node Type"] == "Sort" for node in plan_on_postgres(connection, CLAIM_POSTGRES))
