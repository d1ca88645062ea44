"""Kinds and small tools that the tests of jobs share."""

from __future__ import annotations

import msgspec
from waiting import auntil, until

from onefold import Database, Handle, Tx, jobs
from onefold.messaging.jobs.attempts import Wanted
from onefold.messaging.jobs.leases import as_list, beat, cancelled, enlist, retire

WAIT_S = 30.0
LEASE_MS = 30_000
DAY_MS = 86_400_000


@jobs.kind("mail.send", attempts=3, backoff_ms=1_000, backoff_max_ms=60_000)
class Mail(msgspec.Struct, frozen=True):
    to: str = "ana"


@jobs.kind("report.make", priority=-1, keep_done_ms=DAY_MS)
class Report(msgspec.Struct, frozen=True):
    number: int = 0


@jobs.kind("other.thing", queue="others")
class Other(msgspec.Struct, frozen=True):
    pass


ALL_KINDS = ("mail.send", "report.make", "other.thing")


def loops(db: Database) -> Handle:
    """What claims and rescues run on."""
    return db.options(isolation="read_committed")


def hire(db: Database, worker: str, lease_ms: int = LEASE_MS) -> str:
    loops(db).run(enlist, worker, queues=("default", "others"), kinds=ALL_KINDS, lease_ms=lease_ms)
    return worker


def claim(
    db: Database, worker: str = "w1", room: int = 100, *, kinds: tuple[str, ...] = ALL_KINDS, queue: str = "default",
    home: int | None = None, low: int = 0,
) -> list[jobs.Attempt]:  # fmt: skip
    wanted = Wanted(as_list(kinds), home, [(queue, (low, low, low, low, low))])
    return loops(db).run(jobs.claim, worker, wanted, room=room)


def fail(db: Database, attempt: jobs.Attempt, error: str = "it broke") -> bool:
    return db.at(attempt.space_name).run(jobs.fail, attempt, error=error, backoff_ms=1_000, backoff_max_ms=60_000)


def age(db: Database, ms: int) -> None:
    """Let `ms` pass for all that waits for a time; the same on both engines, whoever has the clock."""

    def back(tx: Tx) -> None:
        tx.run("UPDATE onefold.jobs_scheduled SET at_ms = at_ms - :ms", ms=ms)
        tx.run("UPDATE onefold.jobs_workers SET expires_at_ms = expires_at_ms - :ms", ms=ms)
        tx.run("UPDATE onefold.jobs_dead SET died_at_ms = died_at_ms - :ms", ms=ms)
        tx.run("UPDATE onefold.jobs_done SET expires_at_ms = expires_at_ms - :ms", ms=ms)
        tx.run("UPDATE onefold.jobs_failures SET ended_at_ms = ended_at_ms - :ms", ms=ms)
        tx.run("UPDATE onefold.jobs_cancels SET at_ms = at_ms - :ms", ms=ms)

    db.run(back)


def promote(db: Database) -> int | None:
    return loops(db).run(jobs.promote)


def rescue_all(db: Database) -> None:
    for _ in range(50):
        if not loops(db).run(jobs.rescue):
            return
    raise AssertionError("rescue does not end")


def states(db: Database | Handle) -> dict[str, int]:
    """How many jobs are in each state."""
    found: dict[str, int] = {}
    for row in db.run(jobs.stats):
        found[row.state] = found.get(row.state, 0) + row.count
    return found


def rows(db: Database, table: str) -> int:
    def count(tx: Tx) -> int:
        row = tx.one(f"SELECT count(*) FROM onefold.{table}")  # noqa: S608
        assert row is not None
        return row[0]

    return db.run(count)


def effect(tx: Tx, key: str) -> None:
    tx.add(f"effect/{key}", 1)


def effects(db: Database | Handle, key: str) -> int:
    return db.run(lambda tx: tx.total(f"effect/{key}"))


__all__ = ["auntil", "beat", "cancelled", "retire", "until"]
