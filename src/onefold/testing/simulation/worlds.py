"""Where a scenario is run: worlds are made once per process, and used by one exploration at a time."""

from __future__ import annotations

import atexit
import contextlib
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from onefold.core.errors import Invalid
from onefold.testing.simulation.sqlite import SqliteWorld
from onefold.testing.simulation.world import World

if TYPE_CHECKING:
    from onefold.testing.postgres import Cluster

Level = Literal["serializable", "read_committed"]


@dataclass(frozen=True)
class Postgres:
    """A real PostgreSQL, stepped statement by statement.

    Attributes:
        isolation: of every transaction, in place of "serializable".
        cluster: where the simulator makes a database of its own; None starts a server that lives until this
            process ends.
    """

    isolation: Level = "serializable"
    cluster: Cluster | None = None


Where = Literal["sqlite"] | Postgres

_idle: dict[Where, list[World]] = {}
_lock = threading.Lock()


@contextlib.contextmanager
def world_of(where: Where) -> Generator[World]:
    """A world for one exploration."""
    if where != "sqlite" and not isinstance(where, Postgres):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise Invalid('A scenario runs on "sqlite" or on Postgres(...).', code="on")
    with _lock:
        kept = _idle.setdefault(where, [])
        world = kept.pop() if kept else None
    if world is not None and not world.usable:
        world.close()
        world = None
    world = world or _make(where)
    try:
        yield world
    except BaseException as error:
        if isinstance(error, AssertionError):  # Somebody's promise; the world is whole.
            _keep(kept, world)
        else:
            world.close()
        raise
    _keep(kept, world)


def _keep(kept: list[World], world: World) -> None:
    with _lock:
        kept.append(world)


def _make(where: Where) -> World:
    if where == "sqlite":
        return SqliteWorld()
    from onefold.testing.simulation.postgres import PostgresWorld

    return PostgresWorld(where.cluster or _own_cluster(), isolation=where.isolation)


_clusters: list[Cluster] = []


def _own_cluster() -> Cluster:
    with _lock:
        if not _clusters:
            from onefold.testing.postgres import Cluster

            cluster = Cluster()
            cluster.start()
            _clusters.append(cluster)
            _at_exit(cluster.close)
        return _clusters[0]


def _at_exit(close: Callable[[], None]) -> None:
    def end() -> None:
        for worlds in _idle.values():
            while worlds:
                worlds.pop().close()
        close()

    atexit.register(end)
