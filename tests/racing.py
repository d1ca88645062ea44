"""Races for tests: transactions stepped by hand, calls that start together, processes killed in the middle."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable

from waiting import WAIT_S, until

from onefold import Database, Tx

JOIN_S = 60.0


class Step:
    """A place in a function where the test stops it: `reached` tells, `go` lets it on, the end of the block too."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.go = threading.Event()

    def stop(self) -> None:
        self.reached.set()
        assert self.go.wait(WAIT_S)

    def __enter__(self) -> Step:
        return self

    def __exit__(self, *_: object) -> None:
        self.go.set()


def somebody_waits(db: Database) -> bool:
    """Whether a backend of this PostgreSQL database waits for a row."""

    def waiting(tx: Tx) -> bool:
        return bool(tx.one(
            """SELECT count(*) FROM pg_stat_activity -- :space
                WHERE datname = current_database() AND wait_event_type = 'Lock'"""
        )[0])  # fmt: skip

    return db.reader().run(waiting)


def until_somebody_waits(db: Database) -> None:
    until(lambda: somebody_waits(db), "a wait for a row")


def at_once(*calls: Callable[[], object]) -> list[object]:
    """Run the calls on threads that start together; answers their results, or the error of each."""
    results: list[object] = [None] * len(calls)
    start = threading.Barrier(len(calls))

    def drive(number: int, call: Callable[[], object]) -> None:
        start.wait(JOIN_S)
        try:
            results[number] = call()
        except Exception as error:  # noqa: BLE001  Told to the test.
            results[number] = error

    threads = [threading.Thread(target=drive, args=item) for item in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(JOIN_S)
        assert not thread.is_alive()
    return results


def kill_after(acknowledged: int, program: str, *arguments: str) -> set[str]:
    """Start a program that prints a line for each thing done, kill it after some; answers all whole lines."""
    victim = subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with victim:
        assert victim.stdout is not None
        assert victim.stderr is not None
        said = []
        for line in victim.stdout:
            said.append(line)
            if len(said) == acknowledged:
                victim.send_signal(signal.SIGKILL)
                break
        said += victim.stdout.readlines()
        errors = victim.stderr.read()
    assert len(said) >= acknowledged, errors
    return {line.strip() for line in said if line.endswith("\n")}
