"""One server process, or several on one socket: the shop, its receipts' worker, and the loops."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from examples.boxoffice import season, visitors
from examples.boxoffice.purchase import SendReceipt
from examples.boxoffice.receipts import send_receipt
from examples.boxoffice.web.app import Shop

import onefold
from onefold import Database, jobs
from onefold.runtime import Supervisor, all_loops
from onefold.server.app import App
from onefold.server.run import Limits, Server, listen, run_server, url_of
from onefold.server.workers import Link, Workers

HOST = "127.0.0.1"
DRAIN_MS = 10_000
RECEIPT_LEASE_MS = 5_000  # A receipt whose worker was killed is taken over after this.
SWITCH_INTERVAL_S = 0.0005  # The writer's thread must not wait 5 ms for the loop's to let go.


@dataclass(frozen=True, slots=True)
class Place:
    """Where a shop is.

    Attributes:
        url: the database.
        data: the folder of the visitors' secret.
        port: on loopback; 0 takes a free one.
        workers: server processes.
    """

    url: str
    data: Path
    port: int
    workers: int


def serve(place: Place) -> int:
    """Set up what is missing and serve until a signal says to end; answer the exit code."""
    place.data.mkdir(parents=True, exist_ok=True)
    onefold.migrate(place.url)
    with onefold.connect(place.url) as db:
        added = season.open_house(db)
    if added:
        print(f"Entered {added} performances in a hall of 2,000 seats.", flush=True)
    with listen(HOST, place.port) as listener:
        if place.workers == 1:
            return serve_one(place, listener, ready=lambda: _announce(listener, 1))
        workers = Workers(
            _command(place), listener, place.workers, drain_ms=DRAIN_MS,
            ready=lambda pids: _announce(listener, len(pids)),
        )  # fmt: skip
        return workers.run()


def serve_one(
    place: Place, listener: socket.socket, *, ready: Callable[[], object], link: Link | None = None
) -> int:
    """Serve in this process."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    with onefold.connect(place.url) as db, background(db):
        shop = Shop(db, visitors.signer(place.data))
        # The server asks its app for no more than being callable, `drain` and `draining`.
        server = Server(cast("App", shop), Limits(lame_duck_ms=1, drain_ms=DRAIN_MS), ready=ready)
        if link is not None:
            link.when_gone(server.end_from_thread)
        run_server(server, listener)
    return 0


class background:  # noqa: N801  Reads as a phrase: `with background(db):`.
    """What runs beside the server: receipts are sent, and the blocks' loops do their tidying."""

    def __init__(self, db: Database) -> None:
        self._worker = jobs.Worker(db, tx={SendReceipt: send_receipt}, lease_ms=RECEIPT_LEASE_MS, drain_ms=5_000)
        self._loops = Supervisor(db, all_loops())

    def __enter__(self) -> None:
        """Start."""
        self._loops.start()
        self._worker.start()

    def __exit__(self, *_: object) -> None:
        """Drain and stop."""
        self._worker.stop()
        self._loops.stop()


def _announce(listener: socket.socket, processes: int) -> None:
    with_many = f" ({processes} processes)" if processes > 1 else ""
    print(f"Box office: {url_of(listener)}/{with_many}   Ctrl-C ends it.", flush=True)


def _command(place: Place) -> Sequence[str]:
    return [
        sys.executable, "-m", "examples.boxoffice", "serve-one", "--url", place.url, "--data", str(place.data),
    ]  # fmt: skip
