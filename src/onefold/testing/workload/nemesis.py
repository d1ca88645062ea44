"""Who breaks things while clients work: which fault befalls whom, when, and for how long, is drawn from the seed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from random import Random
from typing import Any

from onefold.core.errors import Invalid
from onefold.testing.checkers.history import NEMESIS
from onefold.testing.cluster import PROXY, Installation
from onefold.testing.workload.process import Process
from onefold.testing.workload.recording import Recorder

PAUSE_MS_MAX = 1_000  # Between two faults.
LASTS_MS_MAX = 500  # A fault that has an end.
BYTES_MAX = 4_000  # Through a connection before it is closed.

TERMINATE = """SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND random() < %s"""


class Nemesis:
    """Breaks what it is told to break, and mends it again; each fault stands in the history.

    Args:
        made: what it breaks.
        processes: those of the clients.
        faults: names in `FAULTS`; none of them breaks nothing.
        seed: of its dice.

    Raises:
        Invalid: there is no such fault, or not for this installation.
    """

    def __init__(
        self, made: Installation, processes: list[Process], recorder: Recorder, faults: Iterable[str], *, seed: str
    ) -> None:
        self.made, self.processes = made, processes
        self.dice = Random(f"{seed}/nemesis")  # noqa: S311
        self.done: list[str] = []
        self._recorder = recorder
        self._left = list(dict.fromkeys(faults))
        for name in self._left:
            if name not in FAULTS:
                raise Invalid("There is no such fault.", code="no_such_fault", fault=name, faults=list(FAULTS))
            if name not in ON_CLIENTS and made.primary is None:
                raise Invalid("Only PostgreSQL has that to break.", code="no_such_fault", fault=name)
        if "failover" in self._left and not made.standbys:
            raise Invalid("There is no standby to fail over to.", code="no_standby")

    def rage(self, seconds: float) -> None:
        """Break one thing after the other for so long, and until each fault was there: first each, then any of them."""
        give_up = time.monotonic() + seconds
        first = list(self._left)
        self.dice.shuffle(first)
        while first or time.monotonic() < give_up:
            time.sleep(self.dice.randrange(PAUSE_MS_MAX) / 1_000)
            if self._left:
                self.strike(first.pop() if first else self.dice.choice(self._left))

    def strike(self, name: str) -> None:
        """One fault, from its beginning to its end."""
        self.note(name, "begins")
        FAULTS[name](self)
        self.note(name, "is over")
        self.done.append(name)
        if name == "failover" and not self.made.standbys:
            self._left.remove(name)

    def note(self, name: str, text: str) -> None:
        """Into the history, and into the story of the installation."""
        self._recorder.write(NEMESIS, "info", name, text, client=NEMESIS)
        self.made.timeline.note(NEMESIS, f"{name} {text}")

    def somebody(self) -> Process:
        """One of the clients' processes."""
        return self.dice.choice(self.processes)

    def lasts(self) -> None:
        """Let a fault last."""
        time.sleep(self.dice.randrange(1, LASTS_MS_MAX) / 1_000)


def _kill(nemesis: Nemesis) -> None:
    process = nemesis.somebody()
    process.kill()
    process.start()


def _pause(nemesis: Nemesis) -> None:
    process = nemesis.somebody()
    process.pause()
    try:
        nemesis.lasts()
    finally:
        process.resume()


def _backends(nemesis: Nemesis) -> None:
    assert nemesis.made.primary is not None
    with nemesis.made.primary.admin() as connection:
        connection.execute(TERMINATE, [nemesis.dice.choice([0.2, 0.5, 1.0])])


def _restart(nemesis: Nemesis) -> None:
    assert nemesis.made.primary is not None
    nemesis.made.primary.restart(immediate=nemesis.dice.random() < 0.5)


def _failover(nemesis: Nemesis) -> None:
    nemesis.made.fail_over()


def _down(nemesis: Nemesis) -> None:
    assert nemesis.made.toxiproxy is not None
    with nemesis.made.toxiproxy.down(PROXY):
        nemesis.lasts()


def _toxic(type: str, attributes: Callable[[Random], dict[str, int]]) -> Callable[[Nemesis], None]:
    def strike(nemesis: Nemesis) -> None:
        assert nemesis.made.toxiproxy is not None
        drawn: dict[str, Any] = attributes(nemesis.dice)
        stream, toxicity = nemesis.dice.choice(["upstream", "downstream"]), nemesis.dice.choice([0.3, 1.0])
        nemesis.note(type, f"{stream} {drawn} for a share of {toxicity}")
        with contextlib.ExitStack() as stack:
            stack.enter_context(nemesis.made.toxiproxy.toxic(PROXY, type, stream=stream, toxicity=toxicity, **drawn))
            nemesis.lasts()

    return strike


ON_CLIENTS = ("kill", "pause")
#: What can befall a run. The first two befall the clients' processes, the others PostgreSQL and the way to it.
FAULTS: dict[str, Callable[[Nemesis], None]] = {
    "kill": _kill,
    "pause": _pause,
    "backends": _backends,
    "restart": _restart,
    "failover": _failover,
    "down": _down,
    "latency": _toxic("latency", lambda dice: {"latency": dice.randrange(5, 80), "jitter": 5}),
    "reset_peer": _toxic("reset_peer", lambda dice: {"timeout": dice.randrange(50)}),
    "timeout": _toxic("timeout", lambda dice: {"timeout": dice.randrange(1, 200)}),
    "limit_data": _toxic("limit_data", lambda dice: {"bytes": dice.randrange(1, BYTES_MAX)}),
}
