"""The box office from the command line.

    python -m examples.boxoffice run                    a shop at http://127.0.0.1:8000/
    python -m examples.boxoffice load                   10,000 buyers, then the audit
    python -m examples.boxoffice crash                  the same while the server is killed, then the audit
    python -m examples.boxoffice audit                  count what is there

Each takes --help.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import secrets
import shutil
import socket
import sys
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

from examples.boxoffice.crowd.audit import Report, audit
from examples.boxoffice.crowd.buyer import Told
from examples.boxoffice.crowd.crash import Murder, on_sale_with_kills
from examples.boxoffice.crowd.load import FAULTS, Crowd, on_sale, performances, read_told, write_told
from examples.boxoffice.crowd.servers import House, is_ready
from examples.boxoffice.crowd.tally import Tally
from examples.boxoffice.crowd.witnesses import Witnesses
from examples.boxoffice.outside import CALLBACKS, Outside, provider_in
from examples.boxoffice.serve import HOST, Place, serve, serve_one

import onefold
from onefold import OnefoldError, booking
from onefold.server.workers import Link
from onefold.testing.provider import FakeProvider
from onefold.testing.receiver import Receiver

if TYPE_CHECKING:
    from onefold.testing.postgres import Cluster

PORT = 8_000
DATA = Path(".data")


def main(arguments: list[str] | None = None) -> int:
    """Run a subcommand; answer the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return {"run": _run, "serve-one": _serve_one, "load": _load, "crash": _crash, "audit": _audit}[
            options.command
        ](options)
    except KeyboardInterrupt:
        return 130
    except (OnefoldError, RuntimeError) as error:
        print(f"box office: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="boxoffice", description="A theatre sells tickets on Onefold.")
    commands = parser.add_subparsers(dest="command", required=True)
    place = argparse.ArgumentParser(add_help=False)
    place.add_argument("--url", help="the database; $ONEFOLD_URL, or DATA/boxoffice.db")
    place.add_argument("--data", type=Path, default=DATA, help="folder for secrets and databases (%(default)s)")
    place.add_argument("--postgres", action="store_true", help="a PostgreSQL from the wheel, for as long as this runs")
    place.add_argument("--workers", type=int, default=1, help="server processes (%(default)s)")
    crowd = argparse.ArgumentParser(add_help=False)
    crowd.add_argument("--buyers", type=int, help="how many come")
    crowd.add_argument("--at-once", type=int, default=300, help="how many are in the shop at a time (%(default)s)")
    crowd.add_argument("--shows", type=int, default=15, help="over how many performances they spread (%(default)s)")
    crowd.add_argument("--cards", type=float, default=0.5, help="the share that pays by card, 0 to 1 (%(default)s)")
    crowd.add_argument("--seed", type=int, help="repeats a crowd; drawn and printed otherwise")
    crowd.add_argument("--quiet", action="store_true", help="no progress")

    run = commands.add_parser("run", parents=[place], help="set up and serve")
    run.add_argument("--port", type=int, default=PORT, help="on loopback (%(default)s)")
    run.add_argument("--provider", help="URL of a fake payment provider; otherwise one is started")
    run.add_argument("--partner", help="URL of a receiver of webhooks, with --provider")
    one = commands.add_parser("serve-one", parents=[place])
    one.add_argument("--fd", type=int, required=True)
    one.add_argument("--link-fd", type=int, required=True)
    one.add_argument("--provider", required=True)
    load = commands.add_parser("load", parents=[place, crowd], help="the crowd, then the audit")
    load.add_argument("--server", help="a running shop; otherwise the one at port 8000, or a new one")
    load.add_argument("--fresh", action="store_true", help="a new shop even though one runs")
    load.add_argument("--faults", action="store_true", help="switch every fault of the payment provider on")
    crash = commands.add_parser("crash", parents=[place, crowd], help="the crowd, kill -9 again and again, the audit")
    crash.add_argument("--kills", type=int, default=20, help="how often (%(default)s)")
    crash.add_argument(
        "--faults", action=argparse.BooleanOptionalAction, default=True, help="every fault of the provider (on)"
    )
    check = commands.add_parser("audit", parents=[place], help="count what is there and compare")
    check.add_argument("--told", type=Path, help="a file of orders that buyers have in hand")
    return parser


def _run(options: argparse.Namespace) -> int:
    if (options.provider is None) != (options.partner is None):
        raise RuntimeError("--provider and --partner are told together, or neither.")
    there = None if options.provider is None else Outside(options.provider, options.partner)
    with _database(options) as (url, _, home):
        return serve(Place(url, home, options.port, options.workers, there))


def _serve_one(options: argparse.Namespace) -> int:
    place = Place(options.url, options.data, 0, 1)
    link = Link(options.link_fd)
    return serve_one(place, options.provider, socket.socket(fileno=options.fd), ready=link.ready, link=link)


def _load(options: argparse.Namespace) -> int:
    crowd = _crowd_of(options, buyers=10_000)
    usual = f"http://{HOST}:{PORT}"
    base = options.server or (usual if not options.fresh and is_ready(usual) else None)
    if base is not None:
        if options.faults:
            raise RuntimeError("Faults are for a provider of this command's own: say --fresh.")
        with _database(options) as (url, _, home), provider_in(home) as fake:
            return _let_in(options, crowd, base, (url, home, fake))
    with _database(options, fresh="load") as (url, _, home), _house(options, url, home) as (house, fake):
        return _let_in(options, crowd, house.base, (url, home, fake))


def _let_in(options: argparse.Namespace, crowd: Crowd, base: str, where: tuple[str, Path, FakeProvider]) -> int:
    url, home, fake = where
    with onefold.connect(url) as db:
        _check_same(db, base)
        _say(options, f"{crowd.buyers:,} buyers, {crowd.at_once} at a time, {crowd.shows} shows, {base}, {_shown(url)}")
        tally, told = Tally(crowd.buyers, quiet=options.quiet), list[Told]()
        asyncio.run(on_sale(base, crowd, tally, told))
        return _judge(options, db, (tally, told), home, fake)


def _crash(options: argparse.Namespace) -> int:
    crowd = _crowd_of(options, buyers=10_000)
    with _database(options, fresh="crash") as (url, cluster, home):
        with _house(options, url, home) as (house, fake), onefold.connect(url) as db:
            _say(options, f"{crowd.buyers:,} buyers, {options.kills} kills, {options.workers} processes, {_shown(url)}")
            tally, told = Tally(crowd.buyers, quiet=options.quiet), list[Told]()
            also = _murder_of(cluster) if cluster is not None else None
            sale = on_sale_with_kills(
                house, crowd, kills=options.kills, tally=tally, told=told, also=also, quiet=options.quiet
            )
            deaths = asyncio.run(sale)
            print(f"  killed -9: {deaths} times")
            return _judge(options, db, (tally, told), home, fake)


@contextlib.contextmanager
def _house(options: argparse.Namespace, url: str, home: Path) -> Generator[tuple[House, FakeProvider]]:
    """A shop of its own, and beside it, so that they outlive it, the provider and the partner."""
    with provider_in(home) as fake, Receiver(home) as partner:
        beside = ["--provider", fake.base, "--partner", partner.base]
        with House(url, home, workers=options.workers, options=beside) as house:
            fake.tell(house.base + CALLBACKS)
            if options.faults:
                fake.switch(**FAULTS)
            yield house, fake


def _murder_of(cluster: Cluster) -> Murder:
    """Kill the database's server as well; it is started again at once."""

    def kill(_: random.Random) -> str:
        cluster.kill9()
        cluster.start()
        return "PostgreSQL with all its backends"

    return kill


def _audit(options: argparse.Namespace) -> int:
    told = read_told(options.told) if options.told else []
    with _database(options) as (url, _, home), onefold.connect(url) as db, provider_in(home) as fake:
        return _print(_audited(db, told, home, fake))


def _judge(
    options: argparse.Namespace, db: onefold.Database, heard: tuple[Tally, list[Told]], home: Path, fake: FakeProvider
) -> int:
    tally, told = heard
    fake.switch()  # What is still under way comes to its end.
    write_told(options.data / "told.jsonl", told)
    print(tally.report())
    report = _audited(db, told, home, fake)
    for text in tally.doubled:
        report.is_doubled(text)
    code = _print(report)
    if tally.surprises:
        print(f"{len(tally.surprises)} answers were not what a buyer should get", file=sys.stderr)
        return 1
    return code


def _audited(db: onefold.Database, told: list[Told], home: Path, fake: FakeProvider) -> Report:
    with fake.connect() as provider:
        return audit(db, told, outside=Witnesses(provider, fake.waiting, home))


def _print(report: Report) -> int:
    print(report.text(), flush=True)
    return 0 if report.passed else 1


def _crowd_of(options: argparse.Namespace, *, buyers: int) -> Crowd:
    seed = options.seed if options.seed is not None else secrets.randbelow(1_000_000)
    print(f"seed {seed}", flush=True)
    return Crowd(options.buyers or buyers, options.at_once, options.shows, options.cards, seed)


@contextlib.contextmanager
def _database(options: argparse.Namespace, *, fresh: str = "") -> Generator[tuple[str, Cluster | None, Path]]:
    """The URL of the database, of an empty one of its own when `fresh` names it; and the folder that goes with it."""
    if options.postgres:
        from onefold.testing.postgres import Cluster

        home = _emptied(options.data / "postgres")  # As empty as the database.
        with Cluster(fsync=True) as cluster:
            url = cluster.create_database("boxoffice")
            onefold.migrate(url)
            yield url, cluster, home
        return
    url = options.url or os.environ.get("ONEFOLD_URL")
    if url is None and fresh:
        home = _emptied(options.data / fresh)
        yield str(home / "boxoffice.db"), None, home
        return
    options.data.mkdir(parents=True, exist_ok=True)
    yield url or str(options.data / "boxoffice.db"), None, options.data


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _check_same(db: onefold.Database, base: str) -> None:
    """A shop that runs on another database would fail the audit for no reason."""
    show = asyncio.run(performances(base, 1))[0]
    try:
        db.reader().run(booking.show_of, show)
    except OnefoldError:
        raise RuntimeError(f"The shop at {base} runs on another database; name it with --url.") from None


def _shown(url: str) -> str:
    return "PostgreSQL" if url.startswith("postgres") else f"SQLite ({url})"


def _say(options: argparse.Namespace, text: str) -> None:
    if not options.quiet:
        print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
