"""The host's clock steps by hours, back and forth, under a process that works."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = str(Path(__file__).parent / "stepped_host.py")


def live(url: str, name: str, *hours: int) -> None:
    done = subprocess.run(
        [sys.executable, PROGRAM, url, name, *map(str, hours)], check=False, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr[-4_000:]
    assert done.stdout.strip() == "done"


@pytest.mark.slow
def test_a_stepping_clock_doubles_nothing_and_stops_nobody(db_url: str) -> None:
    live(db_url, "first", 0, 5, -3, 1, 9, -6, 0)
    live(db_url, "second", -2, 12, -1)  # It starts eleven hours before what the first one wrote.
