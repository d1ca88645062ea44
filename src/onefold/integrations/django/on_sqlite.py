"""A `tx` in an `atomic()` block on SQLite."""

from __future__ import annotations

from functools import partial
from typing import Any

from onefold.engine.sqlite.joined import JoinedSqliteTx, join_sqlite
from onefold.integrations.django.block import Block, InBlock


class DjangoSqliteTx(InBlock, JoinedSqliteTx):
    """See `onefold.django.use`."""

    __slots__ = ("_block",)

    def __init__(self, block: Block, *args: Any, **kwargs: Any) -> None:
        self._block = block
        super().__init__(*args, **kwargs)


def join(block: Block, *, space_name: str) -> DjangoSqliteTx:
    """A `tx` on the connection of the block."""
    return join_sqlite(block.connection.connection, space_name=space_name, make=partial(DjangoSqliteTx, block))
