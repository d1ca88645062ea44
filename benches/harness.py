"""How everything here is measured: interleaved pairs, medians, ratios, and the machine beside them.

A bench is a module with `NAME`, `PAGE` (whose README gets the table) and `run(size) -> list[Table]`.
It starts its peer itself, gives both sides equal durability and the peer its best configuration, and
runs both in turn, so that a slow minute of the machine hits both.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import re
import shutil
import socket
import sqlite3
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import onefold
from onefold import Database
from onefold.testing.postgres import Cluster

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Size:
    """How much is measured: tiny proves that the bench runs, real is what pages show."""

    name: str
    rounds: int
    scale: float

    def of(self, count: int) -> int:
        """`count` operations at real size, fewer when tiny."""
        return max(1, int(count * self.scale))


TINY = Size("tiny", 1, 0.005)
REAL = Size("real", 5, 1.0)


@dataclass
class Sample:
    """One measured run: operations a second, and the latency of single ones if it was taken."""

    rate: float
    p50_ms: float = 0.0
    p99_ms: float = 0.0


@dataclass
class Table:
    """One table of a page. `bar` is what was to be reached, None where only the figure counts."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    missed: int = 0

    def markdown(self) -> str:
        """The table as the page shows it."""
        lines = [f"**{self.title}**", "", "| " + " | ".join(self.columns) + " |", "|" + "---|" * len(self.columns)]
        lines += ["| " + " | ".join(row) + " |" for row in self.rows]
        lines += ["", *[f"{note}  " for note in self.notes]] if self.notes else []
        return "\n".join(lines)

    def facts(self) -> dict[str, object]:
        """The same for programs: a mapping for each row."""
        rows = [dict(zip(self.columns, row, strict=True)) for row in self.rows]
        return {"title": self.title, "rows": rows, "notes": self.notes, "missed": self.missed}


def machine() -> str:
    """What the figures were taken on."""
    cpu = "unknown CPU"
    with contextlib.suppress(OSError):
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
        cpu = found[1] if found else cpu
    return (
        f"{os.cpu_count()} x {cpu}, CPython {platform.python_version()}, SQLite {sqlite3.sqlite_version}, "
        f"fdatasync {fdatasync_ms():.2f} ms"
    )


def fdatasync_ms(folder: Path | None = None) -> float:
    """Median time to overwrite 4 KiB and bring them to the disk that temporary files are on.

    Overwritten, not appended: a log that is reused, as SQLite's is, does not grow the file at every
    commit, and a probe that does is slower than what it is compared with.
    """
    times = []
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        descriptor = os.open(f"{scratch}/f", os.O_RDWR | os.O_CREAT)
        os.write(descriptor, b"x" * 4096 * 200)
        os.fsync(descriptor)
        os.lseek(descriptor, 0, os.SEEK_SET)
        for _ in range(200):
            before = time.perf_counter()
            os.write(descriptor, b"x" * 4096)
            os.fdatasync(descriptor)
            times.append(time.perf_counter() - before)
        os.close(descriptor)
    return statistics.median(times) * 1_000


def timed(operation: Callable[[int], object], count: int) -> Sample:
    """One caller, one operation after the other."""
    laps = []
    started = before = time.perf_counter()
    for n in range(count):
        operation(n)
        now = time.perf_counter()
        laps.append(now - before)
        before = now
    return sample(laps, before - started)


async def timed_crowd(operation: Callable[[int, int], Awaitable[object]], callers: int, each: int) -> Sample:
    """Many tasks at once, each in a closed loop; `operation(caller, number)`."""
    laps: list[float] = []

    async def caller(number: int) -> None:
        before = time.perf_counter()
        for n in range(each):
            await operation(number, n)
            now = time.perf_counter()
            laps.append(now - before)
            before = now

    started = time.perf_counter()
    await asyncio.gather(*(caller(number) for number in range(callers)))
    return sample(laps, time.perf_counter() - started)


