"""A `tx` in an `atomic()` block on SQLite."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, LiteralString

from onefold.engine.sqlite.joined import JoinedSqliteTx, join_sqlite
from onefold.engine.tx import Row
from onefold.integrations.django.block import Block, InBlock


class DjangoSqliteTx(InBlock, JoinedSqliteTx):
    """See `onefold.django.use`."""

    __slots__ = ("_block",)

    def __init__(self, block: Block, *args: Any, **kwargs: Any) -> None:
        self._block = block
        super().__init__(*args, **kwargs)

    def many(self, sql: LiteralString, rows: Iterable[Mapping[str, Any]], /) -> None:
        """See `Tx.many`."""
        self._check_alive()
        super().many(sql, rows)

    def _rows(self, sql: str, parameters: dict[str, Any]) -> list[Row]:
        self._check_alive()
        return super()._rows(sql, parameters)


def join(block: Block, *, space_name: str) -> DjangoSqliteTx:
    """A `tx` on the connection of the block."""
    return join_sqlite(block.connection.connection, space_name=space_name, make=partial(DjangoSqliteTx, block))
