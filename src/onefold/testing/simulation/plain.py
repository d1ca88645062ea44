"""What runs when it is called, and what only seems to: a coroutine that nobody awaits proves nothing."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from onefold.core.errors import Invalid


def plain(fn: Callable[..., object], answer: object) -> None:
    """Refuse what a scenario or a program answered when it is a coroutine or a generator.

    Raises:
        Invalid: nothing of `fn` ran.
    """
    if not (inspect.isawaitable(answer) or inspect.isgenerator(answer) or inspect.isasyncgen(answer)):
        return
    if inspect.iscoroutine(answer) or inspect.isgenerator(answer):
        answer.close()
    raise Invalid(
        "This is to be a plain function; it answered an awaitable or a generator, and nothing of it ran.",
        code="not_plain", fn=getattr(fn, "__name__", "?"),
    )  # fmt: skip
