"""How soon a cluster is ready: processes started, database migrated, every node taking requests."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from benches.harness import Size, Table
from onefold.testing.cluster import cluster

NAME = "clusters"
PAGE = "src/onefold/testing/cluster/README.md"
BAR_S = 2.0  # Three nodes on SQLite.
MADE: list[tuple[str, dict[str, Any], float | None]] = [
    ("SQLite, 1 node", {"engine": "sqlite", "nodes": 1}, None),
    ("SQLite, 3 nodes", {"engine": "sqlite", "nodes": 3}, BAR_S),
    ("PostgreSQL, 3 nodes", {"engine": "postgres", "nodes": 3, "standbys": 0}, None),
    ("PostgreSQL, 3 nodes, a synchronous standby", {"engine": "postgres", "nodes": 3}, None),
]


def run(size: Size) -> list[Table]:
    """From the call of `cluster` to the first request that is answered by each node."""
    table = Table("From the call to nodes that answer", ("cluster", "median", "slowest", "processor time", "bar"))
    for what, how, bar_s in MADE if size.rounds > 1 else MADE[:1]:
        if size.rounds > 1:
            lap(**how)
        laps = sorted(lap(**how) for _ in range(size.of(5)))
        slowest, busy = laps[-1][0], sorted(busy for _, busy in laps)[len(laps) // 2]
        missed = bar_s is not None and slowest > bar_s
        table.missed += missed
        bar = "" if bar_s is None else f"<= {bar_s:g} s{': missed' if missed else ''}"
        table.rows.append((what, f"{laps[len(laps) // 2][0]:.2f} s", f"{slowest:.2f} s", f"{busy:.2f} s", bar))
    table.notes.append("Five of each, after one that was not counted: PostgreSQL's initdb runs once per process.")
    table.notes.append("Processor time is that of the nodes and of the caller, which share the cores.")
    return [table]


def lap(**how: Any) -> tuple[float, float]:
    """Seconds until every node answered, and of processor time."""
    began, own_s = time.monotonic(), time.process_time()
    with cluster(**how) as made:
        for node in made.nodes:
            status, _ = node.request("GET", "/readyz")
            assert status == 200
        took_s = time.monotonic() - began
        return took_s, time.process_time() - own_s + sum(processor_s(node.pid) for node in made.nodes)


def processor_s(process: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
