"""Whose turn it is in a simulation: what it costs to hand it on, and what ends a run beside programs."""

from __future__ import annotations

import os
import sys

import pytest
from registers import count_up

from onefold.testing.simulation import Client, Faults, Simulation, SimulationFailed, explore, simulation
from onefold.testing.simulation.actor import Actor

QUIET = Faults.none()


def test_whose_turn_it_is_again_goes_on_without_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else threads that wake each other cost as much as what is simulated."""
    turns: list[str] = []
    give = Actor.give_turn
    monkeypatch.setattr(Actor, "give_turn", lambda actor: (turns.append(actor.name), give(actor)))

    def scenario(sim: Simulation) -> None:
        def counter(client: Client) -> None:
            for _ in range(200):
                client.run(count_up, "n")

        sim.clients(counter)

    report = explore(scenario, seeds=1, faults=QUIET)
    assert report.transactions == 200
    assert report.steps >= 200
    assert len(turns) < 5


@pytest.mark.skipif(sys.platform != "linux", reason="processors are chosen on Linux")
def test_clients_stay_on_one_processor_and_push_nobody_out() -> None:
    """Else each turn wakes another processor, which costs more than a small transaction."""
    allowed, lived = os.sched_getaffinity(0), set[int]()

    def scenario(sim: Simulation) -> None:
        where: set[int] = set()

        def counter(client: Client) -> None:
            client.run(count_up, "n")
            assert len(os.sched_getaffinity(0)) == 1
            assert os.sched_getscheduler(0) == os.SCHED_BATCH
            where.update(os.sched_getaffinity(0))
            assert len(where) == 1
            lived.add(client.number)

        sim.clients(counter, 3, least=3)

    explore(scenario, seeds=20, faults=QUIET)
    assert lived == {1, 2, 3}
    assert os.sched_getaffinity(0) == allowed
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_a_fault_of_the_simulator_fails_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Left to its thread it ends a client, and a scenario without clients breaks no promise."""
    made: list[int] = []

    class Faulty(Client):
        def __init__(self, *arguments, **named) -> None:
            super().__init__(*arguments, **named)
            made.append(1)
            raise AttributeError("planted")

    def scenario(sim: Simulation) -> None:
        def counter(client: Client) -> None:
            client.run(count_up, "n")

        sim.clients(counter, 2)

    monkeypatch.setattr(simulation, "Client", Faulty)
    with pytest.raises(SimulationFailed, match="breaks 'the simulator works': AttributeError: planted"):
        explore(scenario, seeds=1, faults=QUIET, shrink_runs_max=0)
    assert made
