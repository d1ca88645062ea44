"""What can go wrong, sorted by what the caller does next.

    OnefoldError
    |- Invalid      change the request; trying again cannot help
    |- Denied       get a right, or do not ask
    |- NotFound     the subject does not exist
    |- Conflict     the state of the world says no; read it, then decide
    |- Retry        the same call may succeed later (`retry_after_ms`)
    |- Unknown      the commit may or may not have happened; ask before repeating
    '- Doomed       the transaction was told to go on after an error in it

The text of an error is constant, so that logs group; what varies stands in `facts`.
`code` is stable and what programs compare.
"""

from __future__ import annotations

from typing import Any, ClassVar, LiteralString


class OnefoldError(Exception):
    """Base of all errors that Onefold raises on purpose."""

    kind: ClassVar[str] = "error"

    def __init__(self, text: LiteralString, /, *, code: str | None = None, **facts: Any) -> None:
        super().__init__(text)
        self.text: str = text
        self.code: str = code or self.kind
        self.facts: dict[str, Any] = facts

    def __str__(self) -> str:
        """The text, then the facts in the order in which they were given."""
        if not self.facts:
            return self.text
        return f"{self.text} ({', '.join(f'{k}={v!r}' for k, v in self.facts.items())})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.__dict__)


class Invalid(OnefoldError):  # noqa: N818  The kinds are named for what happened, as in DESIGN.
    """The request itself is wrong. Nothing was written."""

    kind = "invalid"


class Denied(OnefoldError):  # noqa: N818
    """The caller lacks the right. Nothing was written."""

    kind = "denied"


class NotFound(OnefoldError):  # noqa: N818
    """The subject does not exist (any more)."""

    kind = "not_found"


class Conflict(OnefoldError):  # noqa: N818
    """The request is well-formed, but the present state refuses it."""

    kind = "conflict"


class Retry(OnefoldError):  # noqa: N818
    """The same call may succeed later. `retry_after_ms` is a hint, 0 means "any time"."""

    kind = "retry"

    def __init__(
        self, text: LiteralString, /, *, code: str | None = None, retry_after_ms: int = 0, **facts: Any
    ) -> None:
        super().__init__(text, code=code, **facts)
        self.retry_after_ms: int = retry_after_ms


class Unknown(OnefoldError):  # noqa: N818
    """The outcome of the COMMIT cannot be told. Query the effect before repeating it."""

    kind = "unknown"


class Doomed(OnefoldError):  # noqa: N818
    """An error was swallowed inside the transaction; it can only be rolled back.

    Wrap what may fail in `with tx.savepoint():`, or call its `try_` form.
    """

    kind = "doomed"


def _rebuild(kind: type[OnefoldError], state: dict[str, Any]) -> OnefoldError:
    error = kind.__new__(kind, state["text"])
    error.__dict__.update(state)
    return error
