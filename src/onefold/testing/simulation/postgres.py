"""The simulator on PostgreSQL: real connections, stepped statement by statement.

As PostgreSQL's own isolation tester does: one statement is sent at a time. Whoever waits for a lock is seen
to wait (`pg_blocking_pids`), and others are stepped until it goes on. Two things are the server's own choice,
and may go otherwise in a replay: who dies of a deadlock, and who of several waiters gets the lock first.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from onefold.engine import schema
from onefold.engine.call import Call, Isolation, Options, space_of
from onefold.engine.connect import migrate
from onefold.engine.postgres.stepped import SteppedEngine
from onefold.engine.tx import Hints
from onefold.index import schema_directories
from onefold.testing.simulation.actor import Actor

if TYPE_CHECKING:
    from onefold.testing.postgres import Cluster
    from onefold.testing.simulation.simulation import Simulation

POOL_MAX = 70
_REAL_DEADLINE_NS = 120_000_000_000  # Deadlines are simulated; this one ends a run that hangs.
_SPACE = space_of("")
_numbers = itertools.count(1)


class PostgresWorld:
    """See `World`, and `Stepper`."""

    dialect: Literal["sqlite", "postgres"] = "postgres"
    may_block = True
    patience_s = 0.002
    shrink_runs_max = 200
    replays_max = 10

    def __init__(self, cluster: Cluster, *, isolation: Isolation) -> None:
        url = cluster.create_database(f"onefold_simulation_{os.getpid()}_{next(_numbers)}")
        migrate(url)
        self._cluster, self._server = cluster, cluster.pid
        self._here = threading.local()
        self._run: Simulation | None = None
        self._isolation: Isolation = isolation
        self._engine = SteppedEngine(url, schema.load(schema_directories()), stepper=self, pool_max=POOL_MAX)

    @property
    def usable(self) -> bool:
        """See `World.usable`. Where the server was started anew its connections are gone."""
        return self._cluster.running and self._cluster.pid == self._server

    def begin(self, run: Simulation) -> None:
        """See `World.begin`."""
        self._run = run
        self._engine.overseer.empty()

    def run(self, actor: Actor, call: Call, *, twice: bool) -> Any:  # noqa: ARG002
        """See `World.run`. Not twice: others go on between statements, and the second time may rightly differ."""
        self._here.actor = actor
        call.deadline_ns = time.monotonic_ns() + _REAL_DEADLINE_NS
        if not call.options.read_only and call.options.isolation == "serializable":
            call.options = dataclasses.replace(call.options, isolation=self._isolation)
        return self._engine.run(call)

    def direct(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, read: bool) -> Any:
        """See `World.direct`."""
        assert self._run is not None
        actor, self._here.actor = getattr(self._here, "actor", None), None
        call = Call(fn, args, kwargs, Options(read_only=True) if read else Options(), _SPACE)
        call.deadline_ns = time.monotonic_ns() + _REAL_DEADLINE_NS
        call.seed = self._run.next_seed()
        try:
            return self._engine.run(call)
        finally:
            self._here.actor = actor

    def blocked(self, actor: Actor) -> bool:
        """See `World.blocked`."""
        return actor.pid in self._engine.overseer.blocked()

    def close(self) -> None:
        """See `World.close`."""
        self._engine.close()

    # -- Stepper ------------------------------------------------------------------------------

    def now_ms(self) -> int:
        """See `Stepper.now_ms`."""
        assert self._run is not None
        actor = self.actor
        return self._run.time.now_ms if actor is None else actor.clock.now_ms()

    def begins(self, pid: int) -> None:
        """See `Stepper.begins`."""
        if (actor := self.actor) is not None:
            actor.pid = pid

    def before(self) -> None:
        """See `Stepper.before`. Here a process may stand still in the middle of its transaction."""
        if (actor := self.actor) is not None:
            assert self._run is not None
            self._run.may_pause(actor)
            actor.point()

    def after(self) -> None:
        """See `Stepper.after`: whoever had to wait for a lock has lost its turn meanwhile."""
        actor = self.actor
        if actor is not None and actor.overtaken:
            actor.overtaken = False
            actor.point()

    @property
    def actor(self) -> Actor | None:
        """Whose thread this is; None for the scenario's own transactions."""
        return getattr(self._here, "actor", None)

    def committed(self, hints: Hints) -> None:
        """See `Stepper.committed`."""
        assert self._run is not None
        self._run.wakes.committed(self.actor, [hints])
