"""Waiting for what gives no signal: another process, or a place inside the engine that tells nobody.

Whatever can tell is waited for itself: an event, a pipe, a barrier, a future. This is the only module of the tests
that sleeps, and `test_tidy` sees to it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

WAIT_S = 30.0
_LOOK_S = 0.005

T = TypeVar("T")


def until(condition: Callable[[], T], what: str = "it", *, seconds: float = WAIT_S) -> T:
    """Look again and again until `condition` answers something true, and answer that; fail after `seconds`."""
    give_up = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < give_up, f"{what} did not happen within {seconds} s"
        time.sleep(_LOOK_S)
    return found


async def auntil(condition: Callable[[], T], what: str = "it", *, seconds: float = WAIT_S) -> T:
    """The same in a task; the loop goes on meanwhile."""
    give_up = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < give_up, f"{what} did not happen within {seconds} s"
        await asyncio.sleep(_LOOK_S)
    return found


def let_pass(ms: int) -> None:
    """Return when `ms` have passed on the clock of deadlines, which is the machine's: no test moves it."""
    over_ns = time.monotonic_ns() + ms * 1_000_000
    until(lambda: time.monotonic_ns() > over_ns, f"{ms} ms")


def is_gone(pid: int) -> bool:
    """In a container whose first process reaps nobody, dead orphans stay listed."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
