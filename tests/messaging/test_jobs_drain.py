"""A worker stops in its time whatever its handlers and the database do; what it leaves behind is fenced."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
from jobs_ground import age, auntil, effect, effects, loops, rows, states, until
from racing import Step

import onefold
from onefold import Conflict, Database, Invalid, Tx, jobs
from onefold.messaging.jobs import service

LAST_S = 0.2
PATIENCE_S = 5.0  # Far more than a stop may take here, far less than its handlers would.


@jobs.kind("drain.stubborn", timeout_ms=1_000, backoff_ms=1)
class Stubborn(msgspec.Struct, frozen=True):
    pass


@jobs.kind("drain.patient", timeout_ms=600_000, backoff_ms=1)
class Patient(msgspec.Struct, frozen=True):
    """Nothing but the drain ends its handler, however slow the machine is."""


@pytest.fixture
def live(db_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """A database whose time passes by itself, and stops that are short of patience."""
    monkeypatch.setattr(service, "LAST_S", LAST_S)
    with onefold.connect(db_url) as database:
        yield database


async def does_it(job: jobs.Run[Stubborn]) -> None:
    assert job.attempt > 1
    await job.finish(effect, "done")


def rescue_all(db: Database) -> None:
    while loops(db).run(jobs.rescue):
        pass


def others_do_it(db: Database, kind: type = Stubborn) -> None:
    """The lease has lapsed; another worker takes the job over and ends it."""
    age(db, 30_000)
    rescue_all(db)  # Here: what `age` locks below is passed over, and looked at again a third of a lease later.

    async def scenario() -> None:
        async with jobs.Worker(db, io={kind: does_it}, poll_ms=20):
            await auntil(lambda: age(db, 2_000) or not states(db))  # The rescued job's backoff passes.

    asyncio.run(scenario())
    assert effects(db, "done") == 1
    age(db, 30_000)  # So much time passed above that the second worker may be a silent one too.
    rescue_all(db)
    assert rows(db, "jobs_workers") == 0


@contextlib.contextmanager
def quickly() -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < PATIENCE_S


def test_a_handler_that_swallows_its_cancellation_is_left_alone_and_fenced(
    live: Database, threads: ThreadPoolExecutor
) -> None:
    refused: list[str] = []

    async def scenario() -> None:
        started, go_on, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def stubborn(job: jobs.Run[Stubborn]) -> None:
            started.set()
            while not go_on.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await go_on.wait()
            for attempt in (job.run(effect, "late"), job.finish(effect, "late"), job.save({"late": True})):
                try:
                    await attempt
                except Conflict as error:
                    refused.append(error.code)
            ended.set()

        live.run(jobs.put, Stubborn())
        async with jobs.Worker(live, io={Stubborn: stubborn}, drain_ms=10):
            await started.wait()
            stopping = time.monotonic()
        assert time.monotonic() - stopping < PATIENCE_S
        await asyncio.wrap_future(threads.submit(others_do_it, live))
        assert not ended.is_set()
        go_on.set()
        await ended.wait()

    asyncio.run(scenario())
    assert refused == ["attempt_lost"] * 3
    assert effects(live, "late") == 0
    assert states(live) == {}


def test_stop_returns_though_a_handler_never_ends(live: Database) -> None:
    """In a thread of its own: the thread ends too, so that the worker can be started again."""
    started = threading.Event()

    async def stubborn(job: jobs.Run[Stubborn]) -> None:
        started.set()
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

    live.run(jobs.put, Stubborn())
    worker = jobs.Worker(live, io={Stubborn: stubborn}, drain_ms=10).start()
    assert started.wait(20)
    with quickly():
        worker.stop()
    others_do_it(live)
    with worker:
        until(lambda: rows(live, "jobs_workers") == 1)


def test_stop_returns_though_a_plain_handler_never_ends(live: Database) -> None:
    started, go_on, ended = threading.Event(), threading.Event(), threading.Event()
    refused: list[str] = []

    def stubborn(job: jobs.ThreadRun[Stubborn]) -> None:
        started.set()
        go_on.wait(30)
        try:
            job.finish(effect, "late")
        except Conflict as error:
            refused.append(error.code)
        ended.set()

    live.run(jobs.put, Stubborn())
    worker = jobs.Worker(live, io={Stubborn: stubborn}, drain_ms=10).start()
    assert started.wait(20)
    with quickly():
        worker.stop()
    assert states(live) == {"ready": 1}  # Handed back: the job is free though its thread goes on.
    others_do_it(live)
    go_on.set()
    assert ended.wait(20)
    assert refused == ["attempt_lost"]
    assert effects(live, "late") == 0


def test_stop_returns_though_a_handler_blocks_the_loop(live: Database) -> None:
    started, go_on = threading.Event(), threading.Event()
    refused: list[str] = []

    async def blocks(job: jobs.Run[Patient]) -> None:
        started.set()
        go_on.wait(30)
        try:
            await job.finish(effect, "late")
        except Conflict as error:
            refused.append(error.code)

    live.run(jobs.put, Patient())
    worker = jobs.Worker(live, io={Patient: blocks}, drain_ms=500).start()
    assert started.wait(20)
    with quickly():
        worker.stop()
    with pytest.raises(Invalid, match="runs already"):
        worker.start()
    others_do_it(live, Patient)
    go_on.set()
    worker.stop()
    assert refused == ["attempt_lost"]
    assert effects(live, "late") == 0
    assert states(live) == {}


def test_stop_returns_though_the_database_does_not_answer(live: Database, threads: ThreadPoolExecutor) -> None:
    """What it could not hand back is free when its lease has lapsed, which nobody renews."""
    started = threading.Event()

    async def waits(job: jobs.Run[Stubborn]) -> None:
        started.set()
        await asyncio.Event().wait()

    def in_the_way(tx: Tx, step: Step) -> None:
        tx.all("SELECT id FROM onefold.jobs_running WHERE space = :space {for_update}")
        tx.all("UPDATE onefold.jobs_workers SET queues = queues WHERE space = :space RETURNING worker")
        step.stop()

    live.run(jobs.put, Stubborn())
    worker = jobs.Worker(live, io={Stubborn: waits}, drain_ms=10, lease_ms=3_600_000).start()
    assert started.wait(20)
    with Step() as step:
        held = threads.submit(live.options(isolation="read_committed").run, in_the_way, step)
        assert step.reached.wait(20)
        with quickly():
            worker.stop()
        assert states(live.reader()) == {"running": 1}
    held.result(20)
    worker.stop()
    age(live, 3_600_000)
    others_do_it(live)


PROGRAM = """
import asyncio, contextlib, sys, threading
import msgspec, onefold
from onefold import jobs
from onefold.messaging.jobs import service

service.LAST_S = 0.2

@jobs.kind("drain.program")
class Program(msgspec.Struct, frozen=True):
    pass

async def swallows(job):
    worker.request_stop()
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

def hangs(job):
    worker.request_stop()
    threading.Event().wait()

with onefold.connect(sys.argv[1]) as db:
    worker = jobs.Worker(db, io={Program: {"async": swallows, "plain": hangs}[sys.argv[2]]}, drain_ms=10)
    db.run(jobs.put, Program())
    asyncio.run(worker.run_until_stopped())
print("stopped")
"""


@pytest.mark.parametrize("colour", ["async", "plain"])
def test_a_process_ends_though_its_handler_does_not(db_url: str, colour: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, db_url, colour], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout) == (0, "stopped\n"), done.stderr


@pytest.mark.parametrize("drain_ms", [-1, 3_600_001])
def test_the_drain_has_a_range(live: Database, drain_ms: int) -> None:
    with pytest.raises(Invalid, match="out of range"):
        jobs.Worker(live, io={Stubborn: does_it}, drain_ms=drain_ms)
