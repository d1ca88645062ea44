"""A process that does as told, one line at a time: python -m onefold.testing.skewed MS skewed_host URL.

A line is a JSON list: what, and its arguments. The answer is a JSON value, or {"refused": code}.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

import onefold
from onefold import OnefoldError, Tx, booking, jobs, locks
from onefold.messaging.jobs.attempts import Attempt, Wanted, claim, finish_with
from onefold.messaging.jobs.leases import as_list, enlist, rescue
from onefold.messaging.jobs.upkeep import promote

sys.path.insert(0, str(Path(__file__).parents[1] / "products"))
from booking_hall import audit, open_hall

TTL_MS = 60_000
KIND = "skewed.job"


@jobs.kind(KIND, backoff_ms=1)
class Job(msgspec.Struct, frozen=True):
    name: str


class Host:
    """What one process knows by itself."""

    def __init__(self, db: onefold.Database) -> None:
        self.db = db
        self.locks: dict[str, locks.Lock] = {}
        self.attempts: dict[str, Attempt] = {}
        self.workers = 0

    def clocks(self) -> list[int]:
        """The process's own, and the transaction's."""
        return [time.time_ns() // 1_000_000, self.db.run(lambda tx: tx.now_ms)]

    def lock(self, name: str, owner: str) -> int | None:
        """The token, or None where another has it."""
        lock = self.db.run(locks.try_acquire, name, owner=owner, ttl_ms=TTL_MS)
        if lock is not None:
            self.locks[name] = lock
        return lock and lock.token

    def write(self, name: str) -> None:
        """What only the holder may do."""
        self.db.run(fenced, self.locks[name])

    def open(self) -> str:
        return self.db.run(open_hall)

    def hold(self, show: str, by: str, seat: int) -> str:
        return self.db.run(booking.hold, show, by=by, row=1, seats=[seat], ttl_ms=TTL_MS).id

    def confirm(self, hold: str, by: str) -> None:
        self.db.run(booking.confirm_hold, hold, by=by)

    def sold(self, show: str) -> int:
        """How many seats, after a look at all that must be true of the hall."""
        return self.db.run(audit, show)

    def put(self, name: str, delay_ms: int) -> None:
        self.db.run(jobs.put, Job(name), delay_ms=delay_ms)

    def claim(self) -> list[str]:
        """The names of the jobs that it takes, of those that are due."""
        self.workers += 1
        worker = f"{os.getpid()}/{self.workers}"
        self.db.run(promote)
        self.db.run(enlist, worker, queues=["default"], kinds=[KIND], lease_ms=TTL_MS)
        wanted = Wanted(as_list([KIND]), None, [("default", (0, 0, 0, 0, 0))])
        got = {msgspec.json.decode(one.args)["name"]: one for one in self.db.run(claim, worker, wanted, room=10)}
        self.attempts.update(got)
        return sorted(got)

    def rescue(self) -> bool:
        return self.db.run(rescue)

    def finish(self, name: str) -> None:
        self.db.run(finish_with, self.attempts[name], 0, effect, name)

    def total(self, key: str) -> int:
        return self.db.run(lambda tx: tx.total(key))


def fenced(tx: Tx, lock: locks.Lock) -> None:
    locks.check(tx, lock)
    tx.add(f"written/{lock.token}", 1)


def effect(tx: Tx, name: str) -> None:
    tx.add(f"effect/{name}", 1)


def main(url: str) -> None:
    with onefold.connect(url) as db:
        host = Host(db)
        for line in sys.stdin:
            what, *arguments = msgspec.json.decode(line, type=list[Any])
            try:
                answer = getattr(host, what)(*arguments)
            except OnefoldError as error:
                answer = {"refused": error.code}
            print(msgspec.json.encode(answer).decode(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
