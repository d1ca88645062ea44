"""A whole installation on loopback, to break: servers on SQLite, or on PostgreSQL with standbys to fail over to."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Generator, Mapping, Sequence
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

__all__ = ["Installation", "Node", "Timeline", "cluster"]

NODES_MAX = 16
STANDBYS_MAX = 4
DATABASE = "onefold"
PROXY = "primary"


class Installation:
    """What `cluster` started.

    Attributes:
        url: of the database, as the nodes have it: on PostgreSQL behind `toxiproxy`.
        nodes: the servers, on one database.
        timeline: to note in it what a test does besides.
        toxiproxy: between the nodes and the primary; None on SQLite.
        primary, standbys: the PostgreSQL servers; None and none on SQLite.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.nodes: list[Node] = []
        self.timeline = Timeline()
        self.toxiproxy: Toxiproxy | None = None
        self.primary: Postgres | None = None
        self.standbys: list[Standby] = []

    def connect(self) -> Database:
        """This process's own way in; close it."""
        return connect(self.url)

    def fail_over(self) -> Postgres:
        """Kill -9 the primary, promote the first standby, and lead everybody there; answers the new primary.

        Raises:
            Invalid: there is no standby.
        """
        if self.primary is None or self.toxiproxy is None or not self.standbys:
            raise Invalid("There is no standby to fail over to.", code="no_standby")
        chosen = self.standbys.pop(0)
        self.timeline.note("primary", "is killed")
        self.primary.kill9()
        chosen.promote()
        self.timeline.note(chosen.name, "is promoted")
        self.primary = chosen
        self.toxiproxy.lead(PROXY, f"unix:{chosen.socket_path}")
        self.timeline.note("toxiproxy", f"leads to {chosen.name}")
        return chosen

    def story(self) -> str:
        """Requests, faults and the lines of all logs, in the order of their times."""
        logs = [(node.name, node.log) for node in self.nodes]
        servers: Mapping[str, Postgres] = {
            **({"primary": self.primary} if self.primary else {}), **{one.name: one for one in self.standbys}
        }  # fmt: skip
        ahead_ms = {node.name: node.skew_ms for node in self.nodes}
        return self.timeline.told(
            [*logs, *((name, server.log) for name, server in servers.items())], ahead_ms=ahead_ms
        )


@contextlib.contextmanager
def cluster(
    engine: Literal["sqlite", "postgres"] = "sqlite", *, nodes: int = 3, standbys: int = 0, synchronous: bool = True,
    shards: int = 1, skew_ms: Sequence[int] = (),
) -> Generator[Installation]:
    """Start an installation; end it with the block, and tell its story on stderr when the block failed.

    Args:
        engine: "sqlite", one file for all nodes; or "postgres", a primary with `standbys`.
        nodes: `onefold serve` processes, 0 to 16.
        standbys: streaming standbys, 0 to 4; PostgreSQL only.
        synchronous: a COMMIT waits until the first standby has it, so that a failover loses nothing.
        shards: 1; there is no more than one yet.
        skew_ms: by how much the wall clocks of the first nodes are ahead; -86,400,000 to 86,400,000 each. See
            `onefold.testing.skewed` for which clocks those are.

    Raises:
        Invalid: a number is out of range.
    """
    if not 0 <= nodes <= NODES_MAX or not 0 <= standbys <= STANDBYS_MAX or shards != 1:
        raise Invalid("A cluster has 0 to 16 nodes, 0 to 4 standbys and one shard.", nodes=nodes, standbys=standbys)
    if len(skew_ms) > nodes or any(abs(skew) > SKEW_MS_MAX for skew in skew_ms):
        raise Invalid("A clock is wrong by a day at most, and of a node that there is.", nodes=nodes, skew_ms=skew_ms)
    if standbys and engine == "sqlite":
        raise Invalid("SQLite has no standbys.", standbys=standbys)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="of-cluster-")))
        made = Installation(str(folder / "onefold.db"))
        if engine == "postgres":
            _start_postgres(stack, made, standbys, synchronous=synchronous)
        migrate(made.url)
        secret, digest = tokens.new_secret()
        with connect(made.url) as db:
            token = db.run(tokens.create, "cluster", digest=digest, rights=("*",))
        bearer = tokens.bearer(token.id, secret)
        for number in range(1, nodes + 1):
            skew = skew_ms[number - 1] if number <= len(skew_ms) else 0
            node = Node(f"node{number}", made.url, folder, token=bearer, timeline=made.timeline, skew_ms=skew)
            made.nodes.append(node)
            stack.callback(node.stop)
            node.launch()  # All at once; then they are waited for.
        for node in made.nodes:
            node.ready()
        try:
            yield made
        except BaseException:
            print(made.story(), file=sys.stderr)
            raise


def _start_postgres(stack: contextlib.ExitStack, made: Installation, standbys: int, *, synchronous: bool) -> None:
    primary = made.primary = stack.enter_context(Postgres())
    primary.create_database(DATABASE)
    for number in range(1, standbys + 1):
        made.standbys.append(stack.enter_context(Standby(primary, f"standby{number}")))
    if made.standbys and synchronous:
        made.standbys[0].confirm_commits()
    toxiproxy = made.toxiproxy = stack.enter_context(Toxiproxy())
    port = toxiproxy.create(PROXY, upstream=f"unix:{primary.socket_path}")
    made.url = f"postgresql://postgres@127.0.0.1:{port}/{DATABASE}?sslmode=disable&gssencmode=disable"
