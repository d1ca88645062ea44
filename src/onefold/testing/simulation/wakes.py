"""Wake-ups in simulated time: after the COMMIT, to every process, and now and then late or lost."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from random import Random
from typing import Any

from onefold.engine.tx import Hints
from onefold.engine.wake import Hub, Waiter
from onefold.testing.simulation.actor import Actor
from onefold.testing.simulation.choices import Choices, Stream
from onefold.testing.simulation.clock import Time
from onefold.testing.simulation.faults import Faults
from onefold.testing.simulation.history import NEMESIS, History
from onefold.testing.simulation.scheduler import FOREVER

LOST, LATE = 1, 2


class SimulatedWaiter(Waiter):
    """See `Waiter`; sleeps in simulated time."""

    def __init__(self, hub: SimulatedHub, topic: str) -> None:
        self.topic = topic
        self.woken_from_ms = FOREVER  # The true time of the earliest wake-up that was not yet seen.
        self._home = hub
        hub.waiting.append(self)

    def wait(self, timeout_s: float) -> bool:
        """See `Waiter.wait`; the seconds are simulated."""
        actor, time = self._home.actor, self._home.wakes.time
        until_ms = time.now_ms + max(0, int(timeout_s * 1_000))
        self._home.sleeping = self
        try:
            actor.due_ms = min(until_ms, max(time.now_ms, self.woken_from_ms))
            actor.point()
        finally:
            self._home.sleeping = None
        woken = self.woken_from_ms <= time.now_ms
        if woken:
            self.woken_from_ms = FOREVER
        return woken

    async def await_(self, timeout_s: float) -> bool:
        """See `Waiter.await_`; tasks cannot be simulated, so it does not give way to others of its loop."""
        return self.wait(timeout_s)

    def wake(self) -> None:
        """Wake it now."""
        self.woken_at(self._home.wakes.time.now_ms)

    def woken_at(self, at_ms: int) -> None:
        """A wake-up comes at that time."""
        self.woken_from_ms = min(self.woken_from_ms, at_ms)
        if self._home.sleeping is self:
            self._home.actor.due_ms = min(self._home.actor.due_ms, max(at_ms, self._home.wakes.time.now_ms))

    def close(self) -> None:
        """See `Waiter.close`."""
        with contextlib.suppress(ValueError):
            self._home.waiting.remove(self)


class SimulatedHub(Hub):
    """The waiters and subscribers of one process, which lives until it crashes."""

    def __init__(self, wakes: Wakes, actor: Actor) -> None:
        super().__init__()
        self.wakes = wakes
        self.actor = actor
        self.waiting: list[SimulatedWaiter] = []
        self.sleeping: SimulatedWaiter | None = None

    def waiter(self, topic: str) -> Waiter:
        """See `Hub.waiter`."""
        return SimulatedWaiter(self, topic)

    def committed(self, facts: list[tuple[str, dict[str, Any]]], callbacks: list[Callable[[], object]]) -> None:
        """See `Hub.committed`; here the client's own thread does it, before it hears of the commit."""
        self._hand_on(facts, callbacks)


class Wakes:
    """Carries what a transaction left for after its COMMIT to all processes."""

    def __init__(self, choices: Choices, time: Time, faults: Faults, history: History) -> None:
        self.time = time
        self.hubs: dict[int, SimulatedHub] = {}  # By the number of the client.
        self.calm = False  # No faults any more.
        self._choices = choices
        self._faults = faults
        self._history = history

    def committed(self, author: Actor | None, hints: list[Hints]) -> None:
        """A transaction of `author` committed."""
        for hint in hints:
            for hub in tuple(self.hubs.values()) if hint.topics else ():
                for waiter in tuple(hub.waiting):
                    if waiter.topic in hint.topics:
                        self._carry(waiter, own=hub.actor is author)
            if author is not None and (hub := self.hubs.get(author.number)) is not None:
                hub.committed(hint.facts, hint.callbacks)

    def _carry(self, waiter: SimulatedWaiter, *, own: bool) -> None:
        now = self.time.now_ms
        if self.calm or own:  # Within a process nothing is lost.
            waiter.woken_at(now)
            return
        name = waiter._home.actor.name
        stream = self._choices.stream(f"wakes of {name}")
        befalls = stream.take(3, self._draw)
        if befalls == LOST:
            self._history.add(NEMESIS, "info", "lost wake-up", waiter.topic, client=name)
            return
        waiter.woken_at(now + self._lateness(stream) if befalls == LATE else now)

    def _draw(self, dice: Random) -> int:
        throw = dice.random()
        if throw < self._faults.lost_wake:
            return LOST
        return LATE if throw < self._faults.lost_wake + self._faults.late_wake else 0

    def _lateness(self, stream: Stream) -> int:
        most = self._faults.late_wake_ms
        return stream.take(most + 1, lambda dice: dice.randrange(most + 1))
