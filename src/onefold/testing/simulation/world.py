"""What a run needs of a database: one place for the differences between the two simulators."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, Protocol

from onefold.engine.call import Call
from onefold.testing.simulation.actor import Actor

if TYPE_CHECKING:
    from onefold.testing.simulation.simulation import Simulation


class World(Protocol):
    """A database that is emptied before each run. Used for one run at a time."""

    dialect: Literal["sqlite", "postgres"]
    #: Whether one actor's step can wait for another's.
    may_block: bool
    #: Real seconds until a step that is not over is taken to wait for a lock.
    patience_s: float
    #: How many runs may be spent on making a failure smaller.
    shrink_runs_max: int
    #: How often a replay is tried until it fails, where not everything is ours to decide.
    replays_max: int

    @property
    def usable(self) -> bool:
        """Whether it is as good as a new one, between two explorations."""
        ...

    def begin(self, run: Simulation) -> None:
        """Empty the database for `run`."""
        ...

    def run(self, actor: Actor, call: Call, *, twice: bool) -> Any:
        """Run a client's function to its committed end; `twice`: run and undo it first, if nobody can come between."""
        ...

    def direct(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, read: bool) -> Any:
        """Run a function of the scenario itself: in one step, without faults."""
        ...

    def blocked(self, actor: Actor) -> bool:
        """Whether the actor's statement waits for a lock of another actor."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...
