"""A whole installation on loopback, to break: servers on SQLite, or on PostgreSQL with standbys to fail over to."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Literal

from onefold.core.errors import Invalid
from onefold.engine.connect import connect, migrate
from onefold.engine.database import Database
from onefold.identity import tokens
from onefold.testing.cluster.node import Node
from onefold.testing.cluster.timeline import Timeline
from onefold.testing.postgres import Cluster as Postgres
from onefold.testing.skewed import SKEW_MS_MAX
from onefold.testing.standby import Standby
from onefold.testing.toxiproxy import Toxiproxy
from onefold.testing.watchdog import Watchdog

__all__ = ["Installation", "Node", "Timeline", "cluster"]

NODES_MAX = 16  # Of all shards together.
STANDBYS_MAX = 4
SHARDS_MAX = 4
DATABASE = "onefold"
LOG_LENGTH_MAX = 200_000  # Of each server, in the story; the end of it.


class Installation:
    """One database and whoever serves it; what `cluster` started is the first shard, and knows the others.

    Attributes:
        name: what its servers' names begin with: "" for the only shard, otherwise "shard1_" and so on.
        url: of the database, as the nodes have it: on PostgreSQL behind `toxiproxy`.
        token: a bearer token of all rights, in this database.
        nodes: the servers, on this database.
        shards: all of them; each has one database, and all have one story.
        timeline: to note in it what a test does besides.
        toxiproxy: before each node, between all and each primary, and between each standby and the primary that it
            follows; by their names. None where there is none of them.
        proxy: the name of the one before the primary.
        primary, standbys: the PostgreSQL servers; None and none on SQLite.
    """

    def __init__(
        self, url: str, *, name: str = "", timeline: Timeline | None = None, toxiproxy: Toxiproxy | None = None
    ) -> None:
        self.name = name
        self.url = url
        self.token = ""
        self.nodes: list[Node] = []
        self.shards: list[Installation] = [self]
        self.timeline = timeline or Timeline()
        self.toxiproxy = toxiproxy
        self.proxy = f"{name}primary"
        self.primary: Postgres | None = None
        self.standbys: list[Standby] = []
        self._servers: dict[str, Postgres] = {}  # All that there ever were, by the names of the story.
        self._logs: dict[str, str] = {}  # Of those whose files are gone.
        self._stack = contextlib.ExitStack()
        self._synchronous = False

    def connect(self) -> Database:
        """This process's own way in; close it."""
        return connect(self.url)

    def fail_over(self) -> Postgres:
        """Kill -9 the primary, promote the first standby, and lead everybody there; answers the new primary.

        The other standbys followed the lost primary and know nothing that comes after it: they are none any more.

        Raises:
            Invalid: there is no standby.
        """
        if self.primary is None or self.toxiproxy is None or not self.standbys:
            raise Invalid("There is no standby to fail over to.", code="no_standby")
        chosen = self.standbys[0]
        self.standbys.clear()
        lost = next(name for name, server in self._servers.items() if server is self.primary)
        self.timeline.note(lost, "is killed")
        self.primary.kill9()
        chosen.promote()
        self.timeline.note(chosen.name, "is promoted")
        self.primary = chosen
        self.toxiproxy.lead(self.proxy, f"unix:{chosen.socket_path}")
        self.timeline.note("toxiproxy", f"leads to {chosen.name}")
        return chosen

    def add_standby(self) -> Standby:
        """Start another standby of the present primary; when it returns, the standby has all that was committed.

        In a synchronous installation a COMMIT waits for the first standby from now on, if it waited for none. The
        files of lost primaries are removed; what they said stays in the story.

        Raises:
            Invalid: there are four standbys already, or no primary.
            TimeoutError: it did not attach in time.
        """
        if self.primary is None or self.toxiproxy is None or len(self.standbys) >= STANDBYS_MAX:
            raise Invalid("An installation on PostgreSQL has 0 to 4 standbys.", standbys=len(self.standbys))
        for name, server in list(self._servers.items()):
            if server is not self.primary and server not in self.standbys:
                self._logs[name] = server.log[-LOG_LENGTH_MAX:]
                self._servers.pop(name).close()
                if isinstance(server, Standby):
                    self.toxiproxy.remove(name)
        name = f"{self.name}standby{len(self._servers) + len(self._logs)}"
        through = self.toxiproxy.create(name, upstream=f"unix:{self.primary.socket_path}")
        standby = Standby(self.primary, name, through=through)
        self._stack.push(standby)
        standby.start()
        self._servers[standby.name] = standby
        self.standbys.append(standby)
        if self._synchronous:
            self.standbys[0].confirm_commits()
        standby.catch_up()
        self.timeline.note(standby.name, "follows the primary")
        return standby

    def story(self) -> str:
        """Requests, transactions, faults and the lines of all logs, in the order of their times."""
        logs = [log for shard in self.shards for log in shard._written()]
        ahead_ms = {node.name: node.skew_ms for shard in self.shards for node in shard.nodes}
        return self.timeline.told(logs, ahead_ms=ahead_ms)

    def _written(self) -> list[tuple[str, str]]:
        own = [(node.name, node.log) for node in self.nodes] + [(name, one.log) for name, one in self._servers.items()]
        return [*((name, log[-LOG_LENGTH_MAX:]) for name, log in own), *self._logs.items()]


