"""What clients asked and what they were told, in the form that checkers read."""

from __future__ import annotations

from typing import Any

from onefold.testing.simulation.clock import Time

Entry = dict[str, Any]
NEMESIS = "nemesis"
_NOTHING: Entry = {}


class History(list[Entry]):
    """A list of dicts as Jepsen writes them.

    Each has `index` (its place), `time` (simulated nanoseconds since the run began), `process`, `type`, `f`
    and `value`. A process is a number; what it invoked ends as "ok", as "fail" (it did not happen) or as
    "info" (nobody knows). After "info" a client goes on under another number. Faults are "info" of the
    process "nemesis". `client` names the client, for people; `transaction` marks what no program called an operation.
    """

    def __init__(self, time: Time) -> None:
        super().__init__()
        self._time = time
        self._began_ms = time.now_ms

    def add(self, process: int | str, kind: str, f: str, value: Any, *, client: str, more: Entry = _NOTHING) -> None:
        """Write one line."""
        self.append({
            "index": len(self), "time": (self._time.now_ms - self._began_ms) * 1_000_000, "process": process,
            "type": kind, "f": f, "value": value, "client": client, **more,
        })  # fmt: skip

    def operations(self) -> list[Entry]:
        """What programs called operations, for a checker: without transactions that stand for themselves."""
        return [entry for entry in self if "transaction" not in entry]

    def timeline(self, *, lines_max: int = 80) -> list[str]:
        """The run for people: one line for what each client was told, and for each fault."""
        lines: list[str] = []
        asked: dict[Any, Entry] = {}  # Not answered yet.
        for entry in self:
            at = f"{entry['time'] // 1_000_000:>9} ms  {entry['client']:<12}"
            if entry["type"] == "invoke":
                asked[entry["process"]] = entry
            elif entry["process"] == NEMESIS:
                lines.append(f"{at} !! {entry['f']}{_shown(entry['value'], ' ')}")
            else:
                told = entry.get("error") or _shown(entry["value"], "") or "None"
                lines.append(f"{at} {_call(asked.pop(entry['process']))} {entry['type']}: {told}")
        lines += [f"{'':>12}  {entry['client']:<12} {_call(entry)} ..." for entry in asked.values()]
        cut = len(lines) - lines_max
        return lines if cut <= 0 else [f"  ... {cut} lines before", *lines[cut:]]


def _call(entry: Entry) -> str:
    return f"{entry['f']}({_shown(entry['value'], '')})"


def _shown(value: Any, before: str) -> str:
    if value is None or value == ():
        return ""
    text = ", ".join(map(repr, value)) if isinstance(value, tuple) else repr(value)
    return before + (text if len(text) <= 160 else text[:157] + "...")
