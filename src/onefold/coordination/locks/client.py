"""Holding a lock between transactions: wait for it, keep it alive, know when it is lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from onefold.coordination.locks import ops
from onefold.coordination.locks.ops import Lock
from onefold.core.errors import Conflict, Invalid, OnefoldError, Retry, Unknown
from onefold.core.loop import Loop
from onefold.engine.database import Handle
from onefold.engine.reserved import reserved
from onefold.engine.tx import Tx

_log = logging.getLogger("onefold.locks")

LOOPS = (Loop("locks.sweep", ops.sweep, every_ms=600_000),)

HOLD_TTL_MS_MIN = 300  # A heartbeat every 100 ms is as fast as it makes sense.
WAIT_MS_MAX = 3_600_000
POLL_MS = 1_000  # Wake-ups may be lost. More: a lost one is noticed later; less: more statements.
CALL_MS_MAX = 5_000  # One heartbeat or release waits no longer than this for the database.
DRIFT = 100  # Our clock and the database's may differ in rate by one part in so many.

# Of the clocks that cannot be stepped the one that goes on while the machine is suspended.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_MS = 1_000_000


def hold(
    db: Handle,
    name: str,
    *,
    owner: str | None = None,
    ttl_ms: int = 30_000,
    wait_ms: int = 0,
    on_lost: Callable[[Hold], object] | None = None,
) -> Hold:
    """Hold the lock `name` for a `with` or an `async with` block, renewed in the background.

        with locks.hold(db, "report/monthly", wait_ms=5_000) as held:
            db.run(write_report, held.lock)     # which begins with locks.check(tx, lock)

    Args:
        db: where the lock lives; `db.at(...)` for another space.
        name: see `try_acquire`.
        owner: default is a new one for this hold. Two holds of one owner count as one holder.
        ttl_ms: how long the lock outlives a dead holder, 300 to `ops.TTL_MS_MAX`; renewed after
            a third of it.
        wait_ms: how long to wait for another holder, 0 to `WAIT_MS_MAX`.
        on_lost: called once with the hold, from the heartbeat's thread or task, when it is lost.

    Raises:
        Conflict: on entering, code "held": another owner had it for all of `wait_ms`; on leaving,
            code "lost": it was taken over while the block ran (unless the block raises itself).
        Invalid: an argument is out of range.
    """
    return Hold(db, name, owner=owner, ttl_ms=ttl_ms, wait_ms=wait_ms, on_lost=on_lost)


class Hold:
    """What `hold` answers. Good for one block; for threads or for tasks, as the block is."""

    def __init__(
        self,
        db: Handle,
        name: str,
        *,
        owner: str | None,
        ttl_ms: int,
        wait_ms: int,
        on_lost: Callable[[Hold], object] | None,
    ) -> None:
        if not HOLD_TTL_MS_MIN <= ttl_ms <= ops.TTL_MS_MAX:
            raise Invalid("ttl_ms is out of range.", ttl_ms=ttl_ms, least=HOLD_TTL_MS_MIN, most=ops.TTL_MS_MAX)
        if not 0 <= wait_ms <= WAIT_MS_MAX:
            raise Invalid("wait_ms is out of range.", wait_ms=wait_ms, most=WAIT_MS_MAX)
        self._db = db
        self._name = name
        self._own_name = owner is None
        self._owner = owner or f"{os.getpid()}-{secrets.token_hex(8)}"
        self._ttl_ms = ttl_ms
        self._wait_ms = wait_ms
        self._on_lost = on_lost
        self._guard = threading.Lock()
        self._lock: Lock | None = None
        self._valid_until_ns = 0
        self._lost = False
        self._beat_at_ns = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._ended: asyncio.Event | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def lock(self) -> Lock:
        """The lock as last renewed: what to pass to `locks.check`."""
        if self._lock is None:
            raise Invalid("The hold is not entered yet; use it in a with block.", name=self._name)
        return self._lock

    def is_held(self) -> bool:
        """Whether nobody else can have the lock yet, by a clock of this machine alone.

        Once False it stays False. It is a reason to stop early, no protection: what is written
        under the lock is protected by `locks.check`.
        """
        with self._guard:
            return not self._lost and _now_ns() < self._valid_until_ns

    # -- from a thread ------------------------------------------------------------------------

    def __enter__(self) -> Self:
        """Take the lock, waiting up to `wait_ms`, and keep it alive."""
        give_up_ns = self._begin()
        waiter = self._db.waiter(f"locks/{self._name}")
        try:
            while self._lock is None:
                asked_ns = _now_ns()
                try:
                    lock = self._caller().run(ops.acquire, self._name, owner=self._owner, ttl_ms=self._ttl_ms)
                    self._won(lock, asked_ns)
                except OnefoldError as error:
                    waiter.wait(self._pause_s(error, give_up_ns))
        except KeyboardInterrupt:
            if self._own_name:
                self._db.run(ops.abandon, self._name, self._owner)
            raise
        finally:
            waiter.close()
        self._thread = threading.Thread(target=self._beat, name="onefold-hold", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the heartbeat and give the lock back."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        try:
            self._caller().run(_release, self.lock)
        except OnefoldError as refused:
            self._not_released(refused, error)

    def _beat(self) -> None:
        while not self._stop.wait(self._rest_s()):
            asked_ns = _now_ns()
            try:
                self._won(self._caller().run(_renew, self.lock, ttl_ms=self._ttl_ms), asked_ns)
            except Exception as error:
                self._not_renewed(error)
            if not self.is_held():
                self._tell()
                return

    # -- from a task --------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Take the lock, waiting up to `wait_ms`, and keep it alive."""
        give_up_ns = self._begin()
        waiter = self._db.waiter(f"locks/{self._name}")
        try:
            while self._lock is None:
                asked_ns = _now_ns()
                try:
                    lock = await self._caller().arun(ops.acquire, self._name, owner=self._owner, ttl_ms=self._ttl_ms)
                    self._won(lock, asked_ns)
                except OnefoldError as error:
                    await waiter.await_(self._pause_s(error, give_up_ns))
        except asyncio.CancelledError:
            # The engine waits for the outcome of what it began: the lock may be ours, unseen.
            if self._own_name:
                await self._db.arun(ops.abandon, self._name, self._owner)
            raise
        finally:
            waiter.close()
        self._ended = asyncio.Event()
        self._task = asyncio.create_task(self._abeat(self._ended), name="onefold-hold")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the heartbeat and give the lock back, also when the task is cancelled meanwhile."""
        refused = await asyncio.shield(asyncio.ensure_future(self._leave()))
        if refused is not None:
            self._not_released(refused, error)

    async def _leave(self) -> OnefoldError | None:
        assert self._ended is not None
        assert self._task is not None
        self._ended.set()
        try:
            await self._task
            await self._caller().arun(_release, self.lock)
        except OnefoldError as refused:
            return refused
        return None

    async def _abeat(self, ended: asyncio.Event) -> None:
        while not ended.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._rest_s()):
                    await ended.wait()
                    continue
            asked_ns = _now_ns()
            try:
                self._won(await self._caller().arun(_renew, self.lock, ttl_ms=self._ttl_ms), asked_ns)
            except Exception as error:
                self._not_renewed(error)
            if not self.is_held():
                self._tell()
                return

    # -- what both share ----------------------------------------------------------------------

    def _begin(self) -> int:
        if self._beat_at_ns:
            raise Invalid("A hold is good for one block; make a new one.", name=self._name)
        self._beat_at_ns = _now_ns()
        return self._beat_at_ns + self._wait_ms * _MS

    def _caller(self) -> Handle:
        """No call outlives what it is for: a third of the time to live, five seconds at most."""
        return self._db.options(deadline_ms=min(CALL_MS_MAX, self._ttl_ms // 3))

    def _won(self, lock: Lock, asked_ns: int) -> None:
        """Taken or renewed. The time counts from before the request left, however late the answer."""
        with self._guard:
            if self._valid_until_ns and (self._lost or _now_ns() >= self._valid_until_ns):
                return  # Somebody may have been told that it is lost: there is no way back.
            self._lock = lock
            self._beat_at_ns = asked_ns + self._ttl_ms * _MS // 3
            self._valid_until_ns = asked_ns + (self._ttl_ms - self._ttl_ms // DRIFT) * _MS

    def _not_renewed(self, error: Exception) -> None:
        if isinstance(error, Conflict):
            with self._guard:
                self._lost = True
            return
        _log.warning("the lock %s was not renewed: %s", self._name, error)
        with self._guard:
            self._beat_at_ns = _now_ns() + self._ttl_ms * _MS // 20

    def _rest_s(self) -> float:
        with self._guard:
            return max(0, min(self._beat_at_ns, self._valid_until_ns) - _now_ns()) / 1e9

    def _tell(self) -> None:
        _log.warning("the lock %s was lost", self._name)
        if self._on_lost is None:
            return
        try:
            self._on_lost(self)
        except Exception:
            _log.exception("the callback for the lost lock %s failed", self._name)

    def _pause_s(self, error: OnefoldError, give_up_ns: int) -> float:
        """How long to wait before asking again; raises `error` when asking again is pointless."""
        left_ms = (give_up_ns - _now_ns()) // _MS
        if left_ms <= 0 or not (isinstance(error, (Retry, Unknown)) or error.code == "held"):
            raise error
        if isinstance(error, Conflict):
            # Whoever dies does not wake us: ask again when its time is over.
            pause_ms = min(POLL_MS, int(error.facts["retry_after_ms"]) + 1)
        else:
            pause_ms = getattr(error, "retry_after_ms", 0) or 50
        return min(pause_ms, left_ms) / 1_000

    def _not_released(self, refused: OnefoldError, error: BaseException | None) -> None:
        if refused.code != "lost":
            _log.warning("the lock %s lapses by itself: %s", self._name, refused)
            if self.is_held():
                return
        if error is None:
            raise refused


# Signs of life may use the connections that are kept for them.
@reserved
def _renew(tx: Tx, lock: Lock, *, ttl_ms: int) -> Lock:
    return ops.renew(tx, lock, ttl_ms=ttl_ms)


@reserved
def _release(tx: Tx, lock: Lock) -> None:
    ops.release(tx, lock)


def _now_ns() -> int:
    return time.clock_gettime_ns(_CLOCK)
