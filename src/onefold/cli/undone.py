"""`--dry-run` that does not guess: the thing itself is done, and undone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from onefold.engine.database import Handle
from onefold.engine.tx import Tx

P = ParamSpec("P")
R = TypeVar("R")


class _Undo(Exception):  # noqa: N818
    """Nothing went wrong, and nothing is to stay."""


def undone(handle: Handle, fn: Callable[Concatenate[Tx, P], R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """What `handle.run(fn, ...)` would answer or raise; nothing of it is committed."""
    found: list[R] = []

    def act(tx: Tx) -> None:
        found[:] = [fn(tx, *args, **kwargs)]
        raise _Undo

    with contextlib.suppress(_Undo):
        handle.run(act)
    return found[0]
