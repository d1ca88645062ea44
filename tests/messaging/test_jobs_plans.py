"""How the claim is carried out: it walks its lanes in the order of their index and nothing else, however full others are."""

from __future__ import annotations

import re

from jobs_ground import Mail, claim, hire

import onefold
from onefold import Database, Tx, jobs
from onefold.messaging.jobs.attempts import CLAIM_POSTGRES, CLAIM_SQLITE
from onefold.messaging.jobs.upkeep import promote

CROWD = 20_000
VALUES = {
    "queue": "others", "kinds": ",mail.send,", "every": 1, "home": 0, "room": 10, "worker": "w",
    "low_0": 0, "low_1": 0, "low_2": 0, "low_3": 0, "low_4": 0,
}  # fmt: skip


def crowd(db: Database, count: int = CROWD) -> None:
    for _ in range(count // 5_000):
        db.run(lambda tx: len(jobs.put_many(tx, [Mail()] * 5_000)))


def explained(db: Database, prefix: str) -> str:
    def explain(tx: Tx) -> str:
        text = CLAIM_SQLITE if db.dialect == "sqlite" else CLAIM_POSTGRES
        return "\n".join(str(row) for row in tx.all(prefix + text, **VALUES))

    return db.run(explain)


def test_sqlite_walks_the_lanes_and_sorts_nothing(tmp_path) -> None:
    with onefold.connect(tmp_path / "a.db") as db:
        plan = explained(db, "EXPLAIN QUERY PLAN ")
        assert len(re.findall(r"SEARCH r USING (?:COVERING )?INDEX onefold_jobs_ready_lane \(queue=\? AND priority=\?", plan)) == 5
        assert "SEARCH onefold_jobs_ready USING INTEGER PRIMARY KEY" in plan
        assert "SCAN r" not in plan
        assert "TEMP B-TREE" not in plan


def test_postgres_walks_the_lanes_with_and_without_statistics(postgres_url: str) -> None:
    with onefold.connect(postgres_url) as db:
        crowd(db)
        for statistics in (False, True):
            if statistics:
                db.run(lambda tx: tx.run("ANALYZE onefold.jobs_ready -- all spaces"))
            plan = explained(db, "EXPLAIN ")
            assert len(re.findall(r"Index (?:Only )?Scan using onefold_jobs_ready_lane on jobs_ready r", plan)) == 5, plan
            assert "Sort" not in plan


def walked(db: Database, room: int) -> int:
    """How many rows a claim in the full lane touches, by PostgreSQL's own count."""

    def explain(tx: Tx) -> int:
        lines = tx.all("EXPLAIN (ANALYZE, BUFFERS OFF, TIMING OFF) " + CLAIM_POSTGRES, **{**VALUES, "queue": "default", "room": room})
        text = "\n".join(row[0] for row in lines)
        removed = sum(int(n) for n in re.findall(r"Rows Removed by Filter: (\d+)", text))
        return removed + sum(int(n) for n in re.findall(r"lane on jobs_ready r .*rows=(\d+)", text))

    return db.run(explain)


def test_a_claim_of_one_touches_one_of_many(postgres_url: str) -> None:
    with onefold.connect(postgres_url) as db:
        crowd(db)
        assert walked(db, 1) <= 2
        assert walked(db, 50) <= 100


def test_an_index_serves_promotion_and_rescue(tmp_path) -> None:
    texts: list[str] = []

    class Spy:
        """Collects the texts that a function would run."""

        now_ms = 0

        def all(self, sql: str, **_: object) -> list[object]:
            texts.append(sql)
            return []

        def one(self, sql: str, **_: object) -> None:
            texts.append(sql)

        def doom(self, error: BaseException) -> None:
            raise error

    promote(Spy())  # type: ignore[arg-type]
    with onefold.connect(tmp_path / "a.db") as db:
        for text in texts:
            plan = db.run(
                lambda tx, text=text: str(tx.all("EXPLAIN QUERY PLAN " + text, since_ms=0, most=1))
            )
            assert "onefold_jobs_scheduled_at" in plan
            assert "SCAN s" not in plan or "USING" in plan


def test_the_last_of_a_crowd_is_found_as_soon_as_the_first(db_url: str) -> None:
    """Nothing but what is asked for is claimed, wherever it stands."""
    with onefold.connect(db_url) as db:
        crowd(db, 5_000)
        last = db.run(jobs.put, Mail(), priority=-2)
        other = db.run(jobs.put, Mail(), queue="others")
        hire(db, "w1")
        assert [a.id for a in claim(db, room=5, queue="others")] == [other]
        taken = 0
        while taken < 5_000:
            taken += len(claim(db, room=1_000))
        assert [a.id for a in claim(db, room=5)] == [last]
