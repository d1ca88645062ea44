"""Who goes next: one actor at a time, at random or by priorities, in simulated time.

The scheduler gives the turn to one actor and waits until it is at its next point. Random scheduling picks
any actor that can go on. PCT (Burckhardt et al., "A Randomized Scheduler with Probabilistic Guarantees of
Finding Bugs", ASPLOS 2010) gives every actor a priority, always runs the highest, and at `depth` - 1 steps
drawn beforehand puts whoever runs below all others: a bug that needs d orderings among n actors and k steps
is found with a chance of at least 1 / (n * k^(d-1)) per run.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from random import Random
from typing import Literal

from onefold.testing.simulation.actor import Actor, State
from onefold.testing.simulation.choices import Choices
from onefold.testing.simulation.clock import Time

Scheduling = Literal["both", "random", "pct"]

FOREVER = 1 << 62
UNWINDING_MAX = 1_000  # Transactions that a program may try on its way out.
STUCK_S = 60.0  # Real seconds until an actor that does not come back is given up on.
AT_REST_S = 1.0  # Real seconds, after which all are where they were when nobody is on the way.
PCT_DEPTH_MAX = 4
PCT_STEPS = (16, 64, 256, 1_024)  # How long a run is taken to be, drawn per seed.
DELAYS_MS = (0, 0, 0, 1, 1, 2, 3, 5, 8, 20, 50, 300)  # How much time a step takes, drawn.
_READY, _BLOCKED = State.READY, State.BLOCKED  # Looked at in every step, and dear as attributes of an Enum.


class Scheduler:
    """The turns of one run."""

    def __init__(
        self, choices: Choices, time: Time, *, scheduling: Scheduling, steps_max: int, blocked: Callable[[Actor], bool],
        patience_s: float, may_block: bool,
    ) -> None:  # fmt: skip
        """Prepare the turns.

        Args:
            choices: where decisions come from.
            time: moved on here only.
            scheduling: "both" takes PCT for every other seed.
            steps_max: after so many the run is taken to have no end.
            blocked: whether an actor that does not come back waits for a lock of another one.
            patience_s: real seconds until that is asked.
            may_block: whether there is any such waiting. Where there is none, an actor hands the turn to the next one
                without this thread: a change of threads costs a good part of a small transaction.
        """
        self.actors: list[Actor] = []
        self.steps = 0
        self._time = time
        self._order = choices.stream("order")
        self._delays = choices.stream("delays")
        self._steps_max = steps_max
        self._blocked = blocked
        self._patience_s = patience_s
        self._may_block = may_block
        self._going_on: Callable[[], bool] = lambda: True
        self._back = threading.Lock()  # Of all actors, where only one of them can be on its way.
        self._back.acquire()
        self._away = False  # Whether somebody has the turn and was not seen to be at a point again.
        self._ended = False  # Found by an actor.
        self._stuck: str | None = None
        self._last: Actor | None = None
        dice = Random(f"{choices.seed}/pct")  # noqa: S311  Not for secrets; the seed must tell it.
        self._pct = scheduling == "pct" or (scheduling == "both" and choices.seed % 2 == 1)
        horizon = dice.choice(PCT_STEPS)
        self._changes = {dice.randrange(1, horizon) for _ in range(dice.randrange(PCT_DEPTH_MAX))}
        self._priorities = [dice.random() for _ in range(64)]

    def add(self, actor: Actor) -> None:
        """One more; before the run."""
        self.actors.append(actor)
        if not self._may_block:
            actor.next, actor.back = self._after, self._back

    def run(self, going_on: Callable[[], bool]) -> str | None:
        """Give turns as long as `going_on()`; answers what keeps them from coming to an end, or None."""
        self._going_on = going_on
        actor = self._decide()
        while actor is not None:
            self._away = True
            actor.give_turn()
            settled = self._settle(actor)
            self._away = False
            if self._ended:
                break
            if settled:
                self._pass_time()
            self._look_at_blocked()
            actor = self._decide()
        return self._stuck

    def _after(self, _actor: Actor) -> Actor | None:
        """In the thread of an actor that is at its point, while this one waits: whose turn it is."""
        self._pass_time()
        chosen = self._decide()
        self._ended = chosen is None
        return chosen

    def _pass_time(self) -> None:
        self._time.now_ms += DELAYS_MS[self._delays.take(len(DELAYS_MS), _delay)]

    def _decide(self) -> Actor | None:
        """Whose turn it is; None at the end."""
        if not self._going_on():
            return None
        ready = self._ready()
        if ready is None:
            self._stuck = "every client waits for something that will not come"
        if not ready:
            return None
        self.steps += 1
        if self.steps > self._steps_max:
            self._stuck = f"no end after {self._steps_max:,} steps"
            return None
        self._last = self._pick(ready)
        return self._last

    def stop(self) -> list[Actor]:
        """End all actors; answers those that did not end. An error may have ended `run` while one was on its way."""
        for actor in self.actors:
            actor.stopping = True
        away = {actor for actor in self.actors if actor.state is State.BLOCKED}
        lost: Actor | None = None
        if self._away and self._may_block and self._last is not None:
            away.add(self._last)
        elif self._away and not self._came(self._back, self.actors):
            lost = self._left_alone()
        # Who is in the server comes back when those that it waits for are gone.
        for actor in sorted(self.actors, key=away.__contains__):
            if actor is lost or (actor in away and not self._came(actor.back, [actor])):
                continue
            for _ in range(UNWINDING_MAX):
                if actor.state is State.DONE:
                    break
                actor.give_turn()
                if not actor.came_back(STUCK_S):
                    break
        return [actor for actor in self.actors if not actor.join(1.0)]

    def _came(self, back: threading.Lock, actors: list[Actor]) -> bool:
        """Wait until whoever of them has the turn is at a point: two that run at once would take each other's turns."""
        give_up = time.monotonic() + STUCK_S
        while not back.acquire(timeout=AT_REST_S):
            if all(actor.resting for actor in actors):
                return True  # Its coming had been noticed, and then the error came.
            if time.monotonic() > give_up:
                return False
        return True

    def _left_alone(self) -> Actor | None:
        """Who has the turn and does not come; when it does some day, nobody takes that for another one's coming."""
        for actor in self.actors:
            if not actor.resting:
                actor.back = threading.Lock()
                actor.back.acquire()
                return actor
        return None

    def _ready(self) -> list[Actor] | None:
        """Who can go on now, after a jump in time if need be; [] when all are done, None when nobody ever can."""
        now = self._time.now_ms
        ready: list[Actor] = []
        soonest, waiting = FOREVER, False
        for actor in self.actors:
            state = actor.state
            if state is _READY:
                if actor.due_ms <= now:
                    ready.append(actor)
                elif not waiting or actor.due_ms < soonest:
                    waiting, soonest = True, actor.due_ms
            elif state is _BLOCKED:
                waiting = True
        if ready or not waiting:
            return ready
        if soonest >= FOREVER:
            return self._after_deadlock()
        self._time.now_ms = soonest
        return [a for a in self.actors if a.state is State.READY and a.due_ms <= soonest]

    def _after_deadlock(self) -> list[Actor] | None:
        """All wait, some in the server: there it is a deadlock, which the server ends itself."""
        blocked = [actor for actor in self.actors if actor.state is State.BLOCKED]
        for _ in range(int(STUCK_S / self._patience_s) if blocked else 0):
            for actor in blocked:  # Whoever it is that the server chose.
                if actor.came_back(self._patience_s):
                    self._is_back(actor)
                    self._look_at_blocked()
                    return [a for a in self.actors if a.state is State.READY and a.due_ms <= self._time.now_ms]
        return None

    def _pick(self, ready: list[Actor]) -> Actor:
        """0 in the stream is: whoever ran last, or the first that can."""
        default = self._last if self._last in ready else ready[0]
        assert default is not None
        if len(ready) == 1:
            return default
        value = self._order.take(len(self.actors) + 1, functools.partial(self._draw, ready, default))
        if value:
            chosen = self.actors[value - 1]
            if chosen in ready:
                return chosen
        return default

    def _draw(self, ready: list[Actor], default: Actor, dice: Random) -> int:
        if self._pct:
            if self.steps in self._changes and self._last is not None:
                self._priorities[self._last.number] = -self.steps
            chosen = max(ready, key=lambda actor: self._priorities[actor.number])
        else:
            chosen = ready[int(dice.random() * len(ready))]
        return 0 if chosen is default else chosen.number + 1

    def _settle(self, actor: Actor) -> bool:
        """Wait until the actor is at its next point, or is known to wait for another one."""
        waited_s, steps = 0.0, self.steps
        while not actor.came_back(self._patience_s):
            waited_s = 0.0 if self.steps != steps else waited_s + self._patience_s
            steps = self.steps
            if self._blocked(actor):
                actor.state, actor.overtaken = State.BLOCKED, True
                return False
            if waited_s > STUCK_S:
                late = self._last or actor  # It may have handed the turn on.
                raise TimeoutError(f"{late.name} waits for something that is not simulated, such as sleep or I/O")
        return True

    def _look_at_blocked(self) -> None:
        """Whoever the last step let go comes to its next point before anybody goes on."""
        for actor in self.actors:
            if actor.state is not _BLOCKED:
                continue
            while not (back := actor.came_back(0)) and not self._blocked(actor):
                if actor.came_back(self._patience_s):
                    back = True
                    break
            if back:
                self._is_back(actor)

    @staticmethod
    def _is_back(actor: Actor) -> None:
        if actor.state is State.BLOCKED:
            actor.state = State.READY


def _delay(dice: Random) -> int:
    return int(dice.random() * len(DELAYS_MS))
