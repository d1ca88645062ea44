"""Who a process is, beyond its number: a pid is used again, a pid with its start time is not; and what it runs on."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import re
from collections.abc import Callable, Generator
from pathlib import Path

_IDENTITY = re.compile(r"[1-9][0-9]{0,8} [0-9]{1,19}")  # Zero and negative numbers mean groups to kill(2).


def is_identity(who: str) -> bool:
    """Whether `identity` may have written it: a file holds whatever somebody put there."""
    return _IDENTITY.fullmatch(who) is not None


def start_time(pid: int) -> int | None:
    """Clock ticks since boot at which `pid` started; None when it is gone or not told here."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    # The name in parentheses may hold spaces; field 22 of proc(5) counts from the pid.
    return int(stat.rpartition(")")[2].split()[19])


def identity() -> str:
    """This process as "pid start_time"; the time is 0 where the system does not tell."""
    pid = os.getpid()
    return f"{pid} {start_time(pid) or 0}"


def is_alive(who: str) -> bool:
    """Whether the process that `identity` named still runs; False for what names none."""
    if not is_identity(who):
        return False
    pid, _, started = who.partition(" ")
    now = start_time(int(pid))
    if now is not None:
        return started in {"0", str(now)}
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not Path("/proc/self").exists()  # With /proc, no entry means no process.


def allow_descriptors(count: int) -> int:
    """Raise this process's limit of open files to `count` where the system lets it; what the limit is then."""
    try:
        import resource
    except ImportError:  # Windows: sockets are not counted among files there.
        return count
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= count:
        return count
    allowed = count if hard == resource.RLIM_INFINITY else min(count, hard)
    with contextlib.suppress(OSError, ValueError):  # Some systems have one more limit, and tell it so.
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        return allowed
    return soft


@contextlib.contextmanager
def threads_on_one_processor() -> Generator[None]:
    """Threads that are started inside stay on the processor that runs this one now, as far as the system has that.

    For threads of which one runs at a time: none of them has a use for a second processor, and to wake the next one
    there costs more than a small transaction. This thread itself may go where it likes again afterwards.
    """
    ask = _sched_getcpu()
    processor = -1 if ask is None else ask()
    if processor < 0:
        yield
        return
    before = os.sched_getaffinity(0)
    try:  # From here on: a signal may come between any two lines.
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, {processor})
        yield
    finally:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, before)


def never_push_others_out() -> None:
    """Have this thread, when it is woken, wait for its turn on the processor (Linux's SCHED_BATCH)."""
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


@functools.cache
def _sched_getcpu() -> Callable[[], int] | None:
    if not hasattr(os, "sched_setaffinity"):
        return None
    try:
        return ctypes.CDLL(None).sched_getcpu
    except (OSError, AttributeError):  # No such function.
        return None
