"""One run: a scenario's clients, brought to their ends in one order of steps, with the faults of one seed."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, TypeVar

import xxhash

from onefold.core.errors import Invalid, Retry, Unknown
from onefold.engine.tx import Tx
from onefold.host.processes import threads_on_one_processor
from onefold.testing.simulation.actor import Actor, Crashed, State, Stopped
from onefold.testing.simulation.choices import Choices, Script
from onefold.testing.simulation.client import Client
from onefold.testing.simulation.clock import ProcessClock, Time
from onefold.testing.simulation.faults import PAUSE_MS_MAX, Faults, drawn_pause_ms
from onefold.testing.simulation.history import NEMESIS, History
from onefold.testing.simulation.plain import plain
from onefold.testing.simulation.scheduler import Scheduler, Scheduling
from onefold.testing.simulation.wakes import Wakes
from onefold.testing.simulation.world import World

P = ParamSpec("P")
R = TypeVar("R")
Program = Callable[[Client], object]
Check = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]

CLIENTS_MAX = 64
STEPS_MAX = 20_000
CALM_MS = 120_000


@dataclass(frozen=True, slots=True)
class Limits:
    """How a run goes.

    Attributes:
        scheduling: see `Scheduler`.
        steps_max: a run that takes more has no end, which is a failure.
        calm_ms: for how long background programs go on, without faults, after the last client has ended.
    """

    scheduling: Scheduling = "both"
    steps_max: int = STEPS_MAX
    calm_ms: int = CALM_MS


class Broken(Exception):  # noqa: N818
    """A run went wrong: which promise was broken, and how."""

    def __init__(self, what: str, error: BaseException | None, text: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.error = error
        self.text = text or f"{type(error).__name__}: {error}".rstrip(": ")

    @property
    def signature(self) -> tuple[str, str]:
        """Two failures with the same one are taken to be the same failure."""
        return self.what, type(self.error).__name__


class Simulation:
    """What a scenario gets: it makes the world ready, and says who lives in it and what must hold."""

    def __init__(self, world: World, *, seed: int, script: Script | None, faults: Faults, limits: Limits) -> None:
        self.world = world
        self.choices = Choices(seed, script)
        self.faults = faults
        self.time = Time()
        #: What clients asked and were told; see `History`.
        self.history = History(self.time)
        self.wakes = Wakes(self.choices, self.time, faults, self.history)
        self.calm = False
        self.unique = itertools.count(1)
        self.transactions = 0
        self.faults_seen: dict[str, int] = {}
        self._limits = limits
        self._lives: list[tuple[Actor, Program, int]] = []
        self._processes: dict[int, int] = {}
        self._always: list[Check] = []
        self._at_end: list[Check] = []
        self._broken: Broken | None = None
        self._calm_until_ms = 0
        self._seeds = 0
        self._named: dict[str, int] = {}
        self._scheduler = Scheduler(
            self.choices, self.time, scheduling=limits.scheduling, steps_max=limits.steps_max,
            blocked=world.blocked, patience_s=world.patience_s, may_block=world.may_block,
        )  # fmt: skip
        world.begin(self)

    # -- what a scenario says -----------------------------------------------------------------

    def setup(self, fn: Callable[Concatenate[Tx, P], R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run `fn(tx, ...)` now, in one step and without faults; answers its result."""
        return self.world.direct(fn, args, kwargs, read=False)

    def clients(self, program: Program, count: int = 1, *, least: int = 1) -> None:
        """Let `count` clients run `program(client)`, a plain function, from its beginning to its end.

        A client whose process dies, or that lets Unknown or Retry out, begins anew after a while: what it
        knew is lost. Whatever else leaves a program fails the run. A smaller failure may have fewer clients,
        but has `least`. Programs of one name share their numbers: who is "buyer-1" is nobody else.

        Raises:
            Invalid: there are more than 64, or fewer than 1.
        """
        self._add(program, count, least, background=False)

    def background(self, program: Program, count: int = 1, *, least: int = 1) -> None:
        """The same for programs that have no end, such as workers.

        When the last client has ended, faults cease, and they go on for `calm_ms` more: a scenario has clients too.
        """
        self._add(program, count, least, background=True)

    def always(self, check: Callable[Concatenate[Tx, P], object], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Run `check(tx, ...)`, which only reads, after every commit; it fails by raising or by answering False."""
        self._always.append((check, args, kwargs))

    def at_end(self, check: Callable[Concatenate[Tx, P], object], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Run `check(tx, ...)` when all is over; it fails by raising or by answering False."""
        self._at_end.append((check, args, kwargs))

    # -- the run ------------------------------------------------------------------------------

    @property
    def steps(self) -> int:
        """How many turns were given."""
        return self._scheduler.steps

    @property
    def clients_alive(self) -> int:
        """How many clients there were."""
        return len(self._lives)

    def run_to_end(self) -> None:
        """Bring all clients to their ends and check what must hold.

        Raises:
            Broken: it does not.
            Invalid: there are no clients, so that nothing could go wrong.
            TimeoutError: a client waits for something that is not simulated.
        """
        if all(actor.background for actor, _, _ in self._lives):
            raise Invalid("A scenario has clients: faults cease with the last of them.", code="no_clients")
        with threads_on_one_processor() if not self.world.may_block else contextlib.nullcontext():
            for actor, program, number in self._lives:
                self._processes[actor.number] = actor.number
                actor.start(self._life(actor, program, number))
        try:
            stuck = self._scheduler.run(self._going_on)
        finally:
            left = self._scheduler.stop()
        if left:
            raise TimeoutError(stuck or f"{left[0].name} does not stop; the simulation cannot go on")
        if self._broken is not None:
            raise self._broken
        if stuck and not self.calm:
            raise Broken("every client comes to its end", None, stuck)
        for check in self._at_end:
            self._check(check, read=False)
        if self._broken is not None:
            raise self._broken

    def after_commit(self, read_only: bool) -> None:  # noqa: FBT001
        """A client's transaction is committed: check what must always hold."""
        if read_only or self._broken is not None:
            return
        for check in self._always:
            self._check(check, read=True)
        if self._broken is not None:
            raise Stopped

    def may_pause(self, actor: Actor) -> None:
        """Let the process stand still between two statements of a transaction, as often as before one."""
        stream = self.choices.stream(f"pauses of {actor.name}")
        if self.calm or not stream.take(2, lambda dice: dice.random() < self.faults.pause):
            return
        pause_ms = stream.take(PAUSE_MS_MAX, lambda dice: drawn_pause_ms(self.faults, dice))
        self.note_fault(actor, "pause", f"{pause_ms} ms, between statements")
        actor.due_ms = self.time.now_ms + pause_ms

    def note_fault(self, actor: Actor, what: str, value: object = None) -> None:
        """Write down what befell a client."""
        self.faults_seen[what] = self.faults_seen.get(what, 0) + 1
        self.history.add(NEMESIS, "info", what, value, client=actor.name)

    def process_of(self, actor: Actor) -> int:
        """Under which number the actor stands in the history now."""
        return self._processes[actor.number]

    def new_process(self, actor: Actor) -> None:
        """What it last asked has no known end: it goes on as somebody else."""
        self._processes[actor.number] += len(self._lives)

    def next_seed(self) -> int:
        """For the scenario's own transactions."""
        self._seeds += 1
        return xxhash.xxh3_64_intdigest(f"{self.choices.seed}/setup/{self._seeds}".encode())

    def _add(self, program: Program, count: int, least: int, *, background: bool) -> None:
        name = getattr(program, "__name__", "client").strip("_")
        if not 1 <= least <= count or len(self._lives) + count > CLIENTS_MAX:
            raise Invalid("A scenario has 1 to 64 clients.", program=name, count=count, least=least)
        most = count - least
        # Two of the same name would share dice, ids that they make, and what befalls them.
        before = self._named.get(name, 0)
        self._named[name] = before + count
        present = least + self.choices.stream(f"count of {name}").take(most + 1, lambda _: most)
        for number in range(before + 1, before + present + 1):
            drift = self.choices.stream(f"drift of {name}-{number}").take(
                2 * self.faults.drift_ppm + 1, lambda dice: dice.randrange(2 * self.faults.drift_ppm + 1)
            )
            clock = ProcessClock(self.time, drift_ppm=drift - self.faults.drift_ppm)
            actor = Actor(len(self._lives), f"{name}-{number}", background=background, clock=clock)
            self._lives.append((actor, program, number))
            self._scheduler.add(actor)

    def _life(self, actor: Actor, program: Program, number: int) -> Callable[[], None]:
        def live() -> None:
            incarnation = 0
            try:
                while not self._is_over(actor, program, number, incarnation := incarnation + 1):
                    self.wakes.hubs.pop(actor.number, None)
                    actor.clock.restarted()
                    pause_ms = self.choices.stream(f"restarts of {actor.name}").take(
                        self.faults.restart_ms + 1, lambda dice: dice.randrange(self.faults.restart_ms + 1)
                    )
                    actor.due_ms = self.time.now_ms + pause_ms
                    actor.point()
            except Stopped:
                pass
            except BaseException as error:  # Of the simulator; left to the thread it would end the client, and no run.
                self._break(Broken("the simulator works", error))

        return live

    def _is_over(self, actor: Actor, program: Program, number: int, incarnation: int) -> bool:
        """One incarnation of a client: False when its process died and begins anew."""
        name = actor.name
        client = Client(self, actor, number=number, incarnation=incarnation)
        try:
            plain(program, program(client))
        except Stopped:
            return True
        except (Crashed, Unknown, Retry) as error:
            if not isinstance(error, Crashed):
                self.history.add(NEMESIS, "info", f"dies of {type(error).__name__}", error.code, client=name)
            return False
        except BaseException as error:
            if client._dead:  # Nobody hears what a dead process says on its way out,
                return False
            if actor.stopping:  # or one whose run is over.
                return True
            self._break(Broken(f"what {name.rpartition('-')[0]} expects", error))
        return True

    def _going_on(self) -> bool:
        if self._broken is not None:
            return False
        if not self.calm:
            for actor in self._scheduler.actors:
                if actor.state is not State.DONE and not actor.background:
                    return True
            self.calm = self.wakes.calm = True
            self._calm_until_ms = self.time.now_ms + self._limits.calm_ms
        return self.time.now_ms < self._calm_until_ms

    def _check(self, check: Check, *, read: bool) -> None:
        fn, args, kwargs = check
        what = getattr(fn, "__name__", "the invariant").strip("_").replace("_", " ")
        try:
            if self.world.direct(fn, args, kwargs, read=read) is False:
                self._break(Broken(what, None, "it answered False"))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # Also those by which test frameworks fail.
            self._break(Broken(what, error))

    def _break(self, broken: Broken) -> None:
        if self._broken is None:
            self._broken = broken
