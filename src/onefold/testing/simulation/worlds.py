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
    world = _taken(where) or _make(where)
    try:
        yield world
    except BaseException as error:
        if isinstance(error, AssertionError):  # Somebody's promise; the world is whole.
            _keep(where, world)
        else:
            world.close()
        raise
    _keep(where, world)


def _taken(where: Where) -> World | None:
    """One that is kept for there, if any. Those of servers that are gone are closed, for nobody asks for them again."""
    gone: list[World] = []
    with _lock:
        for place in list(_idle):
            lost = [world for world in _idle[place] if not world.usable]
            gone += lost
            if len(lost) == len(_idle[place]):
                del _idle[place]
            else:
                _idle[place] = [world for world in _idle[place] if world not in lost]
        kept = _idle.get(where)
        world = kept.pop() if kept else None
    for one in gone:
        one.close()
    return world


def _keep(where: Where, world: World) -> None:
    with _lock:
        _idle.setdefault(where, []).append(world)


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
