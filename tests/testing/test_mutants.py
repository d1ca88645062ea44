"""Every planted bug is found by the scenario that it names, within its budget; a scenario without bug is not blamed."""

from __future__ import annotations

import pytest
from mutants import MUTANTS, Mutant
from scenarios import CALM_MS

from onefold.testing.simulation import Postgres, SimulationFailed, explore


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_is_found(mutant: Mutant, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    mutant.plant(monkeypatch)
    on = "sqlite" if mutant.on == "sqlite" else Postgres(mutant.on, request.getfixturevalue("postgres_cluster"))
    with pytest.raises(SimulationFailed) as found:
        explore(
            mutant.scenario, seeds=mutant.seeds, on=on, faults=mutant.faults, calm_ms=CALM_MS, shrink_runs_max=0
        )
    print(f"{mutant.name}: seed {found.value.seeds_run} of {mutant.seeds}")
    assert found.value.what == mutant.breaks
    assert "replay" in str(found.value)


def test_there_are_enough_mutants_and_each_has_a_name_of_its_own() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 15


def test_a_mutant_whose_place_is_gone_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from mutants import locks_ops, text

    with pytest.raises(AssertionError, match="mend the mutant"):
        text(locks_ops, "check", "no such text", "")(monkeypatch)
