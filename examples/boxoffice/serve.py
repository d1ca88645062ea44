"""One server process, or several on one socket: the shop, its workers, its dispatcher, and the loops."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from examples.boxoffice import outside, season, visitors
from examples.boxoffice.outside import Outside
from examples.boxoffice.paying import PROVIDER, on_paid, open_provider
from examples.boxoffice.purchase import SendReceipt
from examples.boxoffice.receipts import send_receipt
from examples.boxoffice.web.app import Shop

import onefold
from onefold import Database, jobs, payments
from onefold.runtime import Supervisor, all_loops
from onefold.server.app import App
from onefold.server.run import Limits, Server, listen, run_server, url_of
from onefold.server.workers import Link, Workers

HOST = "127.0.0.1"
DRAIN_MS = 10_000
LEASE_MS = 5_000  # What a killed worker had in hand is taken over after this.
PAYMENTS_AT_ONCE = 48  # Each has a thread, and most of the time waits for the provider.
ANSWER_TIMEOUT_MS = 1_000  # More: a silent provider holds more threads. Less: more results are unknown for a while.
SWITCH_INTERVAL_S = 0.0005  # The writer's thread must not wait 5 ms for the loop's to let go.


@dataclass(frozen=True, slots=True)
class Place:
    """Where a shop is.

    Attributes:
        url: the database.
        data: the folder of secrets, and of what the world outside writes down.
        port: on loopback; 0 takes a free one.
        workers: server processes.
        outside: the provider and the partner; None starts them as well.
    """

    url: str
    data: Path
    port: int
    workers: int
    outside: Outside | None = None


def serve(place: Place) -> int:
    """Set up what is missing and serve until a signal says to end; answer the exit code."""
    place.data.mkdir(parents=True, exist_ok=True)
    onefold.migrate(place.url)
    with onefold.connect(place.url) as db:
        added = season.open_house(db)
        db.run(open_provider)
    if added:
        print(f"Entered {added} performances in a hall of 2,000 seats.", flush=True)
    with listen(HOST, place.port) as listener, _outside(place, url_of(listener)) as there:
        with onefold.connect(place.url) as db:
            outside.introduce(db, place.data, there.partner)
        if place.workers == 1:
            return serve_one(place, there.provider, listener, ready=lambda: _announce(listener, 1))
        workers = Workers(
            _command(place, there.provider), listener, place.workers, drain_ms=DRAIN_MS,
            ready=lambda pids: _announce(listener, len(pids)),
        )  # fmt: skip
        return workers.run()


def serve_one(
    place: Place, provider_url: str, listener: socket.socket, *, ready: Callable[[], object], link: Link | None = None
) -> int:
    """Serve in this process; card payments go to the provider at `provider_url`."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    with onefold.connect(place.url) as db, contextlib.closing(outside.connect(provider_url)) as provider:
        with background(db, provider), outside.Deliveries(db, place.data):
            shop = Shop(db, visitors.signer(place.data), provider)
            # The server asks its app for no more than being callable, `drain` and `draining`.
            server = Server(cast("App", shop), Limits(lame_duck_ms=1, drain_ms=DRAIN_MS), ready=ready)
            if link is not None:
                link.when_gone(server.end_from_thread)
            run_server(server, listener)
    return 0


class background:  # noqa: N801  Reads as a phrase: `with background(db, provider):`.
    """What runs beside the server: receipts are sent, cards are asked for, and the blocks' loops do their tidying."""

    def __init__(self, db: Database, provider: payments.Provider) -> None:
        asking = payments.handlers({PROVIDER: provider}, on_paid=on_paid, answer_timeout_ms=ANSWER_TIMEOUT_MS)
        # Two: a provider that is slow must not hold up the receipts.
        self._workers = (
            jobs.Worker(db, tx={SendReceipt: send_receipt}, lease_ms=LEASE_MS, drain_ms=5_000),
            jobs.Worker(db, io=asking, concurrency=PAYMENTS_AT_ONCE, lease_ms=LEASE_MS, drain_ms=5_000),
        )
        self._loops = Supervisor(db, all_loops())

    def __enter__(self) -> None:
        """Start."""
        self._loops.start()
        for worker in self._workers:
            worker.start()

    def __exit__(self, *_: object) -> None:
        """Drain and stop."""
        for worker in self._workers:
            worker.stop()
        self._loops.stop()


@contextlib.contextmanager
def _outside(place: Place, shop: str) -> Generator[Outside]:
    if place.outside is not None:
        yield place.outside
        return
    with outside.neighbours(place.data, shop) as there:
        yield there


def _announce(listener: socket.socket, processes: int) -> None:
    with_many = f" ({processes} processes)" if processes > 1 else ""
    print(f"Box office: {url_of(listener)}/{with_many}   Ctrl-C ends it.", flush=True)


def _command(place: Place, provider: str) -> Sequence[str]:
    return [
        sys.executable, "-m", "examples.boxoffice", "serve-one", "--url", place.url, "--data", str(place.data),
        "--provider", provider,
    ]  # fmt: skip
