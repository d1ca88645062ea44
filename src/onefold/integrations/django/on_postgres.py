"""A `tx` in an `atomic()` block on PostgreSQL."""

from __future__ import annotations

from functools import partial
from typing import Any

from onefold.engine.postgres.joined import JoinedPostgresTx, join_postgres
from onefold.integrations.django.block import Block, InBlock


class DjangoPostgresTx(InBlock, JoinedPostgresTx):
    """See `onefold.django.use`."""

    __slots__ = ("_block",)

    def __init__(self, block: Block, *args: Any, **kwargs: Any) -> None:
        self._block = block
        super().__init__(*args, **kwargs)


def join(block: Block, *, space_name: str) -> DjangoPostgresTx:
    """A `tx` on the connection of the block."""
    return join_postgres(block.connection.connection, space_name=space_name, make=partial(DjangoPostgresTx, block))
