"""`simulate` and `explore`: a scenario under many seeds, and a failure told so that it can be repeated."""

from __future__ import annotations

import functools
import inspect
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, get_args

from onefold.core.errors import Invalid
from onefold.testing.simulation import shrink
from onefold.testing.simulation.choices import Script, from_text, to_text
from onefold.testing.simulation.faults import Faults
from onefold.testing.simulation.plain import plain
from onefold.testing.simulation.scheduler import Scheduling
from onefold.testing.simulation.simulation import CALM_MS, STEPS_MAX, Broken, Limits, Simulation
from onefold.testing.simulation.worlds import Where, world_of

Scenario = Callable[..., object]  # (Simulation, and what else `simulate`'s caller gives it)

SEEDS = 200
SEEDS_MAX = 100_000_000
SHRINK_STEPS_MAX = 200_000  # Of all attempts: some 10 s, also where each of them has no end.
PACKAGE = str(Path(__file__).parents[2])
SEEDS_FIXTURE = "onefold_seeds"  # Of the pytest plugin: from a number of seeds to which.


class SimulationFailed(AssertionError):  # noqa: N818  It fails as an assertion does.
    """A promise was broken; the text says which, how, after what, and what repeats it.

    Attributes:
        what: the name of the check or of the program.
        seed: under which seed it was found.
        replay: what `simulate(replay=...)` takes to repeat the smallest run that was found.
        seeds_run: how many seeds had been run.
        history: of the smallest run.
    """

    def __init__(self, text: str, *, what: str, seed: int, replay: str, seeds_run: int, history: list[Any]) -> None:
        super().__init__(text)
        self.what = what
        self.seed = seed
        self.replay = replay
        self.seeds_run = seeds_run
        self.history = history


@dataclass(slots=True)
class Report:
    """What was explored.

    Attributes:
        seeds: how many runs.
        transactions: how many transactions clients asked for.
        steps: how many turns were given; on PostgreSQL a statement is one.
        faults: how often each befell somebody.
        seconds: real time.
        cpu_seconds: of this process, all threads together.
    """

    seeds: int = 0
    transactions: int = 0
    steps: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    @property
    def per_core_second(self) -> float:
        """Transactions per second of processor time: what one core does that has nothing else to do."""
        return self.transactions / self.cpu_seconds if self.cpu_seconds else 0.0


def explore(
    scenario: Scenario,
    *arguments: Any,
    seeds: int | range = SEEDS,
    on: Where = "sqlite",
    faults: Faults | None = None,
    scheduling: Scheduling = "both",
    steps_max: int = STEPS_MAX,
    calm_ms: int = CALM_MS,
    seconds_max: float | None = None,
    replay: str | None = None,
    shrink_runs_max: int | None = None,
    **named: Any,
) -> Report:
    """Run `scenario(sim, *arguments, **named)` once per seed; answers what was done.

    Args:
        scenario: makes the world ready and names clients and checks; see `Simulation`. It is a plain function,
            called anew for every run, and keeps nothing between them.
        arguments: handed on.
        seeds: how many, 1 to 100,000,000, from 0, or which.
        on: "sqlite", or `Postgres(...)`.
        faults: what befalls clients, and how often; None is `Faults()`.
        scheduling: who goes next: "random", "pct", or "both" in turn.
        steps_max: a run that takes more steps, 1 or more, has no end, which is a failure.
        calm_ms: how long background programs go on after the last client, 0 or more.
        seconds_max: begin no further seed after so many (real) seconds; None is no limit.
        replay: run only what a failure printed here.
        shrink_runs_max: how many runs may be spent on making a failure smaller, 0 or more; None is the simulator's
            own. None is begun after 200,000 steps of them.
        named: handed on.

    Raises:
        SimulationFailed: a check failed, a program raised, or did not end.
        Invalid: an argument is out of range.
    """
    __tracebackhide__ = True
    numbers = seeds if isinstance(seeds, range) else range(seeds)
    if not 1 <= len(numbers) <= SEEDS_MAX or numbers[0] < 0 or numbers[-1] < 0:
        raise Invalid("A simulation has 1 to 100,000,000 seeds, from 0 on.", code="seeds", seeds=len(numbers))
    if scheduling not in get_args(Scheduling):
        raise Invalid('scheduling is "random", "pct" or "both".', code="scheduling", given=scheduling)
    for name, given, least in (
        ("steps_max", steps_max, 1), ("calm_ms", calm_ms, 0), ("shrink_runs_max", shrink_runs_max, 0),
    ):  # fmt: skip
        if given is not None and given < least:
            raise Invalid("This limit is too small.", code="limits", name=name, given=given, least=least)
    limits = Limits(scheduling, steps_max, calm_ms)
    with world_of(on) as world:
        runs = _Runs(lambda seed, script: Simulation(
            world, seed=seed, script=script, faults=faults if faults is not None else Faults(), limits=limits
        ), scenario, arguments, named,
            shrink_runs_max=world.shrink_runs_max if shrink_runs_max is None else shrink_runs_max)  # fmt: skip
        if replay is not None:
            seed, script = from_text(replay)
            for _ in range(world.replays_max):
                runs.once(seed, script)
            return runs.report
        began, cpu_began = time.monotonic(), time.process_time()
        for seed in numbers:
            runs.once(seed, None)
            if seconds_max is not None and time.monotonic() - began > seconds_max:
                break
        runs.report.seconds = time.monotonic() - began
        runs.report.cpu_seconds = time.process_time() - cpu_began
        return runs.report