def sample(laps: list[float], total_s: float) -> Sample:
    """Rate and quantiles of laps in seconds."""
    ordered = sorted(laps)
    return Sample(
        len(ordered) / total_s, ordered[len(ordered) // 2] * 1_000, ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)] * 1_000
    )


def median(samples: list[Sample]) -> Sample:
    """The sample with the median rate."""
    return sorted(samples, key=lambda one: one.rate)[len(samples) // 2]


def interleaved(rounds: int, *sides: Callable[[], Sample]) -> list[Sample]:
    """Run the sides in turn, `rounds` times; answer each side's median."""
    taken: list[list[Sample]] = [[] for _ in sides]
    for _ in range(rounds):
        for runs, side in zip(taken, sides, strict=True):
            runs.append(side())
    return [median(runs) for runs in taken]


def figure(rate: float) -> str:
    """A rate as pages show it."""
    return f"{rate / 1_000:.1f}k" if rate >= 10_000 else f"{rate:.0f}"


def row(table: Table, what: str, ours: Sample, peer: Sample | None, *, bar: float | None = None, peer_wins: bool = False) -> None:
    """Add one comparison; says when the bar is missed."""
    ratio = ours.rate / peer.rate if peer else 0.0
    verdict = "-" if bar is None else f">= {bar:g}x"
    if bar is not None and ratio < bar:
        verdict += " **missed**"
        table.missed += 1
    if peer_wins:
        verdict = "peer expected to win"
    table.rows.append((
        what, figure(ours.rate), f"{ours.p50_ms:.2f} / {ours.p99_ms:.2f}",
        figure(peer.rate) if peer else "-", f"{peer.p50_ms:.2f} / {peer.p99_ms:.2f}" if peer else "-",
        f"{ratio:.2f}" if peer else "-", verdict,
    ))  # fmt: skip


RATES = ("operation", "engine", "one caller /s", "p50 / p99 ms", "many at once /s", "p50 / p99 ms")


def rates(table: Table, engine: str, what: str, size: Size, one: Callable[[int], object], many: Callable[[int, int], Awaitable[object]], *, callers: int, count: int) -> None:
    """One row: a synchronous caller, and `callers` tasks; for what has no peer of its own."""
    alone, crowd = interleaved(
        size.rounds, lambda: timed(one, size.of(count)), lambda: asyncio.run(timed_crowd(many, callers, size.of(max(1, count // 10)))),
    )
    table.rows.append((
        what, engine, figure(alone.rate), f"{alone.p50_ms:.2f} / {alone.p99_ms:.2f}",
        figure(crowd.rate), f"{crowd.p50_ms:.2f} / {crowd.p99_ms:.2f}",
    ))  # fmt: skip


@contextlib.contextmanager
def both_engines() -> Iterator[list[tuple[str, Database, int]]]:
    """A fresh database on each engine, durable, with how many callers make sense there."""
    with tempfile.TemporaryDirectory() as folder, Cluster(fsync=True) as cluster:
        url = cluster.create_database("bench")
        onefold.migrate(url)
        with onefold.connect(Path(folder) / "bench.db") as embedded, onefold.connect(url) as server:
            yield [("SQLite", embedded, 128), ("PostgreSQL", server, 16)]


COMPARISON = ("what", "Onefold /s", "p50 / p99 ms", "peer /s", "p50 / p99 ms", "ratio", "bar")


@contextlib.contextmanager
def redis(*, appendfsync: str = "always") -> Iterator[int]:
    """A real redis-server with an append-only file, on a loopback port of its own; yields the port."""
    program = shutil.which("redis-server")
    if program is None:
        raise MissingPeer("redis-server is not installed (Debian: apt-get install redis-server)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen(
            [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--appendonly", "yes",
             "--appendfsync", appendfsync, "--save", "", "--loglevel", "warning"],
            stdout=subprocess.DEVNULL,
        )
        try:
            wait_for_port(port)
            yield port
        finally:
            server.terminate()
            server.wait(10)


def wait_for_port(port: int, seconds: float = 10.0) -> None:
    """Until somebody listens on the loopback port."""
    until = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if time.monotonic() > until:
            raise TimeoutError(f"nobody listens on port {port}")
        time.sleep(0.02)


class MissingPeer(Exception):
    """The peer cannot be started here; the bench says so and goes on."""


def write(page: Path, name: str, tables: list[Table], command: str) -> None:
    """Put the tables between `<!-- numbers: NAME -->` and `<!-- /numbers: NAME -->` of the page."""
    text = page.read_text(encoding="utf-8")
    start, end = f"<!-- numbers: {name} -->", f"<!-- /numbers: {name} -->"
    body = "\n\n".join(table.markdown() for table in tables)
    block = f"{start}\n{body}\n\nMeasured by `{command}` on {machine()}.\n{end}"
    if end in text:
        text = re.sub(re.escape(start) + ".*?" + re.escape(end), lambda _: block, text, flags=re.DOTALL)
    else:
        text = text.replace(start, block)
    page.write_text(text, encoding="utf-8")
