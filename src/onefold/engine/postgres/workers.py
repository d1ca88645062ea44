"""Threads that run the calls of tasks, and the queues in front of hot keys."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from onefold.core.errors import Invalid, Retry
from onefold.engine.call import Call, seconds_left

QUEUE_MAX = 65_536
HOT_WAITING_MAX = 10_000

HotKey = tuple[int, str]


class Workers:
    """At most `most` threads, started as they are needed; first come, first served."""

    def __init__(self, most: int, work: Callable[[Call], None], *, name: str) -> None:
        self._most = most
        self._work = work
        self._name = name
        self._queue: deque[Call] = deque()
        self._idle: list[threading.Lock] = []
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._closing = False

    @property
    def queued(self) -> int:
        """How many calls wait."""
        return len(self._queue)

    def submit(self, call: Call, *, late: bool = False) -> None:
        """Queue a call; a `late` one had been admitted before, in another queue.

        Raises:
            Retry: too many wait already.
        """
        if len(self._queue) >= QUEUE_MAX and not late:
            raise Retry("Too many calls are waiting.", code="queue_full", retry_after_ms=100, most=QUEUE_MAX)
        with self._lock:
            if self._closing and not late:
                raise Invalid("The database is closed.", code="closed")
            self._queue.append(call)
            if self._idle:
                self._idle.pop().release()
            elif len(self._threads) < self._most:
                thread = threading.Thread(
                    target=self._loop, name=f"{self._name}-{len(self._threads)}", daemon=True
                )
                try:
                    thread.start()
                except RuntimeError:  # There is none to be had. Those that are here take it in their turn.
                    if not self._threads:
                        self._queue.remove(call)
                        raise
                else:
                    self._threads.append(thread)

    def close(self) -> None:
        """Run what is queued, then end the threads."""
        with self._lock:
            self._closing = True
            while self._idle:
                self._idle.pop().release()
        for thread in tuple(self._threads):
            if thread is not threading.current_thread():
                thread.join()

    def _loop(self) -> None:
        bell = threading.Lock()
        bell.acquire()
        while True:
            with self._lock:
                call = self._queue.popleft() if self._queue else None
                if call is None:
                    if self._closing:
                        self._threads.remove(threading.current_thread())  # A late call has another one.
                        return
                    self._idle.append(bell)
            if call is None:
                bell.acquire()
                continue
            self._work(call)
            del call  # An idle worker keeps nobody's arguments alive.


class HotKeys:
    """One call per hot key at a time; the others wait here, without a connection or a thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queues: dict[HotKey, deque[Callable[[], Any]]] = {}

    @property
    def waiting(self) -> int:
        """How many calls wait."""
        return sum(len(queue) for queue in tuple(self._queues.values()))

    def enter(self, key: HotKey, go: Callable[[], Any]) -> bool:
        """Get the key: True, or False and `go` is called when its turn has come.

        Raises:
            Retry: too many wait for this key already.
        """
        with self._lock:
            queue = self._queues.get(key)
            if queue is None:
                self._queues[key] = deque()
                return True
            if len(queue) >= HOT_WAITING_MAX:
                raise Retry("Too many calls wait for this hot key.", code="queue_full", retry_after_ms=100)
            queue.append(go)
            return False

    def leave(self, key: HotKey) -> None:
        """Give the key to whoever is next."""
        with self._lock:
            queue = self._queues[key]
            if not queue:
                del self._queues[key]
                return
            go = queue.popleft()
        go()

    def wait(self, key: HotKey, deadline_ns: int) -> None:
        """Get the key, sleeping for it.

        Raises:
            Retry: not before the deadline.
        """
        bell = threading.Lock()
        bell.acquire()
        if self.enter(key, bell.release):
            return
        rang = False
        try:
            rang = bell.acquire(timeout=seconds_left(deadline_ns))
        finally:
            if not rang and not self._withdrawn(key, bell.release):
                self.leave(key)  # It was given to us this very moment.
        if not rang:
            raise Retry("The hot key was busy until the deadline; the call was not run.", code="deadline")

    def _withdrawn(self, key: HotKey, go: Callable[[], Any]) -> bool:
        with self._lock:
            queue = self._queues[key]  # Whoever waits in it or was just let out of it keeps it here.
            if go not in queue:
                return False
            queue.remove(go)
            return True
