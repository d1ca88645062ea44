"""The history of a run: each process writes what it asks and hears into a file of its own; here they become one.

A line is written before its question is asked, and after its answer was heard, so that a process may be killed
anywhere: what stands in the file was at least begun. All clocks are CLOCK_MONOTONIC of one machine, so that the
order of times is the order of events, and an operation seems at most longer than it was.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from onefold.testing.checkers.history import NEMESIS

Event = dict[str, Any]


class Recorder:
    """Appends events to a file, a line each; for all threads of a process."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._lock = threading.Lock()
        self._last_ns = 0

    def write(self, process: int | str, kind: str, f: str, value: Any, **more: Any) -> None:
        """Write one event, with the time that it is."""
        event: Event = {"process": process, "type": kind, "f": f, "value": value, **more}
        encoded = msgspec.json.encode(event)  # Before the clock is read: an answer was heard before it was written.
        with self._lock:
            self._last_ns = now_ns = max(time.monotonic_ns(), self._last_ns + 1)
            line = b'{"time":%d,%s\n' % (now_ns, encoded[1:])
            while line:
                line = line[os.write(self._file, line) :]

    def close(self) -> None:
        """No more events."""
        os.close(self._file)


def events_of(paths: Iterable[Path], *, began_ns: int) -> list[Event]:
    """The events of all files in the order of their times, counted from `began_ns`. A line cut by a death is none."""
    events: list[Event] = []
    for path in paths:
        for line in path.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                event = msgspec.json.decode(line, type=Event)
                events.append({"index": 0, **event, "time": event["time"] - began_ns})
    # Of the same moment invocations come first: then the two overlap, which promises less.
    events.sort(key=lambda event: (event["time"], event["type"] != "invoke"))
    for index, event in enumerate(events):
        event["index"] = index
    return events


def write_history(path: Path, events: Iterable[Event]) -> None:
    """Write a file that `onefold check` reads."""
    path.write_bytes(b"".join(msgspec.json.encode(event) + b"\n" for event in events))


def counts_of(events: Iterable[Event]) -> dict[str, int]:
    """How many operations of clients ended how; `info` are those that nobody heard of."""
    counts = {"ok": 0, "fail": 0, "info": 0}
    open_ = 0
    for event in events:
        if event["process"] == NEMESIS:
            continue
        if event["type"] == "invoke":
            open_ += 1
        else:
            open_ -= 1
            counts[event["type"]] += 1
    counts["info"] += open_
    return counts
