"""The simulator on SQLite: one writer at a time, so a step is a whole transaction."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from onefold.engine import schema
from onefold.engine.call import Call, Options, space_of
from onefold.engine.sqlite.memory import MemoryWriter
from onefold.engine.tx import Hints
from onefold.index import schema_directories
from onefold.testing.simulation.actor import Actor
from onefold.testing.simulation.clock import CurrentClock

if TYPE_CHECKING:
    from onefold.testing.simulation.simulation import Simulation

_NEVER_NS = 1 << 62  # Deadlines are simulated.
_WRITE, _READ = Options(), Options(read_only=True)
_SPACE = space_of("")


class SqliteWorld:
    """See `World`. The engine's own writer, over a database in memory."""

    dialect: Literal["sqlite", "postgres"] = "sqlite"
    may_block = False
    patience_s = 1.0
    shrink_runs_max = 1_500
    replays_max = 1

    def __init__(self) -> None:
        self._clock = CurrentClock()
        self._writer = MemoryWriter(schema.load(schema_directories()), clock=self._clock, told=self._told)
        self._author: Actor | None = None
        self._run: Simulation | None = None

    @property
    def usable(self) -> bool:
        """See `World.usable`."""
        return True

    def begin(self, run: Simulation) -> None:
        """See `World.begin`."""
        self._run = run
        self._writer.reset()

    def run(self, actor: Actor, call: Call, *, twice: bool) -> Any:
        """See `World.run`."""
        self._clock.of = actor.clock
        self._author = actor
        call.deadline_ns = _NEVER_NS
        return self._writer.run(call, twice=twice)

    def direct(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, read: bool) -> Any:
        """See `World.direct`."""
        assert self._run is not None
        self._clock.of = self._run.time
        self._author = None
        call = Call(fn, args, kwargs, _READ if read else _WRITE, _SPACE)
        call.deadline_ns = _NEVER_NS
        call.seed = self._run.next_seed()
        return self._writer.run(call)

    def blocked(self, actor: Actor) -> bool:  # noqa: ARG002
        """See `World.blocked`: a transaction here waits for nobody."""
        return False

    def close(self) -> None:
        """See `World.close`."""
        self._writer.close()

    def _told(self, hints: list[Hints]) -> None:
        if self._run is not None:
            self._run.wakes.committed(self._author, hints)
