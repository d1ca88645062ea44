"""The `atomic()` block that a `tx` belongs to, and the `tx` that asks it before each statement."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from django.db import transaction

from onefold.core.errors import Doomed, Invalid
from onefold.engine.joined import JoinedTx
from onefold.engine.tx import Hints


class Block:
    """An `atomic()` block, from `use` to its end.

    Django says nowhere which block is which. But a callback given to its `on_commit` stays in
    `run_on_commit` exactly as long as nothing has undone the block and nothing has committed it.
    """

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self._savepoints = self._open_savepoints()
        self._hook: Callable[[], None] | None = None  # None while the `tx` is being made.

    def begin(self, committed: Callable[[], None]) -> None:
        """Have `committed` called when Django has committed, and never when the block is undone."""
        self._hook = partial(committed)
        transaction.on_commit(self._hook, using=self.connection.alias)

    def is_open(self) -> bool:
        """Whether Django has neither committed nor undone it."""
        connection = self.connection
        if not connection.in_atomic_block:
            return False
        return self._hook is None or any(entry[1] is self._hook for entry in reversed(connection.run_on_commit))

    def check(self) -> None:
        """Refuse a statement that would not stand or fall with the block.

        Raises:
            Invalid: the block is over, or another one was opened inside it.
            Doomed: Django has marked it for rollback.
        """
        if not self.is_open():
            raise Invalid("The atomic block of this tx is over; call use in the next one.", code="over")
        if self._open_savepoints() != self._savepoints:
            raise Invalid("This tx belongs to another atomic block; call use inside this one.", code="other_block")
        if self.connection.needs_rollback:
            raise Doomed("Django had an error in the atomic block, which can only roll back.")

    def mark(self, *, rollback: bool) -> None:
        """Have Django roll back the block, whatever swallows the error; or no longer, for it was undone."""
        if self.is_open():
            self.connection.set_rollback(rollback)

    def _open_savepoints(self) -> list[str]:
        return [name for name in self.connection.savepoint_ids if name is not None]


class InBlock(JoinedTx):
    """A `tx` that lives and dies with an `atomic()` block."""

    __slots__ = ()
    _block: Block

    def doom(self, error: BaseException) -> None:
        """See `Tx.doom`."""
        super().doom(error)
        self._block.mark(rollback=True)

    def _check_alive(self) -> None:
        super()._check_alive()
        self._block.check()

    def _made_hints(self) -> Hints:
        self._check_alive()
        return super()._made_hints()

    def _savepoint_end(self, depth: int, *, keep: bool) -> None:
        super()._savepoint_end(depth, keep=keep)
        if not keep:
            self._block.mark(rollback=False)
