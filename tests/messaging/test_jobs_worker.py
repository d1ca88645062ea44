"""The worker on both engines: handlers of every colour, retries, timeouts, cancels, drains."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest
from jobs_ground import Mail, Other, Report, auntil, effect, effects, rows, states, until

import onefold
from onefold import Conflict, Database, Invalid, Tx, jobs
from onefold.messaging.jobs.service import Service


@jobs.kind("quick.retry", attempts=3, backoff_ms=1)
class QuickRetry(msgspec.Struct, frozen=True):
    pass


@jobs.kind("short.time", attempts=1, timeout_ms=50)
class ShortTime(msgspec.Struct, frozen=True):
    pass


@pytest.fixture
def live(db_url: str):
    """A database whose time passes by itself; without rehearsal, as programs run."""
    with onefold.connect(db_url) as database:
        yield database


def put(db: Database, *args: Any, **options: Any) -> str:
    job_id = db.run(jobs.put, *args, **options)
    assert job_id is not None
    return job_id


def state_of(db: Database, job_id: str) -> str:
    return db.run(jobs.get, job_id).state


def settled(db: Database) -> Callable[[], bool]:
    return lambda: not {"ready", "running", "scheduled"} & set(states(db))


def serve(worker: jobs.Worker, condition: Callable[[], Any], during: Callable[[], Any] | None = None) -> None:
    async def scenario() -> None:
        async with worker:
            if during is not None:
                await asyncio.to_thread(during)
            await auntil(condition)

    asyncio.run(scenario())


def test_handlers_of_every_colour_run_and_finish(db: Database) -> None:
    seen: list[str] = []

    async def mail(job: jobs.Run[Mail]) -> None:
        seen.append(job.args.to)
        await job.run(effect, "mail.run")
        await job.finish(effect, "mail")

    def report(job: jobs.ThreadRun[Report]) -> None:
        job.run(effect, "report.run")
        job.finish(effect, f"report/{job.args.number}")

    def other(tx: Tx, args: Other) -> None:
        assert args == Other()
        effect(tx, "other")

    put(db, Mail(to="bo"))
    put(db, Report(number=4))
    put(db, Other())
    worker = jobs.Worker(db, io={Mail: mail, Report: report}, tx={Other: other}, queues=("default", "others"))
    serve(worker, lambda: states(db) == {"done": 1})
    assert seen == ["bo"]
    assert [effects(db, key) for key in ("mail", "mail.run", "report/4", "report.run", "other")] == [1] * 5
    assert rows(db, "jobs_workers") == 0


def test_a_handler_that_returns_has_finished(db: Database) -> None:
    async def mail(job: jobs.Run[Mail]) -> None:
        assert job.attempt == 1
        assert 0 < job.left_s <= 30

    put(db, Mail())
    serve(jobs.Worker(db, io={Mail: mail, Other: lambda job: None}), settled(db))
    assert states(db) == {}


def test_jobs_run_in_the_spaces_in_which_they_were_put(db: Database) -> None:
    async def mail(job: jobs.Run[Mail]) -> None:
        await job.finish(effect, f"{job.args.to}/{job.space_name}")

    for name in ("t1", "t2"):
        db.at(name).run(jobs.put, Mail(to="x"))
    serve(jobs.Worker(db, io={Mail: mail}), lambda: rows(db, "jobs_ready") + rows(db, "jobs_running") == 0)
    assert effects(db.at("t1"), "x/t1") == 1
    assert effects(db.at("t2"), "x/t2") == 1
    assert effects(db, "x/t1") == 0


def test_a_worker_of_one_space_leaves_the_others_alone(db: Database) -> None:
    async def mail(job: jobs.Run[Mail]) -> None:
        await job.finish(effect, "e")

    db.at("mine").run(jobs.put, Mail())
    other = db.at("other").run(jobs.put, Mail())
    serve(jobs.Worker(db, io={Mail: mail}, space="mine"), lambda: effects(db.at("mine"), "e") == 1)
    assert db.at("other").run(jobs.get, other).state == "ready"


def test_a_raising_handler_is_tried_again_then_dead(live: Database) -> None:
    tries: list[int] = []

    async def fails(job: jobs.Run[QuickRetry]) -> None:
        tries.append(job.failures)
        await job.run(effect, "tried")
        raise ValueError("no luck")

    job_id = put(live, QuickRetry())
    serve(jobs.Worker(live, io={QuickRetry: fails}, poll_ms=20), settled(live))
    assert tries == [0, 1, 2]
    assert effects(live, "tried") == 3
    job = live.run(jobs.get, job_id)
    assert job.state == "dead"
    assert job.error is not None
    assert job.error.startswith("ValueError: no luck (")


class Mute(Exception):
    def __str__(self) -> str:
        raise LookupError


def test_no_error_is_too_odd_to_end_an_attempt(live: Database) -> None:
    raised = [FileNotFoundError("/in/\udcff\0.csv"), Mute(), jobs.Cancel("no /in/\udcff.csv")]
    errors: list[str | None] = []

    async def fails(job: jobs.Run[QuickRetry]) -> None:
        errors.append((await asyncio.to_thread(live.run, jobs.get, job.id)).error)
        raise raised.pop(0)

    job_id = put(live, QuickRetry())
    serve(jobs.Worker(live, io={QuickRetry: fails}, poll_ms=20), settled(live))
    job = live.run(jobs.get, job_id)
    assert (job.state, job.error) == ("dead", "given up by its handler: no /in/?.csv")
    assert errors[0] is None
    assert str(errors[1]).startswith("FileNotFoundError: /in/?.csv (")
    assert str(errors[2]).startswith("Mute (")


@pytest.mark.parametrize("where", ["async", "plain", "plain, outside run", "effect"])
def test_a_stop_iteration_fails_the_attempt_and_hangs_nobody(live: Database, where: str) -> None:
    """Neither a future nor a coroutine takes this error as it is."""

    def stops(tx: Tx, _args: QuickRetry | None = None) -> None:
        effect(tx, "stopped")
        next(iter(()))

    async def in_a_task(job: jobs.Run[QuickRetry]) -> None:
        await job.run(stops)

    def in_a_thread(job: jobs.ThreadRun[QuickRetry]) -> None:
        if where == "plain":
            job.run(stops)
        next(iter(()))

    job_id = put(live, QuickRetry())
    io = {"async": {QuickRetry: in_a_task}, "effect": {}}.get(where, {QuickRetry: in_a_thread})
    worker = jobs.Worker(live, io=io, tx={QuickRetry: stops} if where == "effect" else {}, poll_ms=20)
    serve(worker, settled(live))
    job = live.run(jobs.get, job_id)
    assert (job.state, job.failures) == ("dead", 3)
    assert job.error is not None
    assert "StopIteration" in job.error
    assert effects(live, "stopped") == 0


def test_a_failing_effect_leaves_nothing_behind(live: Database) -> None:
    def post(tx: Tx, args: QuickRetry) -> None:
        effect(tx, "posted")
        raise Conflict("Not today.")

    job_id = put(live, QuickRetry())
    serve(jobs.Worker(live, tx={QuickRetry: post}, poll_ms=20), settled(live))
    assert effects(live, "posted") == 0
    assert state_of(live, job_id) == "dead"


def test_snooze_and_cancel_are_words_of_the_handler(live: Database) -> None:
    turns: list[int] = []

    async def mail(job: jobs.Run[Mail]) -> None:
        turns.append(job.failures)
        if len(turns) < 3:
            raise jobs.Snooze(after_ms=1)
        raise jobs.Cancel("no such address")

    job_id = put(live, Mail())
    serve(jobs.Worker(live, io={Mail: mail}, poll_ms=20), settled(live))
    assert turns == [0, 0, 0]
    job = live.run(jobs.get, job_id)
    assert (job.state, job.attempt) == ("dead", 3)
    assert job.error == "given up by its handler: no such address"


def test_what_one_attempt_saves_the_next_one_has(live: Database) -> None:
    saved: list[Any] = []

    def work(job: jobs.ThreadRun[QuickRetry]) -> None:
        saved.append(job.saved)
        job.save({"page": job.attempt})
        if job.attempt == 1:
            raise OSError("pulled the plug")

    put(live, QuickRetry())
    serve(jobs.Worker(live, io={QuickRetry: work}, poll_ms=20), settled(live))
    assert saved == [None, {"page": 1}]


def test_an_async_handler_past_its_time_is_cancelled_and_failed(live: Database) -> None:
    ended = threading.Event()

    async def hangs(job: jobs.Run[ShortTime]) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    job_id = put(live, ShortTime())
    serve(jobs.Worker(live, io={ShortTime: hangs}), settled(live))
    assert ended.is_set()
    job = live.run(jobs.get, job_id)
    assert job.state == "dead"
    assert job.error == "timed out after 50 ms"


def test_each_handler_is_stopped_at_its_own_time(live: Database) -> None:
    """However long the others may take that began before it, and when one was stopped already."""
    stopped: list[int] = []
    release = asyncio.Event()

    async def waits(job: jobs.Run[Mail]) -> None:
        await release.wait()

    async def hangs(job: jobs.Run[ShortTime]) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append(job.attempt)

    async def scenario() -> None:
        async with jobs.Worker(live, io={Mail: waits, ShortTime: hangs}):
            mail = await live.arun(jobs.put, Mail())
            await auntil(lambda: state_of(live, mail) == "running")
            for count in (1, 2):
                await live.arun(jobs.put, ShortTime())
                await auntil(lambda count=count: len(stopped) == count)
            assert state_of(live, mail) == "running"
            release.set()
            await auntil(settled(live))

    asyncio.run(scenario())
    assert states(live) == {"dead": 2}


def test_a_thread_past_its_time_has_lost_its_job(live: Database) -> None:
    go_on, refused = threading.Event(), threading.Event()

    def hangs(job: jobs.ThreadRun[ShortTime]) -> None:
        go_on.wait(20)
        try:
            job.finish(effect, "late")
        except Conflict:
            refused.set()

    job_id = put(live, ShortTime())

    async def scenario() -> None:
        async with jobs.Worker(live, io={ShortTime: hangs}):
            await auntil(lambda: states(live) == {"dead": 1})
            go_on.set()
            await auntil(refused.is_set)

    asyncio.run(scenario())
    assert effects(live, "late") == 0
    assert state_of(live, job_id) == "dead"


def test_cancelling_stops_a_running_handler(live: Database) -> None:
    started, stopped = threading.Event(), threading.Event()

    async def hangs(job: jobs.Run[Mail]) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            stopped.set()
            raise

    job_id = put(live, Mail())

    async def scenario() -> None:
        async with jobs.Worker(live, io={Mail: hangs}, lease_ms=60_000):
            await auntil(started.is_set)
            assert live.run(jobs.cancel, job_id) == "running"
            await auntil(stopped.is_set)

    asyncio.run(scenario())
    assert states(live) == {}


def test_unknown_kinds_wait_for_a_worker_that_knows_them(live: Database) -> None:
    async def done(job: jobs.Run[Any]) -> None:
        await job.finish(effect, "done")

    stranger = put(live, QuickRetry())
    known = [put(live, Mail()) for _ in range(20)]
    serve(jobs.Worker(live, io={Mail: done}), lambda: effects(live, "done") == len(known))
    assert state_of(live, stranger) == "ready"
    serve(jobs.Worker(live, io={QuickRetry: done}), lambda: effects(live, "done") == len(known) + 1)
    assert states(live) == {}


def test_a_resumed_queue_is_served_at_once(live: Database) -> None:
    async def mail(job: jobs.Run[Mail]) -> None:
        await job.finish(effect, job.args.to)

    live.run(jobs.pause, "default")
    first = put(live, Mail(to="first"))
    live.at("free").run(jobs.put, Mail(to="free"))

    async def scenario() -> None:
        async with jobs.Worker(live, io={Mail: mail}, poll_ms=60_000):
            await auntil(lambda: effects(live.at("free"), "free") == 1)
            assert state_of(live, first) == "ready"
            live.run(jobs.resume, "default")
            await auntil(lambda: effects(live, "first") == 1)

    asyncio.run(scenario())


def test_a_payload_of_an_older_shape_is_upgraded(live: Database) -> None:
    @jobs.kind("shape", attempts=1)
    class Old(msgspec.Struct, frozen=True):
        name: str

    @jobs.kind("shape", attempts=1, upgrade=lambda fields: {"names": [fields["name"]]})
    class New(msgspec.Struct, frozen=True):
        names: list[str]
        loud: bool = False

    got: list[New] = []

    async def new(job: jobs.Run[New]) -> None:
        got.append(job.args)

    put(live, Old(name="ana"))
    put(live, New(names=["bo"], loud=True))
    serve(jobs.Worker(live, io={New: new}), settled(live))
    assert sorted(got, key=lambda n: n.names) == [New(names=["ana"]), New(names=["bo"], loud=True)]
    put(live, New(names=[]))
    serve(jobs.Worker(live, io={Old: lambda job: None}), lambda: states(live) == {"dead": 1})
    (dead,) = live.run(jobs.list_jobs, state="dead").items
    assert dead.error is not None
    assert "does not fit" in dead.error


@pytest.mark.parametrize("concurrency", [1, 3])
def test_no_more_run_at_once_than_allowed(live: Database, concurrency: int) -> None:
    running: list[int] = [0, 0]

    async def mail(job: jobs.Run[Mail]) -> None:
        running[0] += 1
        running[1] = max(running)
        await asyncio.sleep(0)
        await job.finish(effect, "e")
        running[0] -= 1

    live.run(lambda tx: len(jobs.put_many(tx, [Mail()] * 60)))
    serve(jobs.Worker(live, io={Mail: mail}, concurrency=concurrency), settled(live))
    assert running == [0, concurrency]
    assert effects(live, "e") == 60


def test_a_put_wakes_the_worker(live: Database) -> None:
    """With a poll of a minute only the wake-up can be it; also from another connection."""
    ran = threading.Event()

    async def mail(job: jobs.Run[Mail]) -> None:
        ran.set()

    async def scenario() -> None:
        async with jobs.Worker(live, io={Mail: mail}, poll_ms=60_000):
            await auntil(lambda: rows(live, "jobs_workers") == 1)
            for _ in range(5):
                ran.clear()
                await live.arun(jobs.put, Mail())
                await auntil(ran.is_set)

    asyncio.run(scenario())


def test_a_delayed_job_starts_when_it_is_due_not_at_the_next_poll(live: Database) -> None:
    ran = threading.Event()

    async def mail(job: jobs.Run[Mail]) -> None:
        ran.set()

    async def scenario() -> None:
        async with jobs.Worker(live, io={Mail: mail}, poll_ms=60_000):
            put(live, Mail(), delay_ms=50)
            await auntil(ran.is_set)

    asyncio.run(scenario())


def test_a_drain_lets_what_runs_end_and_hands_back_the_rest(
    live: Database, threads: ThreadPoolExecutor
) -> None:
    started, go_on = threading.Event(), threading.Event()

    async def mail(job: jobs.Run[Mail]) -> None:
        started.set()
        await asyncio.to_thread(go_on.wait, 20)
        await job.finish(effect, "e")

    live.run(lambda tx: len(jobs.put_many(tx, [Mail()] * 5)))
    worker = jobs.Worker(live, io={Mail: mail}, concurrency=2).start()
    assert started.wait(20)
    until(lambda: worker.numbers()["jobs.running"] == 2)
    stopped = threads.submit(worker.stop)  # Once: a second request would hurry.
    go_on.set()
    stopped.result(60)
    assert effects(live, "e") == 2
    assert states(live) == {"ready": 3}
    assert rows(live, "jobs_workers") == 0


def test_what_does_not_end_in_the_drain_is_handed_back_uncounted(live: Database) -> None:
    started = threading.Event()

    async def mail(job: jobs.Run[Mail]) -> None:
        started.set()
        await asyncio.Event().wait()

    job_id = put(live, Mail())
    worker = jobs.Worker(live, io={Mail: mail}, drain_ms=10).start()
    assert started.wait(20)
    worker.stop()
    job = live.run(jobs.get, job_id)
    assert (job.state, job.failures, job.attempt) == ("ready", 0, 1)


def test_a_worker_can_be_started_again_but_not_twice(live: Database) -> None:
    async def mail(job: jobs.Run[Mail]) -> None:
        await job.finish(effect, "e")

    worker = jobs.Worker(live, io={Mail: mail})
    for turn in (1, 2):
        put(live, Mail())
        with worker:
            with pytest.raises(Invalid):
                worker.start()
            until(lambda turn=turn: effects(live, "e") == turn)
    assert worker.numbers() == {}


def test_a_worker_that_was_given_up_enlists_anew(live: Database) -> None:
    """Its row is gone, as after a long stall: the next claim is refused, and the one after works."""
    ran: list[str] = []

    async def mail(job: jobs.Run[Mail]) -> None:
        ran.append(job.id)

    async def scenario() -> None:
        async with jobs.Worker(live, io={Mail: mail}, poll_ms=20):
            await auntil(lambda: rows(live, "jobs_workers") == 1)
            live.run(lambda tx: tx.run("DELETE FROM onefold.jobs_workers -- all spaces"))
            job_id = put(live, Mail())
            await auntil(lambda: ran == [job_id])
            await auntil(lambda: rows(live, "jobs_workers") == 1)

    asyncio.run(scenario())


def test_a_handler_whose_lease_went_to_others_is_stopped(live: Database) -> None:
    stopped, started = threading.Event(), threading.Event()
    attempts: list[int] = []

    async def mail(job: jobs.Run[QuickRetry]) -> None:
        attempts.append(job.attempt)
        if job.attempt > 1:
            await job.finish(effect, "e")
            return
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    def expire(tx: Tx) -> None:
        tx.run("UPDATE onefold.jobs_workers SET expires_at_ms = 0 -- all spaces")

    put(live, QuickRetry())

    async def scenario() -> None:
        async with jobs.Worker(live, io={QuickRetry: mail}, poll_ms=20, lease_ms=1_000):
            await auntil(started.is_set)
            live.run(expire)
            live.options(isolation="read_committed").run(jobs.rescue)
            await auntil(lambda: effects(live, "e") == 1)
            await auntil(stopped.is_set)

    asyncio.run(scenario())
    assert attempts == [1, 2]
    assert states(live) == {}


def test_a_handler_that_blocks_the_loop_keeps_its_lease_and_loses_its_job(
    live: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The heartbeat has a thread of its own; so has the end of an attempt's time."""
    monkeypatch.setattr("onefold.messaging.jobs.service.OVERDUE_S", 0.01)
    go_on, started = threading.Event(), threading.Event()
    refused: list[str] = []

    async def blocks(job: jobs.Run[ShortTime]) -> None:
        started.set()
        go_on.wait(20)
        try:
            await job.finish(effect, "late")
        except Conflict as error:
            refused.append(error.code)

    job_id = put(live, ShortTime())
    worker = jobs.Worker(live, io={ShortTime: blocks}, poll_ms=20).start()
    try:
        assert started.wait(20)
        until(lambda: state_of(live, job_id) == "dead")
    finally:
        go_on.set()
        worker.stop()
    assert effects(live, "late") == 0


