"""What happened where, in one order: requests, faults, and the lines of every log."""

from __future__ import annotations

import datetime as dt
import re
import time
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

LINES_MAX = 400  # Of a timeline in print; the last ones.
NOTES_MAX = 100_000  # The last ones; a run may last a day.
TEXT_LENGTH_MAX = 300

_POSTGRES = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}) UTC \[\d+\] (.*)")


class Entry(NamedTuple):
    """One line of a timeline."""

    at_ms: int
    who: str
    text: str


class Timeline:
    """What was noted as it happened; `told` adds the logs."""

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque(maxlen=NOTES_MAX)

    def note(self, who: str, text: str) -> None:
        """It happens now."""
        self._entries.append(Entry(time.time_ns() // 1_000_000, who, text))

    def told(self, logs: Iterable[tuple[str, str]], *, ahead_ms: Mapping[str, int] | None = None) -> str:
        """The last 400 lines of all, in the order of their times.

        Args:
            logs: who wrote what.
            ahead_ms: by how much the clocks of some of them are ahead.
        """
        entries = list(self._entries)
        begins: dict[str, int] = {}
        for entry in entries:
            begins.setdefault(entry.who, entry.at_ms)
        for who, text in logs:
            skew_ms = (ahead_ms or {}).get(who, 0)
            begins_ms = begins.get(who, entries[0].at_ms if entries else 0) + skew_ms
            entries += [entry._replace(at_ms=entry.at_ms - skew_ms) for entry in read(who, text, begins_ms=begins_ms)]
        entries.sort(key=lambda entry: entry.at_ms)  # Stable: lines of one log stay in their order.
        first = entries[0].at_ms if entries else 0
        lines = [f"{(e.at_ms - first) / 1_000:9.3f} s  {e.who:<12} {e.text[:TEXT_LENGTH_MAX]}" for e in entries]
        left_out = len(lines) - LINES_MAX
        head = [f"({left_out} earlier lines are left out)"] if left_out > 0 else []
        return "\n".join([*head, *lines[-LINES_MAX:]])


def read(who: str, log: str, *, begins_ms: int = 0) -> list[Entry]:
    """The lines of a log of ours (JSON) or of PostgreSQL's.

    A line without a time belongs to the one before it, and the first of all to `begins_ms`.
    """
    entries: list[Entry] = []
    at_ms = begins_ms
    for line in log.splitlines():
        if (found := _POSTGRES.match(line)) is not None:
            moment = dt.datetime.strptime(found[1], "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=dt.UTC)
            at_ms, text = int(moment.timestamp() * 1_000), found[2]
        elif line.startswith("{"):
            at_ms, text = _ours(line, at_ms)
        else:
            text = line
        entries.append(Entry(at_ms, who, text))
    return entries


def _ours(line: str, before_ms: int) -> tuple[int, str]:
    try:
        fields: dict[str, Any] = msgspec.json.decode(line, type=dict[str, Any])
        at_ms = int(fields.pop("at_ms"))
    except (msgspec.DecodeError, KeyError, TypeError, ValueError):
        return before_ms, line
    head = f"{fields.pop('level', '')} {fields.pop('message', '')}"
    return at_ms, " ".join([head, *(f"{name}={value}" for name, value in fields.items())])
