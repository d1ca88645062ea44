"""A real process on a host whose clock steps by hours: python stepped_host.py URL NAME FIRST_H STEP_H...

The host's clock is replaced at its lowest level: `time.time` and `time.time_ns` of this process,
`clock_timestamp` of the PostgreSQL server's database. Prints "done" when all that is promised held.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import msgspec
import psycopg

import onefold
from onefold import Conflict, Database, NotFound, Retry, Tx, booking, jobs, locks
from onefold.engine.postgres import pool
from onefold.messaging.jobs import keeper

sys.path.insert(0, str(Path(__file__).parents[1] / "products"))
from booking_hall import audit, open_hall

HOUR_MS = 3_600_000
WAIT_S = 30.0
ROUNDS = 4  # That each activity must get through after each step.
FENCE = "UPDATE onefold.counter_totals SET total = :token WHERE space = :space AND key = :key AND total <= :token RETURNING total"
SERVER_CLOCK = (
    "CREATE SCHEMA IF NOT EXISTS host",
    "CREATE TABLE IF NOT EXISTS host.step (ms bigint)",
    "INSERT INTO host.step SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM host.step)",
    """CREATE OR REPLACE FUNCTION host.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS
       $$ SELECT pg_catalog.clock_timestamp() + (SELECT ms FROM host.step) * interval '1 millisecond' $$""",
    """DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = host, pg_catalog, public', current_database());
       END $$""",
)


@jobs.kind("clock.job", attempts=20, backoff_ms=1)
class Job(msgspec.Struct, frozen=True):
    name: str
    waits: bool = False


def until(condition: Callable[[], object], what: str) -> None:
    give_up = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < give_up, f"{what} did not happen"
        time.sleep(0.002)


_step_ms = 0
_real_ns = time.time_ns
time.time_ns = lambda: _real_ns() + _step_ms * 1_000_000
time.time = lambda: time.time_ns() / 1e9


class Host:
    """The clock of the machine that the database lives on."""

    def __init__(self, url: str) -> None:
        self._server = psycopg.connect(url, autocommit=True) if "://" in url else None
        for sql in SERVER_CLOCK if self._server else ():
            self._server.execute(sql)

    def step_to(self, ms: int) -> None:
        global _step_ms
        if self._server:
            self._server.execute("UPDATE host.step SET ms = %s", (ms,))
        else:
            _step_ms = ms


class Work:
    """Everything at once, each in its own thread, until told to stop; counts what got done."""

    def __init__(self, db: Database, name: str) -> None:
        self.db = db
        self.name = name
        self.done = dict.fromkeys(("clock", "locks 0", "locks 1", "booking", "jobs"), 0)
        self.put = 0
        self.let_go = threading.Event()
        self._stop = threading.Event()
        self._broke: list[BaseException] = []
        self.show = db.run(open_hall, rows=6, seats=30)
        db.run(lambda tx: tx.run(
            """INSERT INTO onefold.counter_totals (space, key, total) VALUES (:space, :key, 0)
               ON CONFLICT (space, key) DO NOTHING""", key=f"fence/{name}"))  # fmt: skip
        self._threads = [threading.Thread(target=self._guarded, args=(one,)) for one in (
            self._watch, lambda: self._lock("locks 0"), lambda: self._lock("locks 1"), self._buy, self._put,
            lambda: asyncio.run(self._serve()),
        )]  # fmt: skip

    def __enter__(self) -> Work:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self.let_go.set()
        for thread in self._threads:
            thread.join(WAIT_S)
        assert not any(thread.is_alive() for thread in self._threads)

    def goes_on(self) -> None:
        """Each activity gets some rounds further."""
        before = dict(self.done)
        for what, count in before.items():
            until(lambda what=what, count=count: self._broke or self.done[what] >= count + ROUNDS, what)
        if self._broke:
            raise self._broke[0]

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self._broke.append(error)

    def _watch(self) -> None:
        last = 0
        while not self._stop.is_set():
            now = self.db.run(lambda tx: tx.now_ms)
            assert now >= last, "time went back"
            last = now
            self.done["clock"] += 1

    def _lock(self, who: str) -> None:
        def write(tx: Tx, lock: locks.Lock) -> None:
            locks.check(tx, lock)
            assert tx.one(FENCE, key=f"fence/{self.name}", token=lock.token), "a deposed holder wrote after its successor"

        while not self._stop.is_set():
            try:
                with locks.hold(self.db, f"{self.name}/shared", ttl_ms=2_000, wait_ms=20_000) as held:
                    self.db.run(write, held.lock)
            except Conflict as error:
                assert error.code == "lost", error
            else:
                self.done[who] += 1

    def _buy(self) -> None:
        kept: deque[booking.Order] = deque()
        while not self._stop.is_set():
            try:
                held = self.db.run(booking.hold_best, self.show, by="ana", count=2, ttl_ms=60_000)
                kept.append(self.db.run(booking.confirm_hold, held.id, by="ana"))
            except (NotFound, Conflict) as error:
                assert error.code in {"hold_lapsed", "hold_gone"}, error
                continue
            if len(kept) > 20:
                self.db.run(booking.cancel, kept.popleft().id)
            self.done["booking"] += 1

    def _put(self) -> None:
        for n in itertools.count():
            if self._stop.is_set():
                return
            name = f"{self.name}/{n}"
            self.db.run(jobs.put, Job(name))
            self.put = n + 1
            until(lambda name=name: self._stop.is_set() or self.effects(name), f"job {name}")
            self.done["jobs"] += 1

    async def _serve(self) -> None:
        async def handle(job: jobs.Run[Job]) -> None:
            while job.args.waits and not self.let_go.is_set():
                await asyncio.sleep(0.005)
            await job.finish(effect, job.args.name)

        async with jobs.Worker(self.db, io={Job: handle}, concurrency=4, lease_ms=1_000, poll_ms=50):
            while not self._stop.is_set():
                await asyncio.sleep(0.01)

    def effects(self, name: str) -> int:
        return self.db.run(lambda tx: tx.total(f"effect/{name}"))


def effect(tx: Tx, name: str) -> None:
    tx.add(f"effect/{name}", 1)


def forward(work: Work, host: Host, name: str, to_ms: int) -> None:
    """What is held ends early, and whoever held it is outnumbered; nothing is done twice."""
    db = work.db
    old = db.run(locks.acquire, name, owner="old", ttl_ms=60_000)
    held = db.run(booking.hold, work.show, by="bob", row=7, seats=[1], ttl_ms=60_000)
    db.run(jobs.put, Job(f"{name}/running", waits=True))
    before = db.run(lambda tx: tx.now_ms)
    host.step_to(to_ms)
    until(lambda: db.run(lambda tx: tx.now_ms) > before + HOUR_MS // 2, "the step")
    new = db.run(locks.acquire, name, owner="new", ttl_ms=60_000)
    assert new.token > old.token
    refuses(lambda: db.run(locks.check, old), "lost")
    refuses(lambda: db.run(booking.confirm_hold, held.id, by="bob"), "hold_lapsed", "hold_gone")
    taken = db.run(booking.hold, work.show, by="eve", row=7, seats=[1], ttl_ms=60_000)
    db.run(booking.release, taken.id, by="eve")
    work.let_go.set()
    until(lambda: work.effects(f"{name}/running"), "the job that ran over the step")
    work.let_go.clear()


def refuses(call: Callable[[], object], *codes: str) -> None:
    try:
        call()
    except (Conflict, NotFound) as error:
        assert error.code in codes, error
    else:
        raise AssertionError(f"not refused: {codes}")


def main(url: str, name: str, hours: list[int]) -> None:
    # What is looked at every 30 s is looked at sooner: the server's clock, and jobs due long ago.
    pool.CLOCK_AGE_NS_MAX, keeper.LOOK_BACK_S = 20_000_000, 1.0
    host = Host(url)
    host.step_to(hours[0] * HOUR_MS)
    highest = hours[0]
    waiting: list[str] = []
    with onefold.connect(url) as db:
        with Work(db, name) as work:
            work.goes_on()
            for n, hour in enumerate(hours[1:]):
                here = f"{name}/step{n}"
                if hour > highest:
                    forward(work, host, here, hour * HOUR_MS)
                else:
                    host.step_to(hour * HOUR_MS)
                highest = max(highest, hour)
                work.goes_on()
                # What waits for a time waits for the step to pass, and no longer.
                db.run(jobs.put, Job(f"{here}/delayed"), delay_ms=50)
                db.run(locks.acquire, f"{here}/dead", owner="dead", ttl_ms=500)
                waiting.append(here)
            host.step_to(highest * HOUR_MS)
            for here in waiting:
                until(lambda here=here: work.effects(f"{here}/delayed"), f"{here}/delayed")
                until(lambda here=here: takes(db, f"{here}/dead"), f"{here}/dead")
            # The next process finds this one's marks, made when it was late.
            db.run(locks.acquire, "late", owner=name, ttl_ms=500)
        for n in range(work.put):
            count = work.effects(f"{name}/{n}")
            assert count == 1 or (n == work.put - 1 and count == 0), (n, count)
        for here in waiting:
            assert work.effects(f"{here}/delayed") == 1
            assert work.effects(f"{here}/running") <= 1
        assert db.run(audit, work.show) >= 2
    print("done")


def takes(db: Database, name: str) -> bool:
    try:
        return db.run(locks.try_acquire, name, owner="heir", ttl_ms=500) is not None
    except Retry:
        return False


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], [int(hour) for hour in sys.argv[3:]])
