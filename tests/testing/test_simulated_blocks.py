"""The scenarios of three modules, a few seeds in the suite and many in `make sim`, on both simulators."""

from __future__ import annotations

from collections import Counter

import pytest
from paying import paid_once
from scenarios import CALM_MS, FAULTS, PAUSES, box_office, on_call
from scenarios import SCENARIOS as BLOCKS
from visitors import ended_is_over, nothing_is_done_unseen, revoked_is_over, told_at_least_once

from onefold.testing.simulation import Faults, History, Postgres, Simulation, explore

SCENARIOS = {
    **BLOCKS,
    paid_once: (PAUSES, 3, 1),
    revoked_is_over: (FAULTS, 10, 1),
    ended_is_over: (FAULTS, 10, 1),
    nothing_is_done_unseen: (FAULTS, 10, 1),
    told_at_least_once: (PAUSES, 5, 1),
}
each = pytest.mark.parametrize("scenario", list(SCENARIOS), ids=lambda scenario: scenario.__name__)
levels = pytest.mark.parametrize("isolation", ["serializable", "read_committed"])


@each
def test_on_sqlite(scenario, onefold_seeds) -> None:
    faults, count, _ = SCENARIOS[scenario]
    seeds = onefold_seeds(count)
    report = explore(scenario, seeds=seeds, faults=faults, calm_ms=CALM_MS)
    print(f"{scenario.__name__}: {report.seeds} seeds, {report.transactions} transactions, "
          f"{report.per_core_second:,.0f} per second and core")  # fmt: skip
    assert report.seeds == len(seeds)
    assert report.transactions >= report.seeds


@each
@levels
def test_on_postgres(scenario, isolation, postgres_cluster, onefold_seeds) -> None:
    faults, _, count = SCENARIOS[scenario]
    seeds = onefold_seeds(count)
    on = Postgres(isolation, postgres_cluster)
    report = explore(scenario, seeds=seeds, faults=faults, on=on, calm_ms=CALM_MS)
    print(f"{scenario.__name__} at {isolation}: {report.seeds} seeds, {report.steps} statements, "
          f"{report.steps / report.seconds:,.0f} per second")  # fmt: skip
    assert report.seeds == len(seeds)
    assert report.steps > report.seeds


def test_the_box_office_sells_and_refuses() -> None:
    """A scenario in which little happens would show little."""
    told: Counter[tuple[str, str]] = Counter()

    def watched(sim: Simulation) -> None:
        box_office(sim)
        histories.append(sim.history)

    histories: list[History] = []
    explore(watched, seeds=30, faults=PAUSES)
    for entry in (entry for history in histories for entry in history):
        told[entry["f"], entry["type"]] += 1
    assert told["confirm_hold", "ok"] + told["confirm", "ok"] > 50
    assert told["confirm", "fail"] > 30
    assert told["hold", "fail"] + told["hold_best", "fail"] > 30


def test_a_composed_function_is_serializable(postgres_cluster) -> None:
    for on in ("sqlite", Postgres("serializable", postgres_cluster)):
        assert explore(on_call, seeds=10, faults=Faults.none(), on=on).transactions == 20
