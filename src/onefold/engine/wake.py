"""Who waits for what: wake-ups by topic, and subscribers to facts, within one process.

Wake-ups are hints. They say "look", carry no data, may be lost, doubled or late; whoever
waits polls as well.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any

_log = logging.getLogger("onefold.wake")

CLOSE_S = 5.0  # For callbacks that are queued.
HINTS_QUEUED_MAX = 100_000  # Transactions whose facts and callbacks wait for a slow callback.

Fact = tuple[str, dict[str, Any]]


class Waiter:
    """Waits for one topic; from a thread with `wait`, from a task with `await_`."""

    def __init__(self, hub: Hub, topic: str) -> None:
        self._hub = hub
        self._topic = topic
        self._event = threading.Event()
        self._futures: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        hub._join(topic, self)

    def wait(self, timeout_s: float) -> bool:
        """Sleep until a wake-up since the last `wait`, or the time is over; True when woken."""
        woken = self._event.wait(timeout_s)
        self._event.clear()
        return woken

    async def await_(self, timeout_s: float) -> bool:
        """The same from a task."""
        event = asyncio.Event()
        entry = (asyncio.get_running_loop(), event)
        self._futures.add(entry)
        try:
            if not self._event.is_set():
                async with asyncio.timeout(timeout_s):
                    await event.wait()
        except TimeoutError:
            return False
        finally:
            self._futures.discard(entry)
        self._event.clear()
        return True

    def wake(self) -> None:
        """Wake it; from any thread."""
        self._event.set()
        for loop, event in tuple(self._futures):
            try:
                loop.call_soon_threadsafe(event.set)
            except RuntimeError:  # The loop was closed.
                self._futures.discard((loop, event))

    def close(self) -> None:
        """Stop listening. One that is forgotten stops by itself."""
        self._hub._leave(self._topic, self)

    def __del__(self) -> None:
        """Stop listening."""
        self.close()

    def _forked(self) -> None:
        self._event = threading.Event()  # A thread of the parent may have held its lock.
        self._futures.clear()


class Hub:
    """The in-process side: waiters by topic, subscribers by prefix, one dispatcher thread."""

    def __init__(self) -> None:
        # Weakly: a waiter that nobody can wait on any more is no waiter.
        self._waiters: dict[str, dict[int, weakref.ref[Waiter]]] = {}  # By id: thousands may wait for one topic.
        self._subscribers: tuple[tuple[str, Callable[[str, dict[str, Any]], object]], ...] = ()
        self._lock = threading.RLock()  # A forgotten waiter may leave while this thread holds it.
        self._queue: queue.SimpleQueue[tuple[list[Fact], list[Callable[[], object]]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._dropping = False
        #: Called for every new waiter; an engine that listens elsewhere for wake-ups begins then.
        self.on_waiter: Callable[[], None] | None = None

    def waiter(self, topic: str) -> Waiter:
        """A new waiter for `topic`; close it when done."""
        return Waiter(self, topic)

    def subscribe(self, prefix: str, callback: Callable[[str, dict[str, Any]], object]) -> Callable[[], None]:
        """Call `callback(fact, facts)` after each commit that emitted a fact under `prefix`.

        Answers a function that ends the subscription.
        """
        entry = (prefix, callback)
        with self._lock:
            self._subscribers = (*self._subscribers, entry)

        def cancel() -> None:
            with self._lock:
                self._subscribers = tuple(s for s in self._subscribers if s is not entry)

        return cancel

    def wake(self, topics: Iterable[str]) -> None:
        """Wake the local waiters of these topics."""
        for topic in topics:
            for reference in list(self._waiters.get(topic, {}).values()):  # At once, while others come and go.
                if (waiter := reference()) is not None:
                    waiter.wake()

    def has_waiters(self) -> bool:
        """Whether anybody here waits for anything."""
        return bool(self._waiters)

    def wake_all(self) -> None:
        """Wake every local waiter: something changed, nobody knows what."""
        self.wake(tuple(self._waiters))

    def committed(self, facts: list[Fact], callbacks: list[Callable[[], object]]) -> None:
        """Hand on what one committed transaction left; call it in commit order."""
        if not callbacks and not (facts and self._subscribers):
            return
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    thread = threading.Thread(target=self._dispatch, name="onefold-facts", daemon=True)
                    thread.start()  # Where there is no thread to be had, the next commit asks again.
                    self._thread = thread
        if self._queue.qsize() >= HINTS_QUEUED_MAX:
            if not self._dropping:
                _log.error("a callback after commit is stuck; hints are dropped until it goes on")
            self._dropping = True
            return
        self._dropping = False
        self._queue.put((facts, callbacks))

    def forked(self) -> None:
        """In a child process: the dispatcher thread and whoever held a lock stayed behind."""
        self._lock = threading.RLock()
        self._queue = queue.SimpleQueue()
        self._thread = None
        for references in tuple(self._waiters.values()):
            for reference in list(references.values()):
                if (waiter := reference()) is not None:
                    waiter._forked()

    def close(self) -> None:
        """Deliver what is queued, then stop."""
        if (thread := self._thread) is not None:
            self._queue.put(None)
            if thread is not threading.current_thread():
                thread.join(CLOSE_S)

    def _dispatch(self) -> None:
        while (entry := self._queue.get()) is not None:
            self._hand_on(*entry)

    def _hand_on(self, facts: list[Fact], callbacks: list[Callable[[], object]]) -> None:
        for name, values in facts:
            for prefix, callback in self._subscribers:
                if name.startswith(prefix):
                    self._guarded(callback, name, values)
        for callback in callbacks:
            self._guarded(callback)

    @staticmethod
    def _guarded(callback: Callable[..., object], *args: Any) -> None:
        try:
            callback(*args)
        except BaseException:  # Also SystemExit: it would end the thread, and all later hints with it.
            _log.exception("a callback after commit failed")

    def _join(self, topic: str, waiter: Waiter) -> None:
        with self._lock:
            self._waiters.setdefault(topic, {})[id(waiter)] = weakref.ref(waiter)
        if self.on_waiter is not None:
            self.on_waiter()

    def _leave(self, topic: str, waiter: Waiter) -> None:
        with self._lock:
            here = self._waiters.get(topic, {})
            here.pop(id(waiter), None)
            if not here:
                self._waiters.pop(topic, None)