def simulate(
    *,
    seeds: int | range = SEEDS,
    on: Where = "sqlite",
    faults: Faults | None = None,
    scheduling: Scheduling = "both",
    steps_max: int = STEPS_MAX,
    calm_ms: int = CALM_MS,
    seconds_max: float | None = None,
    replay: str | None = None,
) -> Callable[[Scenario], Callable[..., None]]:
    """Make a test of a scenario, for pytest or to be called: `explore` with these arguments.

        @simulate(seeds=500)
        def test_checkout(sim): ...

    What the scenario takes after `sim` are fixtures under pytest. There a number of seeds begins at that of the
    run, and grows with `--onefold-scale`; seeds that are named (a range) stay what they are.
    """  # fmt: skip

    def test_of(scenario: Scenario) -> Callable[..., None]:
        variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        takes = [p for p in inspect.signature(scenario).parameters.values() if p.kind not in variadic]
        instance = takes[:1] if takes and takes[0].name == "self" else []  # A method of a class of tests.
        fixtures = takes[len(instance) + 1 :]
        counted = replay is None and not isinstance(seeds, range) and SEEDS_FIXTURE not in {f.name for f in fixtures}

        @functools.wraps(scenario)
        def test(*arguments: Any, **named: Any) -> None:
            __tracebackhide__ = True
            numbered = named.pop(SEEDS_FIXTURE)(seeds) if counted and SEEDS_FIXTURE in named else seeds
            bound, given = (scenario.__get__(arguments[0]), arguments[1:]) if instance else (scenario, arguments)
            explore(
                bound, *given, seeds=numbered, on=on, faults=faults, scheduling=scheduling,
                steps_max=steps_max, calm_ms=calm_ms, seconds_max=seconds_max, replay=replay, **named,
            )  # fmt: skip

        del test.__dict__["__wrapped__"]  # pytest would see `sim`, and look for a fixture of that name.
        if counted:
            fixtures.append(inspect.Parameter(SEEDS_FIXTURE, inspect.Parameter.KEYWORD_ONLY))
        setattr(test, "__signature__", inspect.Signature([*instance, *fixtures]))  # noqa: B010  No attribute that types know.
        return test

    return test_of


class _Runs:
    """Runs of one scenario."""

    def __init__(
        self, make: Callable[[int, Script | None], Simulation], scenario: Scenario, arguments: tuple[Any, ...],
        named: dict[str, Any], *, shrink_runs_max: int,
    ) -> None:  # fmt: skip
        self.report = Report()
        self._make = make
        self._scenario = scenario
        self._arguments = arguments
        self._named = named
        self._shrink_runs_max = shrink_runs_max

    def once(self, seed: int, script: Script | None) -> None:
        """One run; a failure is made smaller, unless it was given as a script."""
        report = self.report
        sim, broken = self._attempt(seed, script)
        report.seeds += 1
        report.transactions += sim.transactions
        report.steps += sim.steps
        report.faults.update(sim.faults_seen)
        if broken is not None:
            __tracebackhide__ = True  # What pytest shows begins where the scenario's own code does.
            raise self._failure(seed, script, sim, broken) from _outside(broken.error)

    def _attempt(self, seed: int, script: Script | None) -> tuple[Simulation, Broken | None]:
        sim = self._make(seed, script)
        plain(self._scenario, self._scenario(sim, *self._arguments, **self._named))
        try:
            sim.run_to_end()
        except Broken as broken:
            return sim, broken
        return sim, None

    def _failure(self, seed: int, script: Script | None, sim: Simulation, broken: Broken) -> SimulationFailed:
        first, runs, steps = sim, 0, 0
        if script is None:
            made = sim.choices.script()
            best = {id(made): (sim, broken)}

            def fails(candidate: shrink.Decisions) -> shrink.Decisions | None:
                nonlocal steps
                smaller, error = self._attempt(seed, candidate)
                steps += smaller.steps
                if error is None or error.signature != broken.signature:
                    return None
                again = smaller.choices.script()
                best[id(again)] = smaller, error
                kept.append(again)
                return again

            kept = [made]  # So that no id is given twice.
            script, runs = shrink.shrunk(
                made, fails, runs_max=self._shrink_runs_max, enough=lambda: steps >= SHRINK_STEPS_MAX
            )
            sim, broken = best[id(script)]
        replay = to_text(seed, script)
        lines = [
            f"seed {seed} breaks '{broken.what}': {broken.text}",
            f"from {_measure(first)} to {_measure(sim)}, in {runs} runs" if runs else _measure(sim),
            *sim.history.timeline(),
            f'replay with {getattr(self._scenario, "__name__", "the scenario")} and simulate(replay="{replay}")',
        ]
        return SimulationFailed(
            "\n".join(lines), what=broken.what, seed=seed, replay=replay, seeds_run=self.report.seeds,
            history=list(sim.history),
        )  # fmt: skip


def _outside(error: BaseException | None) -> BaseException | None:
    """The error, told by the places that are not of this package, if there are any."""
    if error is None:
        return None
    passed: list[TracebackType] = []
    at = error.__traceback__
    while at is not None:
        passed.append(at)
        at = at.tb_next
    shown = None
    for one in reversed(passed):
        if not one.tb_frame.f_code.co_filename.startswith(PACKAGE):
            shown = TracebackType(shown, one.tb_frame, one.tb_lasti, one.tb_lineno)
    return error if shown is None else error.with_traceback(shown)


def _measure(sim: Simulation) -> str:
    faults = sum(sim.faults_seen.values())
    return f"{sim.clients_alive} clients, {sim.transactions} transactions and {faults} faults"