def test_run_until_stopped_drains_on_sigterm(live: Database) -> None:
    async def mail(job: jobs.Run[Mail]) -> None:
        await job.finish(effect, "e")
        signal.raise_signal(signal.SIGTERM)

    put(live, Mail())
    asyncio.run(asyncio.wait_for(jobs.Worker(live, io={Mail: mail}).run_until_stopped(), 30))
    assert effects(live, "e") == 1
    assert rows(live, "jobs_workers") == 0


def test_a_second_signal_ends_the_drain(live: Database) -> None:
    async def mail(job: jobs.Run[Mail]) -> None:
        signal.raise_signal(signal.SIGTERM)
        await auntil(lambda: worker.numbers() == {})  # The drain has begun.
        signal.raise_signal(signal.SIGTERM)
        await asyncio.Event().wait()

    job_id = put(live, Mail())
    worker = jobs.Worker(live, io={Mail: mail}, drain_ms=600_000)
    asyncio.run(asyncio.wait_for(worker.run_until_stopped(), 30))
    assert (state_of(live, job_id), live.run(jobs.get, job_id).failures) == ("ready", 0)


def test_a_crowd_of_jobs_each_has_its_effect_once(live: Database) -> None:
    async def mail(job: jobs.Run[Mail]) -> None:
        await job.finish(effect, job.args.to)

    def other(tx: Tx, args: Other) -> None:
        effect(tx, "other")

    live.run(lambda tx: len(jobs.put_many(tx, [Mail(to=str(n)) for n in range(300)])))
    live.run(lambda tx: len(jobs.put_many(tx, [Other()] * 300, queue="default")))
    workers = [jobs.Worker(live, io={Mail: mail}, tx={Other: other}, concurrency=8).start() for _ in range(3)]
    until(settled(live))
    for worker in workers:
        worker.stop()
    assert effects(live, "other") == 300
    assert [effects(live, str(n)) for n in range(300)] == [1] * 300
    assert states(live) == {}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"io": {Mail: lambda job: None}, "tx": {Mail: lambda tx, args: None}},
        {"io": {Mail: lambda job: None}, "concurrency": 0},
        {"io": {Mail: lambda job: None}, "queues": ()},
        {"io": {Mail: lambda job: None}, "queues": "default"},
        {"io": {Mail: lambda job: None}, "lease_ms": 10},
        {"io": {int: lambda job: None}},
    ],
)
def test_settings_are_checked(db: Database, settings: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        jobs.Worker(db, **settings)


def test_coroutines_are_no_effects(db: Database) -> None:
    async def effect_of_io(tx: Tx, args: Mail) -> None: ...

    with pytest.raises(Invalid, match="plain function"):
        jobs.Worker(db, tx={Mail: effect_of_io})


def test_short_jobs_are_claimed_ahead_and_long_ones_are_not(db: Database) -> None:
    service = Service(db, jobs.Worker(db, io={Mail: lambda job: None}, concurrency=10)._settings)
    service._pace_s = 0.001
    assert service._wanted() > 10
    service._pace_s = 1.0
    assert service._wanted() == 10
