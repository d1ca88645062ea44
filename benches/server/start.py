"""How soon `onefold serve` is ready, and how much memory it takes."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from benches.harness import Size, Table

NAME = "start"
PAGE = "src/onefold/server/README.md"
READY_S = 1.0
MEMORY_MB = 100.0


def run(size: Size) -> list[Table]:
    """Median of several starts, on a database that exists."""
    table = Table("`onefold serve` on SQLite", ("what", "measured", "bar"))
    with tempfile.TemporaryDirectory() as folder:
        taken = sorted(start_once(Path(folder) / "bench.db") for _ in range(max(2, size.rounds)))
        seconds, megabytes = taken[len(taken) // 2]
    for what, value, unit, bar in (("ready", seconds, "s", READY_S), ("resident memory", megabytes, "MB", MEMORY_MB)):
        table.missed += value >= bar
        table.rows.append((what, f"{value:.2f} {unit}", f"< {bar:g} {unit}" + ("" if value < bar else " **missed**")))
    return [table]


def start_once(path: Path) -> tuple[float, float]:
    """Seconds until /readyz answers 200, and the process's resident memory then."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    begun = time.monotonic()
    server = subprocess.Popen(
        [sys.executable, "-m", "onefold.cli.main", "serve", "--url", str(path), "--port", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
                    break
            except (urllib.error.URLError, OSError):
                if time.monotonic() - begun > 30:
                    raise
                time.sleep(0.005)
        seconds = time.monotonic() - begun
        status = Path(f"/proc/{server.pid}/status").read_text(encoding="ascii")
        found = re.search(r"VmRSS:\s+(\d+)", status)
        assert found is not None
        return seconds, int(found[1]) / 1_024
    finally:
        server.terminate()
        server.wait(20)
