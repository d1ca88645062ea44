"""For tests: every function is run, undone, run again, and must go the same way.

A function that reads the clock, rolls dice or changes something outside of `tx` fails the day
it is written, not the day a conflict makes the engine repeat it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from onefold.core.errors import Invalid

_TEXT = "Run twice, the function went two ways; take time, ids and dice from tx, and change nothing else."


class Rehearsal:
    """What the run that does not count answered."""

    def __init__(self) -> None:
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self, fn: Callable[..., Any], tx: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Run `fn` and remember how it ended; the caller undoes it."""
        try:
            self.result = fn(tx, *args, **kwargs)
        except BaseException as error:
            self.error = error
        if inspect.iscoroutine(self.result):
            self.result.close()  # The run that counts is refused for it.

    def compared(self, fn: Callable[..., Any], tx: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run `fn` for good. Invalid (code "not_repeatable") when it ends otherwise than before."""
        try:
            result = fn(tx, *args, **kwargs)
        except Exception as error:
            if self.error is None:
                raise Invalid(_TEXT, code="not_repeatable", first="an answer", second=repr(error)) from error
            raise
        if hasattr(type(result), "__await__"):
            return result  # Refused by the caller in words of its own.
        if self.error is not None:
            raise Invalid(_TEXT, code="not_repeatable", first=repr(self.error), second="an answer") from self.error
        if result != self.result:
            raise Invalid(_TEXT, code="not_repeatable", first=repr(self.result), second=repr(result))
        return result
