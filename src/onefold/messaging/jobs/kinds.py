"""Kinds of jobs: a frozen record with a durable name, and how its jobs are tried.

The name is stored with every job, the class is not: it may move and be renamed. A field that is
added needs a default; any other change needs `upgrade`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec

from onefold.core import codec
from onefold.core.errors import Invalid
from onefold.core.limits import text

NAME_LENGTH_MAX = 100
ATTEMPTS_MAX = 100
TIMEOUT_MS_MAX = 86_400_000  # A day; split longer work, or save its progress and snooze.
BACKOFF_MS_MAX = 86_400_000
KEEP_DONE_MS_MAX = 2_678_400_000  # 31 days.
PRIORITIES = (2, 1, 0, -1, -2)  # In the order in which they are served.

S = TypeVar("S", bound=msgspec.Struct)
Upgrade = Callable[[dict[str, Any]], dict[str, Any]]

_NAME = re.compile(r"[a-z0-9][a-z0-9_./\-]*")
Name = Annotated[str, text(1, NAME_LENGTH_MAX, _NAME)]
_ATTRIBUTE = "__onefold_job_kind__"


class Snooze(Exception):  # noqa: N818  Not an error: the job asks for another time.
    """Raise it in a handler to be run again later; the attempt does not count as a failure."""

    def __init__(self, *, after_ms: int) -> None:
        super().__init__(f"again in {after_ms} ms")
        self.after_ms = after_ms


class Cancel(Exception):  # noqa: N818
    """Raise it in a handler to give the job up at once: it goes to the dead letters with `reason`."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


class Kind(NamedTuple):
    """What `kind` noted about a class."""

    name: str
    cls: type[Any]
    attempts: int
    timeout_ms: int
    queue: str
    priority: int
    backoff_ms: int
    backoff_max_ms: int
    keep_done_ms: int
    upgrade: Upgrade | None


def kind(
    name: str,
    *,
    attempts: int = 8,
    timeout_ms: int = 30_000,
    queue: str = "default",
    priority: int = 0,
    backoff_ms: int = 1_000,
    backoff_max_ms: int = 3_600_000,
    keep_done_ms: int = 0,
    upgrade: Upgrade | None = None,
) -> Callable[[type[S]], type[S]]:
    """Give a frozen `msgspec.Struct` the name under which its jobs are stored, for ever.

    Args:
        name: "receipt.send"; small letters, digits, ".", "_", "-", "/"; 1 to 100.
        attempts: failures until the job is dead, 1 to 100.
        timeout_ms: how long one attempt may take, 1 to a day.
        queue: where its jobs wait, unless `put` says otherwise; named as kinds are.
        priority: 2 (first) to -2 (last), unless `put` says otherwise.
        backoff_ms: the n-th retry comes after a random time up to `backoff_ms * 2^(n-1)`.
        backoff_max_ms: ... but never later than this.
        keep_done_ms: how long a finished job can still be looked up; 0 forgets it at once.
        upgrade: gets the stored fields when they do not fit the class, answers fields that do.

    Raises:
        Invalid: a value is out of range, or the class is no frozen Struct.
    """
    checked_name(name)
    checked_name(queue)
    checked_priority(priority)
    for value, most in (
        (attempts, ATTEMPTS_MAX), (timeout_ms, TIMEOUT_MS_MAX), (backoff_ms, BACKOFF_MS_MAX),
        (backoff_max_ms, BACKOFF_MS_MAX), (keep_done_ms + 1, KEEP_DONE_MS_MAX + 1),
    ):  # fmt: skip
        if not 1 <= value <= most:
            raise Invalid("A setting of the kind is out of range.", kind=name, value=value, most=most)

    def mark(cls: type[S]) -> type[S]:
        given: Any = cls  # Whatever its type says.
        if not (issubclass(given, msgspec.Struct) and given.__struct_config__.frozen):
            raise Invalid("A kind of job is a frozen msgspec.Struct.", kind=name, type=cls.__name__)
        spec = Kind(
            name, cls, attempts, timeout_ms, queue, priority, backoff_ms, backoff_max_ms, keep_done_ms, upgrade
        )
        setattr(cls, _ATTRIBUTE, spec)
        return cls

    return mark


def kind_of(cls: type[Any]) -> Kind:
    """The mark of a class; Invalid when `kind` never saw it (a base class's mark does not count)."""
    spec: Kind | None = cls.__dict__.get(_ATTRIBUTE)
    if spec is None:
        raise Invalid("The class is no kind of job; decorate it with @jobs.kind.", type=cls.__name__)
    return spec


def decoded(spec: Kind, args: str) -> Any:
    """The record that `args` holds, upgraded when it is of an older shape.

    Raises:
        Invalid: it does not fit, also after `upgrade`.
    """
    try:
        return codec.decode(args, spec.cls)
    except Invalid:
        if spec.upgrade is None:
            raise
        upgraded = spec.upgrade(codec.decode(args, dict))
        return codec.decode(codec.encode(upgraded, what=spec.name), spec.cls)


@functools.lru_cache(maxsize=4_096)
def checked_name(name: str) -> str:
    """`name` itself, or Invalid when no queue or kind can be called so."""
    if not (len(name) <= NAME_LENGTH_MAX and _NAME.fullmatch(name)):
        raise Invalid("A kind or queue is 1 to 100 small letters, digits and . _ - /", length=len(name))
    return name


def checked_priority(priority: int) -> int:
    """`priority` itself, or Invalid."""
    if priority not in PRIORITIES:
        raise Invalid("A priority is 2 (first), 1, 0, -1 or -2.", priority=priority)
    return priority
