"""Which model a history is of, by its operations, when nobody says it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from onefold.core.errors import Invalid
from onefold.testing.checkers.history import History, Operation

_LOCKS = frozenset({"acquire", "release", "lock", "unlock"})
_KEYED = frozenset({"get", "put", "append", "cas", "delete", "read", "write"})


def guess(history: History) -> str:
    """The name of the model whose operations a history has.

    Raises:
        Invalid: no model has them, or it takes more than a look to tell.
    """
    fs = {op.f for op in history.operations}
    micros = [micro for op in history.operations for micro in _micros(op)]
    if micros:
        return "long-fork" if fs <= {"read", "write"} else _transactional(micros)
    if fs and fs <= {"read", "write", "cas"} and not any(op.key is not None for op in history.operations):
        return "cas-register" if "cas" in fs else "comments" if _answers_all(history) else "register"
    if fs and fs <= _KEYED:
        return "key-value"
    if fs and fs <= _LOCKS:
        fenced = any(type(op.output) in {int, frozenset} for op in history.where("ok") if op.f in {"acquire", "lock"})
        return "fenced-mutex" if fenced else "mutex"
    if fs and fs <= {"enqueue", "dequeue"}:
        return "unordered-queue"  # Nothing shows that it promised more.
    if "drain" in fs and fs <= {"enqueue", "dequeue", "drain"}:
        return "total-queue"
    if fs == {"generate"}:
        return "unique-ids"
    if "transfer" in fs and fs <= {"transfer", "read"}:
        return "bank"
    if fs <= {"add", "remove", "contains"} and fs:
        return "set"
    if "read" in fs and (model := _of_reads(history, fs)):
        return model
    raise Invalid("The operations do not tell the model: name it.", code="no_such_model", operations=sorted(fs))


def _micros(op: Operation) -> Iterator[tuple[str, Any, Any]]:
    value = op.output if op.type == "ok" and op.output is not None else op.input
    if not isinstance(value, tuple) or op.f not in {"txn", "", "read", "write"}:
        return
    for one in value:
        if not isinstance(one, tuple) or len(one) not in {2, 3} or not isinstance(one[0], str):
            continue
        if op.f in {"txn", ""} or (len(one) == 3 and one[0] in {"r", "w"}):
            yield one[0], one[1], one[2] if len(one) > 2 else None


def _transactional(micros: list[tuple[str, Any, Any]]) -> str:
    if any(f == "append" for f, _, _ in micros):
        return "list-append"
    writes = [(key, value) for f, key, value in micros if f in {"w", "write"}]
    return "rw-register" if len(set(writes)) == len(writes) else "multi-register"


def _answers_all(history: History) -> bool:
    """Whether reads answer collections, and writes write none."""
    seen = [op.output for op in history.where("ok") if op.f == "read" and op.output is not None]
    if not seen or any(isinstance(op.input, (tuple, frozenset)) for op in history.operations if op.f == "write"):
        return False
    return all(isinstance(one, (tuple, frozenset)) for one in seen)


def _of_reads(history: History, fs: set[str]) -> str | None:
    seen = next((op.output for op in history.where("ok") if op.f == "read" and op.output is not None), None)
    if any(isinstance(op.input, tuple) for op in history.operations if op.f == "add"):
        return None  # Of sets by key, or of insertions: a name has to say it.
    if isinstance(seen, (tuple, frozenset)) and fs <= {"add", "remove", "contains", "read"}:
        return "set-full" if fs <= {"add", "read"} else "set"
    if type(seen) is int and fs <= {"add", "inc", "increment", "subtract", "dec", "decrement", "read"}:
        return "counter"
    return None
