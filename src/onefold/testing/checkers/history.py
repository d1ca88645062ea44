"""Histories: what clients asked a system to do, when, and what it answered.

An event is `invoke`, or a completion: `ok` (it happened), `fail` (it did not) or `info` (nobody
knows: it may take effect at any time after its invocation, or never). An operation is an invocation
with its completion. The order of events is the order of time; their clock readings are only shown.
This is the form of Jepsen: https://github.com/jepsen-io/history.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from onefold.core.errors import Invalid
from onefold.core.printable import printable
from onefold.testing.checkers.edn import frozen

EVENTS_MAX = 4_000_000
TYPES = frozenset({"invoke", "ok", "fail", "info"})
NEVER = 1 << 62  # When an operation completes that never did.
NEMESIS = "nemesis"  # Jepsen's process that breaks things; it is no client.


class Operation(msgspec.Struct, frozen=True, eq=False, gc=False):
    """One invocation and its completion. Two operations are never equal; each is itself."""

    process: Any
    type: str
    """`ok`, `fail` or `info`; an invocation that nothing answered is `info`."""
    f: str
    input: Any
    """The value that was asked with."""
    output: Any
    """The value that was answered; None unless `type` is `ok`."""
    invoked: int
    """The place of the invocation among the events, from 0."""
    completed: int
    """The place of the completion among the events; `NEVER` for `info`."""
    key: Any = None
    """Which of several objects it is about, when an event said so in a field of its own."""
    time: int | None = None
    index: int = 0
    """What the file calls the operation: the `index` of its completion, else of its invocation."""
    refused: bool = False
    """It failed without an error: the system answered no, after a look at its state."""

    def __str__(self) -> str:
        """`#7 p3 write 4`, `#9 p1 read -> 3`, `#11 p2 cas [1, 4] (unknown)`."""
        parts = [f"#{self.index}", "" if self.process is None else f"p{show(self.process)}", self.f or "txn"]
        parts += [] if self.key is None else [f"key {self.key}"]
        if self.type == "ok" and self.output != self.input:
            parts += ([] if self.input is None else [show(self.input)]) + ["->", show(self.output)]
        else:
            parts.append("" if self.input is None and self.type != "ok" else show(self.input))
        parts.append({"ok": "", "fail": "(failed)", "info": "(unknown)"}[self.type])
        return printable(" ".join(part for part in parts if part))


class History:
    """The operations of a run, in the order of their invocations."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        self.operations: list[Operation] = sorted(operations, key=lambda op: op.invoked)

    @classmethod
    def of(cls, events: Iterable[Mapping[str, Any]]) -> History:
        """A history of events: mappings with `type`, `process`, `f`, `value`, and perhaps `key`, `time`, `index`.

        A completion without invocation (short histories in papers and tests have only these) counts
        as invoked in the same moment. Events that name no process are of one process for each `f`. Events of
        the nemesis are passed over.

        Raises:
            Invalid: an event has no known type, or a process invokes while its former invocation is open;
                `event` (from 0) says where.
        """
        return cls(_paired(events))

    def __len__(self) -> int:
        return len(self.operations)

    def where(self, *types: str) -> list[Operation]:
        """The operations of these types."""
        return [op for op in self.operations if op.type in types]


def show(value: Any) -> str:
    """A value as people write it; long ones are cut."""
    if isinstance(value, (tuple, list)):
        text = f"[{' '.join(show(one) for one in value[:40])}{' ...' if len(value) > 40 else ''}]"
    elif isinstance(value, frozenset):
        text = f"#{{{' '.join(sorted(show(one) for one in value))}}}"
    else:
        text = "nil" if value is None else printable(str(value))
    return text if len(text) <= 400 else f"{text[:390]} ..."


def _paired(events: Iterable[Mapping[str, Any]]) -> Iterable[Operation]:
    waiting: dict[Any, tuple[int, Mapping[str, Any]]] = {}
    for place, event in enumerate(events):
        if place >= EVENTS_MAX:
            raise Invalid("The history is too long.", code="too_long", events_max=EVENTS_MAX)
        kind, process = _kind(event, place), frozen(event.get("process"))
        if process == NEMESIS:
            continue
        who = process if process is not None else (None, event.get("f"))
        if kind == "invoke":
            if who in waiting:
                raise Invalid(
                    "A process invokes while its former invocation is open.",
                    code="not_a_history", event=place, process=process,
                )  # fmt: skip
            waiting[who] = (place, event)
            continue
        began = waiting.pop(who, None)
        if began is not None:
            yield _operation(began[1], event, kind, began[0], place)
        elif kind != "info":  # What a client says of itself without having been asked is a remark.
            yield _operation(event, event, kind, place, place)
    for place, event in waiting.values():
        yield _operation(event, event, "info", place, NEVER)


def _kind(event: Mapping[str, Any], place: int) -> str:
    if not isinstance(event, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]  It comes out of a file.
        raise Invalid("An event is no map.", code="not_a_history", event=place)
    kind = str(event.get("type")).lstrip(":")
    if kind not in TYPES:
        raise Invalid("An event has no known type.", code="not_a_history", event=place, type=kind)
    return kind


def _operation(
    invocation: Mapping[str, Any], completion: Mapping[str, Any], kind: str, invoked: int, completed: int
) -> Operation:
    asked = frozen(invocation.get("value"))
    key, time = invocation.get("key"), invocation.get("time")
    index = completion.get("index", invocation.get("index"))
    return Operation(
        process=frozen(invocation.get("process")),
        type=kind,
        f=str(invocation.get("f") or "").lstrip(":"),
        input=asked,
        output=frozen(completion.get("value")) if kind == "ok" else None,
        invoked=invoked,
        completed=NEVER if kind == "info" else completed,
        key=frozen(key),
        time=time if isinstance(time, int) else None,
        index=index if isinstance(index, int) else (invoked if completed == NEVER else completed),
        refused=kind == "fail" and "error" not in completion and frozen(completion.get("value")) in {None, asked},
    )