@contextlib.contextmanager
def cluster(
    engine: Literal["sqlite", "postgres"] = "sqlite", *, nodes: int = 3, standbys: int | None = None,
    synchronous: bool = True, shards: int = 1, skew_ms: Sequence[int] = (),
) -> Generator[Installation]:
    """Start an installation; end it with the block, and tell its story on stderr when the block failed.

    When this process dies in between, even of kill -9, a watchdog ends the servers and removes their files.

    Args:
        engine: "sqlite", one file for all nodes of a shard; or "postgres", a primary with `standbys`.
        nodes: `onefold serve` processes of each shard, 0 to 16 in all.
        standbys: streaming standbys of each primary, 0 to 4; PostgreSQL only, where it is 1 unless told.
        synchronous: a COMMIT waits until the first standby has it, so that a failover loses nothing.
        shards: databases, 1 to 4, that know nothing of each other: which of them has what is the caller's choice.
        skew_ms: by how much the wall clocks of the first nodes of each shard are ahead; -86,400,000 to 86,400,000
            each. See `onefold.testing.skewed` for which clocks those are.

    Raises:
        Invalid: a number is out of range, or there is no such engine.
    """
    if engine not in ("sqlite", "postgres"):
        raise Invalid("A cluster is on sqlite or on postgres.", engine=engine)
    standbys = int(engine == "postgres") if standbys is None else standbys
    if not 0 <= standbys <= STANDBYS_MAX or not 1 <= shards <= SHARDS_MAX or not 0 <= nodes * shards <= NODES_MAX:
        raise Invalid(
            "A cluster has 1 to 4 shards, 0 to 4 standbys of each, and 0 to 16 nodes in all.",
            shards=shards, standbys=standbys, nodes=nodes * shards,
        )  # fmt: skip
    if len(skew_ms) > nodes or any(abs(skew) > SKEW_MS_MAX for skew in skew_ms):
        raise Invalid("A clock is wrong by a day at most, and of a node that there is.", nodes=nodes, skew_ms=skew_ms)
    if standbys and engine == "sqlite":
        raise Invalid("SQLite has no standbys.", standbys=standbys)
    with contextlib.ExitStack() as stack, contextlib.ExitStack() as served:  # Nodes end before what they stand on.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="of-cluster-")))
        watchdog = stack.enter_context(Watchdog(folder))
        toxiproxy = stack.enter_context(Toxiproxy()) if nodes or engine == "postgres" else None
        timeline = Timeline()
        all_shards = list[Installation]()
        for number in range(1, shards + 1):
            name = f"shard{number}_" if shards > 1 else ""
            made = Installation(str(folder / f"{name}onefold.db"), name=name, timeline=timeline, toxiproxy=toxiproxy)
            all_shards.append(made)
            made.shards, made._stack, made._synchronous = all_shards, stack, synchronous
            if engine == "postgres":
                _start_postgres(made, standbys)
            _set_up(made)
            _launch(made, nodes, skew_ms, folder, watchdog, served)
        every_node = [node for shard in all_shards for node in shard.nodes]
        for node in every_node:
            node.ready()
        try:
            yield all_shards[0]
        except BaseException:
            print(all_shards[0].story(), file=sys.stderr)
            raise
        finally:
            for node in every_node:
                node.end()  # All at once; then they are waited for.


def _start_postgres(made: Installation, standbys: int) -> None:
    assert made.toxiproxy is not None
    primary = made.primary = made._servers[made.proxy] = made._stack.enter_context(Postgres())
    primary.create_database(DATABASE)
    for _ in range(standbys):
        made.add_standby()
    port = made.toxiproxy.create(made.proxy, upstream=f"unix:{primary.socket_path}")
    made.url = f"postgresql://postgres@127.0.0.1:{port}/{DATABASE}?sslmode=disable&gssencmode=disable"


def _set_up(made: Installation) -> None:
    migrate(made.url)
    secret, digest = tokens.new_secret()
    with connect(made.url) as db:
        token = db.run(tokens.create, "cluster", digest=digest, rights=("*",))
    made.token = tokens.bearer(token.id, secret)


def _launch(
    made: Installation, nodes: int, skew_ms: Sequence[int], folder: Path, watchdog: Watchdog,
    served: contextlib.ExitStack,
) -> None:
    """Begin to start its nodes: all at once, also those of other shards; then they are waited for."""
    for number in range(1, nodes + 1):
        skew = skew_ms[number - 1] if number <= len(skew_ms) else 0
        node = Node(f"{made.name}node{number}", made, folder, watchdog, skew_ms=skew)
        made.nodes.append(node)
        served.callback(node.stop)
        node.launch()
