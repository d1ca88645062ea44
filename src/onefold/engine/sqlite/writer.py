"""Group commit: many functions, one transaction, one fsync.

One thread takes what is queued, runs function after function, and commits once (`batches.py`).
Nothing waits for company: what is there is taken. After two milliseconds nothing more is admitted if
another process waits for the gate, after ten nothing at all.
When the writer is idle, a synchronous caller runs its own function.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from onefold.core.clock import Clock
from onefold.core.errors import Retry
from onefold.engine.call import Call, Durability, late_in_queue, name_of, own, settle
from onefold.engine.metrics import Metrics
from onefold.engine.sqlite.batches import Batches
from onefold.engine.sqlite.parked import Parked
from onefold.engine.sqlite.wakes import Wakes
from onefold.host.gate import Gate

_log = logging.getLogger("onefold.writer")

QUEUE_MAX = 65_536
MEND_WAIT_S = 5.0  # For the gate.
STOP_LOOK_S = 0.05  # Between two looks whether the thread sleeps at the gate.


class Writer:
    """The queue, and the thread that drives the one connection that writes."""

    def __init__(
        self, path: Path, gate: Gate, *, clock: Clock, durability: Durability, rehearse: bool, metrics: Metrics,
        wakes: Wakes, unsynced: Callable[[], None],
    ) -> None:
        self._gate = gate
        self._metrics = metrics
        self._queue: deque[Call] = deque()
        self.batches = Batches(
            path, self._queue, clock=clock, durability=durability, rehearse=rehearse, metrics=metrics, wakes=wakes,
            unsynced=unsynced, wanted=gate.wanted,
        )
        self._bell = threading.Lock()  # Held while nothing rings; the thread sleeps on it.
        self._bell.acquire()
        self._asleep = False
        self.turn = threading.Lock()  # Who has it may use the connection and the gate.
        self.waits_since_ns = 0  # Since when the thread waits for the gate; 0 when it does not.
        self._closing = False  # Nothing new comes in.
        self._stopped = False  # The thread does not look into the queue again.
        self.abandoned = False  # The thread sleeps at the gate, left to itself; it cleans up after it.
        self._thread = threading.Thread(target=self._loop, name="onefold-writer", daemon=True)
        self._thread.start()

    # -- how calls come in ------------------------------------------------------------------

    def submit(self, call: Call) -> None:
        """Queue a call for the thread."""
        if self._closing:
            raise Parked
        if len(self._queue) >= QUEUE_MAX:
            raise Retry("Too many calls are waiting.", code="queue_full", retry_after_ms=100, most=QUEUE_MAX)
        self._queue.append(call)
        if self._asleep:
            self._asleep = False  # One ring is enough; a signal between these lines is for `nudge`.
            self._ring()
        if self._stopped:
            self._take_back(call)

    def run_inline(self, call: Call) -> bool:
        """Run the call in the caller's thread if the writer is idle; False when it is not."""
        if self._queue or self._closing or self.turn.locked():
            return False
        # A `with` on a lock and a `finally` that begins in C cannot be torn by a signal's exception.
        with self.turn:
            if self._closing:
                return False
            gate = self._gate
            try:
                if not gate.try_acquire():
                    return False
                call.take()
                self.batches.alone(call)
            finally:
                gate.release()
        return True

    def expire(self, now_ns: int) -> None:
        """Fail queued calls whose deadline is over; the watchdog calls it, for the thread may be stuck."""
        if not any(call.deadline_ns < now_ns for call in tuple(self._queue)):
            return
        error = late_in_queue()
        if self.waits_since_ns:
            holder = self._gate.holder()
            error = Retry("The deadline passed while another process held the file.", code="gate", holder=holder)
        late = [call for call in tuple(self._queue) if call.deadline_ns < now_ns and call.take()]
        for call in late:
            call.error = own(error)
            self._metrics.abort(name_of(call.fn), error.code)
        settle(late)

    def nudge(self) -> None:
        """Wake the thread if it sleeps on work: a signal may have come between a call and its ring."""
        if self._queue and not self.turn.locked():
            self._ring()

    def mend(self) -> None:
        """A sync of the WAL failed: write it again, between two transactions.

        Raises:
            Retry: it could not be done yet; the next transaction begins with it.
        """
        self.batches.suspect = True
        with self.turn:
            try:
                if not self._gate.acquire_within(MEND_WAIT_S):
                    raise Retry("Another process holds the file.", code="gate", holder=self._gate.holder())
                if self.batches.suspect:
                    self.batches.mend()
            finally:
                self._let_go()

    @property
    def queued(self) -> int:
        """How many calls wait."""
        return len(self._queue)

    def _ring(self) -> None:
        try:
            self._bell.release()
        except RuntimeError:  # It rings already.
            return

    def _take_back(self, call: Call) -> None:
        """The thread went while the call came: nobody would ever run it."""
        try:
            self._queue.remove(call)
        except ValueError:
            return  # The thread saw it after all.
        raise Parked

    # -- the thread ---------------------------------------------------------------------------

    def _loop(self) -> None:
        while self._wait():
            settled: list[Call] = []
            with self.turn:
                self.waits_since_ns = time.monotonic_ns()
                try:
                    self._gate.acquire()
                    self._metrics.gate_wait.record(time.monotonic_ns() - self.waits_since_ns)
                    self.waits_since_ns = 0
                    settled = self._drain()
                except OSError as error:  # The gate's file system broke.
                    settled = self._fail_queued(error)
                finally:
                    self.waits_since_ns = 0
                    self._let_go()
            settle(settled)
        if self.abandoned:
            self.batches.reset()
            self._gate.close()

    def _wait(self) -> bool:
        """Sleep until there is work; False when there will be none any more."""
        while not self._queue:
            if self._closing:
                # Whoever appends after this looks at `_stopped`: one of us two sees the other.
                self._stopped = True
                return bool(self._queue)
            self._asleep = True
            if not self._queue and not self._closing:
                self._bell.acquire()
            self._asleep = False
        return True

    def _drain(self) -> list[Call]:
        try:
            call = self._queue.popleft()
            while not call.take():
                call = self._queue.popleft()
        except IndexError:
            return []
        return self.batches.process(call)

    def _fail_queued(self, why: OSError) -> list[Call]:
        error = Retry("The gate of the database cannot be taken.", code="gate", why=str(why))
        failed = [call for call in tuple(self._queue) if call.take()]
        for call in failed:
            call.error = own(error)
        return failed

    def _let_go(self) -> None:
        with contextlib.suppress(OSError):
            self._gate.release()

    # -- the end ----------------------------------------------------------------------------------

    def stop(self) -> None:
        """Take no more calls, bring those that are here to their ends, then stop the thread."""
        self._closing = True
        self._ring()
        while self._thread.is_alive():
            self._thread.join(STOP_LOOK_S)
            if self.waits_since_ns and not self._any_open():
                # Another process holds the gate, and nobody here waits for it any more.
                self._stopped = self.abandoned = True
                if not self._any_open():
                    return
                self._stopped = self.abandoned = False
        with self.turn:
            return  # Whoever runs inline has finished.

    def close_connection(self) -> None:
        """After `stop`, under the gate: the last one to close writes the WAL back into the file."""
        if not self.abandoned:
            if self.batches.suspect:
                try:
                    self.batches.mend()
                except Retry as error:
                    _log.error("the WAL could not be mended: %s", error)
            self.batches.reset()

    def _any_open(self) -> bool:
        return any(call.open for call in tuple(self._queue))
