"""A logical client as the scheduler sees it: a thread that runs when it is told to, and never otherwise."""

from __future__ import annotations

import threading
from collections.abc import Callable
from enum import Enum, auto

from onefold.host.processes import never_push_others_out
from onefold.testing.simulation.clock import ProcessClock


class Crashed(BaseException):
    """The process of this client died. Not to be caught: it is raised again at the next transaction."""


class Stopped(BaseException):
    """The run is over."""


class State(Enum):
    """What an actor can do next."""

    READY = auto()  # From `due_ms` on.
    BLOCKED = auto()  # It waits inside the server, for a lock of another one.
    DONE = auto()


class Actor:
    """One thread, and the two locks by which the turn goes to it and comes back."""

    def __init__(self, number: int, name: str, *, background: bool, clock: ProcessClock) -> None:
        self.number = number
        self.name = name
        self.background = background
        self.clock = clock
        self.state = State.READY
        #: The true time from which on it may go on; `FOREVER` while it waits for a wake-up.
        self.due_ms = 0
        #: A step of it was given up on because it waits for a lock; see `Scheduler`.
        self.overtaken = False
        #: Its PostgreSQL backend.
        self.pid = 0
        self.stopping = False
        #: Whether it is at a point or its end, and nobody gave it the turn since.
        self.resting = True
        #: Asked at each point: whose turn it is, None for the scheduler's thread; where it is None itself, always that.
        self.next: Callable[[Actor], Actor | None] | None = None
        self._turn = threading.Lock()
        self._turn.acquire()
        #: Released when it is at its next point or its end.
        self.back = threading.Lock()
        self.back.acquire()
        self._thread: threading.Thread | None = None

    def start(self, body: Callable[[], None]) -> None:
        """Have the thread ready; it begins with its first turn."""

        def run() -> None:
            never_push_others_out()  # It would push out who gives it the turn, and then wait for that one.
            self._turn.acquire()
            try:
                if not self.stopping:
                    body()
            finally:
                self.state = State.DONE
                self.resting = True
                self.back.release()

        self._thread = threading.Thread(target=run, name=f"simulated-{self.name}", daemon=True)
        self._thread.start()

    # -- the scheduler's side ---------------------------------------------------------------

    def give_turn(self) -> None:
        """Let it go on to its next point; `came_back` tells when it is there."""
        self.resting = False
        self._turn.release()

    def came_back(self, timeout_s: float) -> bool:
        """Whether it reached its next point, or its end, within so many (real) seconds."""
        return self.back.acquire(timeout=timeout_s)

    def join(self, timeout_s: float) -> bool:
        """Wait for the end of the thread; False when it did not come."""
        if self._thread is None:
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # -- its own side -----------------------------------------------------------------------

    def point(self) -> None:
        """A place where others may go on; returns when it is this one's turn.

        Raises:
            Stopped: the run is over.
        """
        chosen = None if self.next is None or self.stopping else self.next(self)
        if chosen is self:
            return
        self.resting = True
        if chosen is None:
            self.back.release()
        else:
            chosen.give_turn()
        self._turn.acquire()
        if self.stopping:
            raise Stopped
