"""Simulation: clients, faults and clocks from one seed, over the real engines. See ../README.md."""

from onefold.testing.simulation.actor import Crashed
from onefold.testing.simulation.client import Client
from onefold.testing.simulation.explore import Report, SimulationFailed, explore, simulate
from onefold.testing.simulation.faults import Faults
from onefold.testing.simulation.history import History
from onefold.testing.simulation.simulation import Simulation
from onefold.testing.simulation.worlds import Postgres

__all__ = [
    "Client", "Crashed", "Faults", "History", "Postgres", "Report", "Simulation", "SimulationFailed", "explore",
    "simulate",
]  # fmt: skip
