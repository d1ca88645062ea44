"""A running worker: claims ahead of its slots, runs handlers, and reports how each attempt ended.

One event loop. Attempts are claimed in batches while others run, so that claims and completions
meet in the engine's group commit. Whatever happens to this object, the jobs are safe: their rows
say who holds them, and that ends with the lease.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import secrets
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from onefold.core.errors import Conflict, Doomed, Invalid, OnefoldError
from onefold.core.said import message_of
from onefold.engine.call import DEADLINE_MS_MAX, space_of
from onefold.engine.database import Database, Handle
from onefold.engine.wake import Waiter
from onefold.messaging.jobs.attempts import CLAIM_MAX, Wanted, fail, finish_with, give_up, snooze
from onefold.messaging.jobs.keeper import Keeper
from onefold.messaging.jobs.kinds import Cancel, Kind, Snooze, decoded
from onefold.messaging.jobs.lanes import Lanes, claim_and_look
from onefold.messaging.jobs.leases import as_list, cancelled, enlist, retire
from onefold.messaging.jobs.rates import Ended, Rates
from onefold.messaging.jobs.records import Attempt
from onefold.messaging.jobs.run import Run, ThreadRun
from onefold.messaging.jobs.settings import Settings
from onefold.messaging.jobs.threads import in_thread

_log = logging.getLogger("onefold.jobs")

AHEAD_S = 0.02  # How long a claimed job may wait here for a slot; more means bigger batches of short jobs.
AHEAD_MAX = 100
LOOK_BACK_S = 30.0  # How often a claim starts at the left edge of its lanes ...
LOOK_BACK_SHARE = 0.005  # ... at most this share of the time.
SPACES_MAX = 1_000  # Handles kept.
PAUSE_S_FIRST, PAUSE_S_MAX = 0.05, 5.0
OVERDUE_S = 5.0  # How long after its time an attempt is ended from the keeper's thread.
LAST_S = 5.0  # For each of the last steps of a stop: the claim under way, cancelled handlers, the keeper, the lease.
PACE_SHARE = 0.1  # Weight of the newest job in the moving average of durations.


class Held:
    """One attempt that this worker holds."""

    __slots__ = ("attempt", "give_back", "gone", "kind", "late", "reported", "stop_at", "task", "until")

    def __init__(self, attempt: Attempt, kind: Kind) -> None:
        self.attempt = attempt
        self.kind = kind
        self.task: asyncio.Task[None] | None = None
        self.until = 0.0  # Monotonic; 0 while it waits for a slot.
        self.stop_at = math.inf  # The same while its async handler runs: when to cancel it.
        self.late = False  # It was cancelled because its time was over.
        self.gone = False  # Cancelled or given to others: nothing is left to report.
        self.give_back = False  # The worker stops: hand the job back, uncounted.
        self.reported = False  # The keeper failed it already.


class Service:
    """What runs between a worker's start and its stop; see `Worker` for the ways to do so."""

    def __init__(self, db: Database, settings: Settings) -> None:
        self._db = db
        self._settings = settings
        self._kinds = {kind.name: kind for kind in settings.kinds}
        self._own = db.at(settings.space or "").options(isolation="read_committed")
        self._handles: dict[str, tuple[Handle, Handle]] = {}
        self._lanes = Lanes(settings.queues, in_order=db.dialect == "sqlite")
        self._kind_list = as_list(self._kinds)
        self._home = None if settings.space is None else space_of(settings.space)
        self._name: str | None = None  # Under which new jobs are claimed; None: enlist first.
        self._names: set[str] = set()  # All under which jobs are held.
        self._running: set[Held] = set()
        self._waiting: deque[Held] = deque()
        self._pace_s = AHEAD_S
        self._stopping = False
        self._hurried = False
        self._timer: asyncio.TimerHandle | None = None  # One for all that runs ...
        self._timer_at = math.inf  # ... set for the first whose time is over.
        self._chores: set[asyncio.Task[None]] = set()  # Held here: a loop does not hold its tasks.
        self.counts: Counter[str] = Counter()
        self._rates = Rates(self._kinds, time.monotonic())

    # -- start and stop -----------------------------------------------------------------------

    async def start(self) -> None:
        """Enlist, then begin to claim."""
        self._loop = asyncio.get_running_loop()
        self._work = asyncio.Event()  # There may be something to claim.
        self._room = asyncio.Event()  # A slot came free.
        self._idle = asyncio.Event()  # Nothing runs.
        settings = self._settings
        await self._enlist()
        self._keeper = Keeper(
            self._own, self._db.waiter, self, lease_ms=settings.lease_ms, poll_ms=settings.poll_ms
        )
        self._keeper.start()
        self._listeners = [
            asyncio.create_task(self._listen(self._db.waiter(topic), heard))
            for topic, heard in self._topics()
        ]
        self._claimer = asyncio.create_task(self._claim_all())
        self._db.gauge_sources.append(self.numbers)

    async def stop(self, *, drain_ms: int) -> None:
        """Claim no more, let what runs end for up to `drain_ms`, hand the rest back, and retire.

        Returns within `stop_within_s(drain_ms)`, whatever handlers and the database do. What has not
        ended by then is left alone: its lease lapses, and what it tries later is refused.
        """
        self._stopping = True
        self._work.set()
        self._room.set()
        await self._end({self._claimer})
        for listener in self._listeners:
            listener.cancel()
        unstarted, self._waiting = list(self._waiting), deque()
        reports = {self._loop.create_task(self._report(held, snooze, after_ms=0)) for held in unstarted}
        await self._drain(drain_ms)
        await self._interrupt(reports)
        if self._timer is not None:
            self._timer.cancel()
        await self._end({asyncio.wrap_future(in_thread(self._keeper.stop))})
        await self._end({self._loop.create_task(self._quietly(self._own.arun(retire, n))) for n in self._names})
        if self.numbers in self._db.gauge_sources:
            self._db.gauge_sources.remove(self.numbers)

    @staticmethod
    def stop_within_s(drain_ms: int) -> float:
        """How long `stop` takes at most."""
        return drain_ms / 1_000 + 4 * LAST_S

    def leave(self) -> None:
        """Let the lease go, from another thread: a handler blocks the loop, so that `stop` cannot run there."""
        self._stopping = True
        self._keeper.stop(within_s=LAST_S)
        for name in tuple(self._names):
            try:
                self._own.options(deadline_ms=int(LAST_S * 1_000)).run(retire, name)
            except OnefoldError as error:
                _log.warning("the lease of %s lapses by itself: %s", name, error)

    def hurry(self) -> None:
        """Drain no longer."""
        self._hurried = True
        self._idle.set()

    async def _drain(self, drain_ms: int) -> None:
        if self._running and not self._hurried:
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(drain_ms / 1_000):
                    await self._idle.wait()

    async def _interrupt(self, reports: set[asyncio.Task[None]]) -> None:
        """The drain is over: cancel what still runs, hand it back, and leave alone what does not heed."""
        held = {one.task: one for one in self._running if one.task is not None}
        if held:
            _log.warning("%d jobs did not end in time and are handed back", len(held))
        for task, one in held.items():
            one.give_back = True
            task.cancel()
        for task in await self._end({*held, *reports}):
            if (one := held.get(task)) is not None:
                _log.error("a handler of %s swallows its cancellation and is left alone", one.kind.name)
                one.gone = True
                # Or `asyncio.run` would wait for it for ever, after its own cancelling.
                asyncio._unregister_task(task)

    async def _end(self, futures: set[Any]) -> set[Any]:
        """Give these `LAST_S` to end; answer those that did not, cancelled and no longer waited for."""
        left: set[Any] = (await asyncio.wait(futures, timeout=LAST_S))[1] if futures else set()
        for future in left:
            future.cancel()
        return left

    def numbers(self) -> dict[str, float]:
        """What the worker did and does."""
        found = {f"jobs.{name}": float(count) for name, count in self.counts.items()}
        return {**found, "jobs.running": float(len(self._running)), "jobs.ahead": float(len(self._waiting))}

    async def _enlist(self) -> None:
        settings = self._settings
        name = f"{socket.gethostname()[:60]}-{os.getpid()}-{secrets.token_hex(6)}"
        await self._own.arun(
            enlist, name, queues=settings.queues, kinds=self._kinds, lease_ms=settings.lease_ms
        )
        self._names.add(name)
        self._name = name

    # -- wake-ups -----------------------------------------------------------------------------

    def _topics(self) -> Iterable[tuple[str, Callable[[], Any]]]:
        for queue in self._settings.queues:
            yield f"jobs/{queue}", self._work.set
        yield "jobs/resumed", self._resumed
        yield "jobs/cancels", self._ask_for_cancels

    async def _listen(self, waiter: Waiter, heard: Callable[[], Any]) -> None:
        try:
            while True:
                if await waiter.await_(self._settings.poll_ms / 1_000):
                    heard()
        finally:
            waiter.close()

    def _resumed(self) -> None:
        self._lanes.forget()
        self._work.set()

    def _ask_for_cancels(self) -> None:
        async def ask() -> None:
            for name in tuple(self._names):
                self._stop_cancelled(await self._own.arun(cancelled, name))

        if self._running or self._waiting:
            self._chore(ask())

    # -- claiming -----------------------------------------------------------------------------

    async def _claim_all(self) -> None:
        pause_s = PAUSE_S_FIRST
        look_back_at = time.monotonic() + LOOK_BACK_S
        while not self._stopping:
            wanted = self._wanted()
            if wanted <= 0:
                self._room.clear()
                await self._room.wait()
                continue
            self._work.clear()
            began = time.monotonic()
            back = began >= look_back_at
            try:
                taken = await self._claim(wanted, from_the_edge=back)
            except Exception as error:
                if not (isinstance(error, Conflict) and error.code == "worker_lost"):
                    _log.warning("claiming failed; again in %.2f s", pause_s, exc_info=error)
                self._leave_name()
                await self._rest(pause_s)
                pause_s = min(pause_s * 2, PAUSE_S_MAX)
                continue
            pause_s = PAUSE_S_FIRST
            if back:
                took = time.monotonic() - began
                look_back_at = time.monotonic() + max(LOOK_BACK_S, took / LOOK_BACK_SHARE)
            if taken < wanted and not self._stopping:
                await self._rest(self._settings.poll_ms / 1_000)

    async def _rest(self, seconds: float) -> None:
        """Until something may have come, or the time is over."""
        try:
            async with asyncio.timeout(seconds):
                await self._work.wait()
        except TimeoutError:
            return

    def _wanted(self) -> int:
        """How many to claim now: for the free slots, and ahead for slots that are free soon."""
        slots = self._settings.concurrency
        ahead = min(AHEAD_MAX, int(slots * AHEAD_S / max(self._pace_s, 1e-4)))
        held = len(self._running) + len(self._waiting)
        wanted = slots + ahead - held
        # No claim for one or two while all slots are busy and some wait: batches are cheaper.
        if held >= slots and wanted * 2 < ahead:
            return 0
        return min(wanted, CLAIM_MAX)

    async def _claim(self, wanted: int, *, from_the_edge: bool) -> int:
        if self._name is None:
            await self._enlist()
        assert self._name is not None
        lanes = self._lanes
        age = lanes.age
        lows = lanes.lows(from_the_edge=from_the_edge)
        claimed = await self._own.arun(
            claim_and_look, self._name, Wanted(self._kind_list, self._home, lows), wanted, lanes.to_look_at()
        )
        if lanes.claimed(claimed, age=age):
            self._work.set()
        self.counts["claimed"] += len(claimed.attempts)
        for attempt in claimed.attempts:
            self._waiting.append(Held(attempt, self._kinds[attempt.kind]))
        self._start_waiting()
        return len(claimed.attempts)

    def _leave_name(self) -> None:
        """What a failed claim took, if it took anything, is not known: let it be rescued.

        Jobs held under the old name keep its lease until they end.
        """
        self._name = None
        self._lanes.forget()
        self._retire_idle_names()

    def _retire_idle_names(self) -> None:
        in_use = {held.attempt.worker for held in (*self._running, *self._waiting)}
        for name in self._names - in_use - {self._name}:
            self._names.discard(name)
            self._chore(self._own.arun(retire, name))

    # -- running ------------------------------------------------------------------------------

    def _start_waiting(self) -> None:
        if self._stopping:
            return  # `stop` hands them back.
        slots = self._settings.concurrency
        while self._waiting and len(self._running) < slots:
            held = self._waiting.popleft()
            if held.gone:
                continue
            self._running.add(held)
            held.task = self._loop.create_task(self._attend(held))

    async def _attend(self, held: Held) -> None:
        """One attempt from its start to its report."""
        began = time.monotonic()
        held.until = began + held.kind.timeout_ms / 1_000
        try:
            await self._handle(held)
        except BaseException as error:
            await self._ended_in(held, error)
        finally:
            self._pace_s += (time.monotonic() - began - self._pace_s) * PACE_SHARE
            self._running.discard(held)
            self._start_waiting()
            self._room.set()
            if len(self._names) > 1:
                self._retire_idle_names()
            if not self._running:
                self._idle.set()

    async def _handle(self, held: Held) -> None:
        kind, attempt = held.kind, held.attempt
        args = decoded(kind, attempt.args)
        composed, plain = self._handles_of(attempt.space_name)
        if (effect := self._settings.tx.get(kind.cls)) is not None:
            deadline_ms = min(kind.timeout_ms, DEADLINE_MS_MAX)
            await composed.options(deadline_ms=deadline_ms).arun(finish_with, attempt, kind.keep_done_ms, effect, args)
            self._finished(kind)
            return
        handler = self._settings.io[kind.cls]
        if kind.cls in self._settings.threaded:
            await self._in_thread(held, handler, args)
            return
        run = Run(
            attempt, args, composed=composed, plain=plain, keep_done_ms=kind.keep_done_ms, timeout_ms=kind.timeout_ms
        )
        self._time(held)
        try:
            await handler(run)
            if not run.finished:
                await run.finish()
        except asyncio.CancelledError:
            if not self._only_late(held):
                raise
            if not run.finished:
                raise _OutOfTime(kind) from None
        except Exception as error:
            if not run.finished:
                raise
            _log.warning("a handler of %s failed after its job was finished", kind.name, exc_info=error)
        finally:
            held.stop_at = math.inf
            if run.finished:
                self._finished(kind)

    # One timer instead of an `asyncio.timeout` per job: nearly all jobs end long before their time,
    # and setting and unsetting a timer costs as much as the rest of a short job's way through here.

    def _time(self, held: Held) -> None:
        """Cancel the handler that begins now when its time is over."""
        held.stop_at = held.until
        if held.until < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = held.until
            self._timer = self._loop.call_later(held.until - time.monotonic(), self._stop_late)

    def _stop_late(self) -> None:
        self._timer, self._timer_at = None, math.inf
        now = time.monotonic()
        late = [held for held in self._running if held.stop_at <= now]
        for held in late:
            held.late, held.stop_at = True, math.inf
            if held.task is not None:
                held.task.cancel()
        first = min(self._running, key=lambda held: held.stop_at, default=None)
        if first is not None and first.stop_at < math.inf:
            self._time(first)

    @staticmethod
    def _only_late(held: Held) -> bool:
        """Whether a cancelled handler was cancelled for its time alone: then its task goes on, to report."""
        return held.late and held.task is not None and not held.task.uncancel()

    async def _in_thread(self, held: Held, handler: Callable[..., Any], args: Any) -> None:
        kind = held.kind
        composed, plain = self._handles_of(held.attempt.space_name)
        run = ThreadRun(
            held.attempt, args, composed=composed, plain=plain, keep_done_ms=kind.keep_done_ms,
            timeout_ms=kind.timeout_ms,
        )  # fmt: skip

        def work() -> None:
            handler(run)
            if not run.finished:
                run.finish()

        future = asyncio.wrap_future(in_thread(work))
        future.add_done_callback(lambda done: done.cancelled() or done.exception())  # Seen, also when handed back.
        try:
            await asyncio.wait({future}, timeout=kind.timeout_ms / 1_000)
            if not future.done():
                # Nothing can stop a thread. Its attempt is over; its slot is taken until it ends.
                await self._report(held, fail, **_failure(kind, _OutOfTime(kind)))
                held.reported = True
                await asyncio.wait({future})
        finally:
            if run.finished:
                self._finished(kind)
            future.cancel()  # Nobody asks any more for one that has not ended; its loop may be gone by then.
        if (error := future.exception()) is not None and not run.finished:
            raise error

    # -- how it ended -------------------------------------------------------------------------

    def rates(self) -> dict[str, Ended]:
        """See `Kept`."""
        return self._rates.of_last_minute(time.monotonic())

    def _finished(self, kind: Kind) -> None:
        self.counts["finished"] += 1
        self._rates.finished[kind.name] += 1

    async def _ended_in(self, held: Held, error: BaseException) -> None:
        """Tell the database; an attempt that is no longer ours has nothing to tell."""
        if held.gone or held.reported:
            self.counts["lost"] += 1
        elif _is_lost(error, held.attempt):
            self.counts["lost"] += 1
            _log.info("attempt %d of job %s was no longer ours", held.attempt.attempt, held.attempt.id)
        elif held.give_back and isinstance(error, asyncio.CancelledError):
            await self._report(held, snooze, after_ms=0)
        elif isinstance(error, Snooze):
            self.counts["snoozed"] += 1
            await self._report(held, snooze, after_ms=error.after_ms)
        elif isinstance(error, Cancel):
            self.counts["given_up"] += 1
            self._rates.failed[held.kind.name] += 1
            await self._report(held, give_up, reason=error.reason)
        else:
            self.counts["failed"] += 1
            self._rates.failed[held.kind.name] += 1
            await self._report(held, fail, **_failure(held.kind, error))

    async def _report(self, held: Held, fn: Callable[..., Any], **facts: Any) -> None:
        """Write down how the attempt ended, however long the database is away.

        An attempt that nobody reports is held for ever by the living worker's lease.
        """
        _, plain = self._handles_of(held.attempt.space_name)
        pause_s = PAUSE_S_FIRST
        while not held.gone:
            try:
                await plain.arun(fn, held.attempt, **facts)
            except Conflict as error:
                if _is_lost(error, held.attempt):
                    return
                _log.warning("reporting failed; again in %.2f s", pause_s, exc_info=error)
            except Invalid as error:
                if fn is fail:
                    _log.exception("an attempt of job %s cannot be reported", held.attempt.id)
                    return
                fn, facts = fail, _failure(held.kind, error)
                continue
            except Exception as error:
                _log.warning("reporting failed; again in %.2f s", pause_s, exc_info=error)
            else:
                return
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, PAUSE_S_MAX)

    def _stop_cancelled(self, jobs: list[tuple[str, int]]) -> None:
        wanted = set(jobs)
        for held in (*self._running, *self._waiting):
            if (held.attempt.id, held.attempt.attempt) in wanted:
                self._drop(held)

    def _stop_lost(self, name: str) -> None:
        _log.warning("the lease of %s was over and its jobs went to others", name)
        self._names.discard(name)
        if self._name == name:
            self._name = None
        for held in (*self._running, *self._waiting):
            if held.attempt.worker == name:
                self._drop(held)

    def _drop(self, held: Held) -> None:
        held.gone = True
        if held.task is not None:
            held.task.cancel()

    def _handles_of(self, space_name: str) -> tuple[Handle, Handle]:
        handles = self._handles.get(space_name)
        if handles is None:
            if len(self._handles) >= SPACES_MAX:
                self._handles.clear()
            composed = self._db.at(space_name)
            handles = self._handles[space_name] = (composed, composed.options(isolation="read_committed"))
        return handles

    def _chore(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        task = self._loop.create_task(self._quietly(coroutine))
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)

    async def _quietly(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        try:
            await coroutine
        except OnefoldError as error:
            _log.warning("housekeeping failed: %s", error)

    # -- what the keeper's thread calls -----------------------------------------------------------

    def names(self) -> list[str]:
        """See `Kept.names`."""
        return list(self._names)

    def told_cancelled(self, jobs: list[tuple[str, int]]) -> None:
        """See `Kept.told_cancelled`."""
        self._loop.call_soon_threadsafe(self._stop_cancelled, jobs)

    def told_lost(self, name: str) -> None:
        """See `Kept.told_lost`."""
        self._loop.call_soon_threadsafe(self._stop_lost, name)

    def end_overdue(self) -> None:
        """See `Kept.end_overdue`. Only a blocked loop lets an attempt come this far."""
        now = time.monotonic()
        for held in tuple(self._running):
            if held.reported or held.until + OVERDUE_S > now or held.until == 0.0:
                continue
            _, plain = self._handles_of(held.attempt.space_name)
            try:
                plain.run(fail, held.attempt, **_failure(held.kind, _OutOfTime(held.kind)))
            except Conflict:
                _log.info("job %s ended just before its time was called", held.attempt.id)
            held.reported = True


class _OutOfTime(Exception):  # noqa: N818  Named as it is told.
    """The attempt took longer than its kind allows."""

    def __init__(self, kind: Kind) -> None:
        super().__init__(f"timed out after {kind.timeout_ms} ms")


def _failure(kind: Kind, error: BaseException) -> dict[str, Any]:
    """What `fail` wants to know."""
    backoff = {"backoff_ms": kind.backoff_ms, "backoff_max_ms": kind.backoff_max_ms}
    if isinstance(error, _OutOfTime):
        return {"error": str(error), **backoff}
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    where = f" ({frame.tb_frame.f_code.co_filename}:{frame.tb_lineno})" if frame else ""
    return {"error": f"{message_of(error)}{where}", **backoff}


def _is_lost(error: BaseException, attempt: Attempt) -> bool:
    if isinstance(error, Doomed) and error.__cause__ is not None:
        error = error.__cause__  # The handler's function took the refusal for an error of its own.
    return (
        isinstance(error, Conflict) and error.code == "attempt_lost"
        and error.facts.get("id") == attempt.id and error.facts.get("attempt") == attempt.attempt
    )  # fmt: skip
