"""`onefold bench`: all benches in a checkout; elsewhere, what one commit costs here."""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from onefold.cli.answer import file_of, is_postgres, say, table
from onefold.cli.progress import Progress
from onefold.core.errors import Invalid
from onefold.engine.connect import connect
from onefold.engine.database import Handle
from onefold.engine.tx import Tx
from onefold.host.disks import sync_rate

CALLERS = 128
SPACE = "onefold/bench"


def command(options: argparse.Namespace) -> int:
    """Measure; in a checkout by its own benches."""
    if Path("benches/__main__.py").is_file() and importlib.util.find_spec("onefold") is not None:
        words = [*options.names, *(["--json"] if options.json else [])]
        return subprocess.run([sys.executable, "-m", "benches", *words], check=False).returncode  # noqa: S603
    if options.names:
        raise Invalid("Benches by name need a checkout; run this in its folder.", names=options.names)
    with Progress(options) as tell:
        rows = _probe(options.url, options.seconds, tell)
    say(
        options,
        [{"what": what, "per_second": round(rate), "median_ms": round(ms, 3)} for what, rate, ms in rows],
        lambda: table(("WHAT", "PER SECOND", "MEDIAN MS"), [(w, f"{r:,.0f}", f"{m:.3f}") for w, r, m in rows]),
    )
    return 0


def _probe(url: str, seconds: float, tell: Progress) -> list[tuple[str, float, float]]:
    if is_postgres(url):
        with connect(url) as db:
            return _commits(db.at(SPACE), seconds, tell)
    folder = file_of(url).parent
    with tempfile.TemporaryDirectory(prefix="onefold-bench-", dir=folder) as place:
        tell("the disk", 0, 0)
        rate, ms = sync_rate(Path(place), seconds=seconds)
        with connect(Path(place) / "bench.db") as db:
            return [("4 KiB durable", rate, ms), *_commits(db.at(SPACE), seconds, tell)]


def _commits(handle: Handle, seconds: float, tell: Progress) -> list[tuple[str, float, float]]:
    tell("one caller", 0, 0)
    took: list[float] = []
    until = time.perf_counter() + seconds
    while (started := time.perf_counter()) < until:
        handle.run(_count)
        took.append(time.perf_counter() - started)
    alone = ("commit, 1 caller", len(took) / sum(took), sorted(took)[len(took) // 2] * 1_000)
    tell(f"{CALLERS} callers", 0, 0)
    return [alone, asyncio.run(_together(handle, seconds))]


async def _together(handle: Handle, seconds: float) -> tuple[str, float, float]:
    took: list[float] = []
    began = time.perf_counter()
    until = began + seconds

    async def caller() -> None:
        while (started := time.perf_counter()) < until:
            await handle.arun(_count)
            took.append(time.perf_counter() - started)

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    rate = len(took) / (time.perf_counter() - began)
    return f"commit, {CALLERS} callers", rate, sorted(took)[len(took) // 2] * 1_000


def _count(tx: Tx) -> None:
    tx.add("bench", 1)
