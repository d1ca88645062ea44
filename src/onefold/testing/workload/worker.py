"""A process of a run: some clients on threads, until its stdin ends. The runner starts it, and kills it.

A program that hangs is told with the place where it does: all stacks are written then, and the process ends.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import traceback
from pathlib import Path

import msgspec

from onefold.core.errors import Retry, Unknown
from onefold.engine.call import Isolation
from onefold.engine.connect import connect
from onefold.engine.database import Database
from onefold.testing.simulation.plain import plain
from onefold.testing.workload.client import Client
from onefold.testing.workload.recording import Recorder
from onefold.testing.workload.servers import Servers
from onefold.testing.workload.workload import Program, program_at

READY = "ready"
FAILED = 1  # The exit code of a program with an error.


class Order(msgspec.Struct, frozen=True):
    """What a process is to do."""

    url: str
    place: str
    record: str
    paths: list[str]
    seed: str
    first: int
    """The number of its first client."""
    clients: int
    start: int
    """How often this process was started, from 1."""
    isolation: Isolation
    deadline_ms: int
    once: bool
    """Its clients run the program once, instead of until stdin ends."""
    doors: list[int]
    """The ports of the proxies before the nodes."""
    token: str
    start_s: float
    end_s: float
    """How long its start may take; and its end, or all of it where it runs once."""


def main() -> int:
    """Run the order that is the first line of stdin.

    Ends with `FAILED`, at once, when a program fails in a way that programs should not.
    """
    order = msgspec.json.decode(sys.stdin.buffer.readline(), type=Order)
    faulthandler.dump_traceback_later(order.start_s, exit=True)  # With an exit code of `FAILED`.
    sys.path[:0] = [path for path in order.paths if path not in sys.path]
    program = program_at(order.place)
    stop = threading.Event()
    recorder = Recorder(Path(order.record))
    with connect(order.url) as db:
        threads = [
            threading.Thread(target=_live, args=(order, program, db, recorder, number, stop))
            for number in range(order.first, order.first + order.clients)
        ]
        for thread in threads:
            thread.start()
        print(READY, flush=True)
        if not order.once:
            faulthandler.cancel_dump_traceback_later()
            sys.stdin.buffer.read()
            stop.set()
        faulthandler.dump_traceback_later(order.end_s, exit=True)
        for thread in threads:
            thread.join()
    recorder.close()
    return 0


def _live(
    order: Order, program: Program, db: Database, recorder: Recorder, number: int, stop: threading.Event
) -> None:
    servers = Servers(order.doors, order.token, first=number) if order.doors else None
    client = Client(
        db, recorder, stop, number=number, start=order.start, seed=order.seed, isolation=order.isolation,
        deadline_ms=order.deadline_ms, servers=servers,
    )
    while not stop.is_set():
        try:
            plain(program, program(client))
        except (Unknown, Retry):
            client.incarnation += 1  # As a process that gives up and is started again; it remembers nothing.
            continue
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(FAILED)  # At once, so that a fault finds the process dead and the error is not lost with it.
        if order.once:
            return


if __name__ == "__main__":
    sys.exit(main())
