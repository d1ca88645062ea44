"""Pages of jobs: in order, whole, and never more read for one than its limit, however few of many fit."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from jobs_ground import Mail, Other, claim, hire

import onefold
from onefold import Database, Page, Tx, jobs
from onefold.engine.sql import compile_statement
from onefold.messaging.jobs.survey import LOOKED_MAX

CROWD = 100_000
BOUND = 6 * LOOKED_MAX  # Each is looked at twice, and what is answered costs SQLite some steps more.
_COLUMNS = "space, id, kind, queue, priority, args, attempt, failures, attempts_max, put_at_ms"
_OF_STATE = {
    "scheduled": ("space_name, at_ms", "'', 1"), "dead": ("space_name, died_at_ms", "'', 1"),
    "done": ("done_at_ms, expires_at_ms", "1, 1"),
}  # fmt: skip


def crowd(tx: Tx, state: str) -> None:
    """A hundred thousand of one kind, in no time; those that are done wait to be swept."""
    columns, values = _OF_STATE[state]
    tx.run(
        f"""INSERT INTO onefold.jobs_{state} ({_COLUMNS}, {columns})
            WITH RECURSIVE n (i) AS (SELECT CAST(0 AS BIGINT) UNION ALL SELECT i + 1 FROM n WHERE i < :most - 1)
            SELECT :space, 'job_' || CAST(1000000 + i AS TEXT), 'crowd', 'default', 0, :args, 1, 0, 1, 1, {values}
            FROM n""",  # type: ignore[arg-type]
        most=CROWD, args="{}",
    )  # fmt: skip


class Looking:
    """A `tx` that says how many rows its texts look at."""

    def __init__(self, tx: Tx, count: Callable[[Tx, str, dict[str, Any]], int]) -> None:
        self._tx, self._count = tx, count
        self.looked = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tx, name)

    def one(self, sql: str, **parameters: Any) -> Any:
        """Count, then do it."""
        self.looked += self._count(self._tx, sql, parameters)
        return self._tx.one(sql, **parameters)  # type: ignore[arg-type]

    def all(self, sql: str, **parameters: Any) -> Any:
        """Count, then do it."""
        self.looked += self._count(self._tx, sql, parameters)
        return self._tx.all(sql, **parameters)  # type: ignore[arg-type]


def by_its_plan(tx: Tx, sql: str, parameters: dict[str, Any]) -> int:
    """PostgreSQL says it itself."""
    (line,) = tx.all("EXPLAIN (ANALYZE, BUFFERS OFF, TIMING OFF, FORMAT JSON) " + sql, **parameters)  # type: ignore[arg-type]
    plans = [(json.loads(line[0]) if isinstance(line[0], str) else line[0])[0]["Plan"]]
    looked = 0
    while plans:
        node = plans.pop()
        plans += node.get("Plans", ())
        if "Scan" in node["Node Type"] and "Relation Name" in node:
            looked += int((node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"])
    return looked


@contextlib.contextmanager
def by_its_steps(path: str) -> Iterator[Callable[[Tx, str, dict[str, Any]], int]]:
    """SQLite counts the steps of its machine; how many a row takes is seen from a walk through all."""
    steps = 0

    def stepped() -> int:
        nonlocal steps
        steps += 1
        return 0

    with contextlib.closing(sqlite3.connect(path)) as connection:

        def taken(sql: str, parameters: dict[str, Any], space: int, now_ms: int) -> int:
            nonlocal steps
            statement = compile_statement(sql, "sqlite")
            bound = {"space": space, "now_ms": now_ms, **parameters}
            connection.set_progress_handler(stepped, 1)
            steps = 0
            connection.execute(statement.text, [bound[name] for name in statement.parameters]).fetchall()
            connection.set_progress_handler(None, 0)
            return steps

        def count(tx: Tx, sql: str, parameters: dict[str, Any]) -> int:
            walk = "SELECT count(*) FROM onefold.jobs_scheduled WHERE space = :space AND kind = :kind"
            a_row = taken(walk, {"kind": "none"}, tx.space, tx.now_ms) / CROWD
            return int(taken(sql, parameters, tx.space, tx.now_ms) / a_row)

        yield count


def looks(db: Database, url: str, fn: Callable[..., Any], *arguments: Any, **which: Any) -> tuple[int, Any]:
    """How many rows an answer cost, and the answer."""
    with contextlib.ExitStack() as stack:
        count = by_its_plan if db.dialect == "postgres" else stack.enter_context(by_its_steps(url))

        def look(tx: Tx) -> tuple[int, Any]:
            looking = Looking(tx, count)
            answer = fn(looking, *arguments, **which)
            return looking.looked, answer

        return db.run(look)


def test_no_page_looks_at_more_than_its_limit(db_url: str) -> None:
    """One looks twice at most: for where the page ends, and for what is on it."""
    with onefold.connect(db_url) as db:
        db.run(crowd, "scheduled")

        def page(**which: Any) -> tuple[int, Page[jobs.Job]]:
            return looks(db, db_url, jobs.list_jobs, state="scheduled", **which)

        looked, none = page(kind="none")
        assert LOOKED_MAX / 2 < looked < BOUND
        assert (none.items, none.after) == ([], f"job_{1_000_000 + LOOKED_MAX - 1}")
        looked, some = page(kind="crowd", after=none.after, limit=10)
        assert (len(some.items), looked < BOUND) == (10, True)
        assert page(limit=10)[0] < 100
        assert looks(db, db_url, jobs.glance, "scheduled", kind="none")[0] < BOUND
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("onefold.messaging.jobs.listing.LOOKED_MAX", CROWD)
            assert page(kind="none")[0] > CROWD / 2, "a walk is seen"


def test_an_index_finds_the_dead_of_a_kind_and_what_is_over_is_walked_past_in_pages(db_url: str) -> None:
    with onefold.connect(db_url) as db:
        db.run(lambda tx: [crowd(tx, state) for state in ("scheduled", "dead", "done")])  # What a row takes: see above.
        for fn, arguments, which in (
            (jobs.list_jobs, (), {"state": "dead", "kind": "none"}),
            (jobs.list_jobs, (), {"state": "dead", "kind": "crowd", "limit": 10}),
            (jobs.glance, ("dead",), {"kind": "none"}),
            (jobs.failure_groups, (), {"kind": "none"}),
            (jobs.preview_dead, ("none",), {}),
            (jobs.preview_dead, ("none",), {"fingerprint": "0" * 16}),
        ):
            assert looks(db, db_url, fn, *arguments, **which)[0] < 100, (fn.__name__, which)
        assert looks(db, db_url, jobs.failure_groups, kind="crowd")[0] < BOUND
        for which in ({}, {"kind": "none"}):  # Past their time and not swept yet: none fits.
            looked, page = looks(db, db_url, jobs.list_jobs, state="done", **which)
            assert (page.items, looked < BOUND) == ([], True)


def test_pages_of_a_kind_go_on_to_the_last(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onefold.messaging.jobs.listing.LOOKED_MAX", 3)
    wanted = {"ready": db.run(lambda tx: [jobs.put(tx, kind()) for kind in (Other, Mail, Mail, Mail, Mail, Mail, Other, Mail)])}
    wanted["scheduled"] = db.run(lambda tx: [jobs.put(tx, kind(), delay_ms=9) for kind in (Mail, Mail, Mail, Other)])
    wanted["running"] = [*wanted["ready"][1:6], wanted["ready"][7]]
    for state, kind in (("ready", "mail.send"), ("ready", "other.thing"), ("scheduled", "other.thing"), ("scheduled", "none")):
        found, pages = listed(db, state, kind, limit=2)
        assert [job.id for job in found] == [
            one for one in wanted[state] if db.run(jobs.get, one).kind == kind
        ], (state, kind)
        assert all(len(page) <= 2 for page in pages)
    hire(db, "w1")
    claim(db)
    assert [job.id for job in listed(db, "running", "mail.send", limit=100)[0]] == wanted["running"]
    assert listed(db, "running", "other.thing", limit=100)[0] == []


def listed(db: Database, state: Any, kind: str, *, limit: int) -> tuple[list[jobs.Job], list[list[jobs.Job]]]:
    pages: list[list[jobs.Job]] = []
    after = None
    while True:
        page = db.reader().run(jobs.list_jobs, state=state, kind=kind, after=after, limit=limit)
        pages.append(page.items)
        if (after := page.after) is None:
            return [job for items in pages for job in items], pages
