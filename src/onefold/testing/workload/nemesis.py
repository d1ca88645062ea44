"""Who breaks things while clients work: which fault befalls whom, when, and for how long, is drawn from the seed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from random import Random
from typing import Any

from onefold.core.errors import Invalid
from onefold.testing.checkers.history import NEMESIS
from onefold.testing.cluster import Installation
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
        self._faults = list(dict.fromkeys(faults))
        for name in self._faults:
            if name not in FAULTS:
                raise Invalid("There is no such fault.", code="no_such_fault", fault=name, faults=list(FAULTS))
            if name not in faults_for(made):
                raise Invalid("This installation has not what that breaks.", code="no_such_fault", fault=name)

    def rage(self, seconds: float) -> None:
        """Break one thing after the other for so long, and until each fault was there: first each, then any of them.

        Raises:
            RuntimeError: a program of the clients failed, or a node ended by itself.
        """
        give_up = time.monotonic() + seconds
        first = list(self._faults)
        self.dice.shuffle(first)
        while first or time.monotonic() < give_up:
            time.sleep(self.dice.randrange(PAUSE_MS_MAX) / 1_000)
            for process in self.processes:
                process.check()
            for node in self.made.nodes:
                node.check()
            if self._faults:
                self.strike(first.pop() if first else self.dice.choice(self._faults))

    def strike(self, name: str) -> None:
        """One fault, from its beginning to its end."""
        self.note(name, "begins")
        FAULTS[name](self)
        self.note(name, "is over")
        self.done.append(name)

    def note(self, name: str, text: str) -> None:
        """Into the history, and into the story of the installation."""
        self._recorder.write(NEMESIS, "info", name, text, client=NEMESIS)
        self.made.timeline.note(NEMESIS, f"{name} {text}")

    def somebody(self) -> Process:
        """One of the clients' processes."""
        return self.dice.choice(self.processes)

    def standby(self) -> str:
        """The name of the one that is promoted next; a new one where the last failover took the last."""
        standbys = self.made.standbys
        return (standbys[0] if standbys else self.made.add_standby()).name

    def way(self) -> str:
        """One of the proxies: to the primary, or to a node."""
        ways = [node.name for node in self.made.nodes]
        return self.dice.choice([self.made.proxy, *ways] if self.made.primary is not None else ways)

    def lasts(self) -> None:
        """Let a fault last."""
        time.sleep(self.dice.randrange(1, LASTS_MS_MAX) / 1_000)


def _kill(nemesis: Nemesis) -> None:
    process = nemesis.somebody()
    process.kill()
    process.check()  # It had failed before: its error would be lost with it.
    process.start()


def _pause(nemesis: Nemesis) -> None:
    process = nemesis.somebody()
    process.pause()
    try:
        nemesis.lasts()
    finally:
        process.resume()


def _kill_node(nemesis: Nemesis) -> None:
    node = nemesis.dice.choice(nemesis.made.nodes)
    node.check()  # As with a process of clients.
    node.kill()
    node.start()


def _pause_node(nemesis: Nemesis) -> None:
    node = nemesis.dice.choice(nemesis.made.nodes)
    node.pause()
    try:
        nemesis.lasts()
    finally:
        node.resume()


def _backends(nemesis: Nemesis) -> None:
    assert nemesis.made.primary is not None
    with nemesis.made.primary.admin() as connection:
        connection.execute(TERMINATE, [nemesis.dice.choice([0.2, 0.5, 1.0])])


def _restart(nemesis: Nemesis) -> None:
    assert nemesis.made.primary is not None
    nemesis.made.primary.restart(immediate=nemesis.dice.random() < 0.5)


def _failover(nemesis: Nemesis) -> None:
    nemesis.standby()
    nemesis.made.fail_over()


def _cut_standby(nemesis: Nemesis) -> None:
    assert nemesis.made.toxiproxy is not None
    with nemesis.made.toxiproxy.down(nemesis.standby()):
        nemesis.lasts()


def _down(nemesis: Nemesis) -> None:
    assert nemesis.made.toxiproxy is not None
    with nemesis.made.toxiproxy.down(nemesis.way()):
        nemesis.lasts()


def _toxic(type: str, attributes: Callable[[Random], dict[str, int]]) -> Callable[[Nemesis], None]:
    def strike(nemesis: Nemesis) -> None:
        assert nemesis.made.toxiproxy is not None
        drawn: dict[str, Any] = attributes(nemesis.dice)
        stream, toxicity = nemesis.dice.choice(["upstream", "downstream"]), nemesis.dice.choice([0.3, 1.0])
        way = nemesis.way()
        nemesis.note(type, f"to {way} {stream} {drawn} for a share of {toxicity}")
        with nemesis.made.toxiproxy.toxic(way, type, stream=stream, toxicity=toxicity, **drawn):
            nemesis.lasts()

    return strike


ON_CLIENTS = ("kill", "pause")
ON_NODES = ("kill_node", "pause_node")
ON_STANDBYS = ("cut_standby", "failover")
ON_POSTGRES = ("backends", "restart", *ON_STANDBYS)
#: What can befall a run: the clients' processes, the nodes, PostgreSQL, and the ways to both.
FAULTS: dict[str, Callable[[Nemesis], None]] = {
    "kill": _kill,
    "pause": _pause,
    "kill_node": _kill_node,
    "pause_node": _pause_node,
    "backends": _backends,
    "restart": _restart,
    "cut_standby": _cut_standby,
    "failover": _failover,
    "down": _down,
    "latency": _toxic("latency", lambda dice: {"latency": dice.randrange(5, 80), "jitter": 5}),
    "bandwidth": _toxic("bandwidth", lambda dice: {"rate": dice.randrange(1, 20)}),
    "slow_close": _toxic("slow_close", lambda dice: {"delay": dice.randrange(1, 200)}),
    "reset_peer": _toxic("reset_peer", lambda dice: {"timeout": dice.randrange(50)}),
    "timeout": _toxic("timeout", lambda dice: {"timeout": dice.randrange(1, 200)}),
    "slicer": _toxic("slicer", lambda dice: {"average_size": dice.randrange(2, 64), "size_variation": 1, "delay": 20}),
    "limit_data": _toxic("limit_data", lambda dice: {"bytes": dice.randrange(1, BYTES_MAX)}),
}


def faults_for(made: Installation) -> list[str]:
    """The names in `FAULTS` of what there is to break."""
    lacks: set[str] = set()
    if not made.nodes:
        lacks.update(ON_NODES)
    if made.primary is None:
        lacks.update(ON_POSTGRES)
        if not made.nodes:
            lacks.update(set(FAULTS) - set(ON_CLIENTS))
    elif not made.standbys:
        lacks.update(ON_STANDBYS)
    return [name for name in FAULTS if name not in lacks]
