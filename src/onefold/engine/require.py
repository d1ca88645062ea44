"""A row that must be there, or the transaction does not count.

    require(tx, "DELETE ... RETURNING id", lambda: Conflict("Somebody else ended it."), id=..., attempt=...)

The fence of a function is asked for at its beginning, but its answer matters only at the end. So on
PostgreSQL nobody waits for it: the statement itself fails when it finds no row, all that was sent
behind it, COMMIT included, is skipped by the server, and the error arrives with the next answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, LiteralString

from onefold.core.errors import OnefoldError
from onefold.engine.tx import Tx

Refusal = Callable[[], OnefoldError]


class Deferring(Tx):
    """A `Tx` whose statements can be sent before the answers to earlier ones are known."""

    __slots__ = ()

    def require(self, sql: LiteralString, refusal: Refusal, /, **parameters: Any) -> None:
        """See the function `require`."""
        raise NotImplementedError


def require(tx: Tx, sql: LiteralString, refusal: Refusal, /, **parameters: Any) -> None:
    """Run a statement that must give a row; else what `refusal` makes is raised and nothing is written.

    Args:
        tx: the transaction that counts only with the row.
        sql: a SELECT, or a write with RETURNING. Its rows are not seen by anybody.
        refusal: makes the error. Called only when there is no row.
        **parameters: as of `tx.run`.

    Raises:
        The error: here, at a later statement or at the commit, as with `tx.run`.
    """
    if isinstance(tx, Deferring):
        tx.require(sql, refusal, **parameters)
    elif not tx.all(sql, **parameters):
        error = refusal()
        tx.doom(error)
        raise error
