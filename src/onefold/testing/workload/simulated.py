"""A workload under simulation: the same program and the same checker, without processes, from one seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from onefold.core.errors import Invalid
from onefold.engine.tx import Tx
from onefold.testing.checkers import History, check
from onefold.testing.simulation import Client, Simulation
from onefold.testing.workload.run import in_short
from onefold.testing.workload.workload import Workload

CLIENTS_MAX = 32
FINISH_MS = 3 * 3_600_000  # On the clock of the simulation, when the others have ended but for long sleepers.


class Unjudged(AssertionError):  # noqa: N818  It fails as an assertion does.
    """The checker cannot tell; of a kind of its own, so that no wrong history is made smaller to one of nothing."""


def simulated(workload: Workload, *, clients: int = 3) -> Callable[[Simulation], None]:
    """The workload as a scenario, for `explore` and `simulate`: it fails unless the checker calls its history valid.

    A program's `rounds()` are 1 to 20 there. Programs that `ask` nodes cannot be simulated.

    Args:
        workload: what the clients do, and the model.
        clients: 1 to 32.

    Raises:
        Invalid: a number is out of range.
    """
    if not 1 <= clients <= CLIENTS_MAX:
        raise Invalid("A simulated workload has 1 to 32 clients.", clients=clients)

    def scenario(sim: Simulation) -> None:
        def finisher(client: Client) -> None:
            client.sleep_ms(FINISH_MS)
            if workload.finish is not None:
                workload.finish(cast("Any", client))

        def the_history_is_right(_tx: Tx) -> None:
            verdict = check(History.of(sim.history.operations()), workload.model, **workload.options)
            if verdict.valid is not True:
                raise (Unjudged if verdict.valid is None else AssertionError)("\n".join(in_short(verdict).lines()))

        if workload.setup is not None:
            sim.setup(workload.setup)
        sim.clients(cast("Any", workload.program), clients)
        sim.clients(finisher)
        sim.at_end(the_history_is_right)

    scenario.__name__ = f"simulated {workload.program.__name__}"
    return scenario
