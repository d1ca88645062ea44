"""Paging by key: a page and where the next one starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Generic, TypeVar

import msgspec

from onefold.core.errors import Invalid
from onefold.core.limits import whole

LIMIT_MAX = 1_000
LIMIT_DEFAULT = 100

Limit = Annotated[int, whole(1, LIMIT_MAX)]  #: How many items of a page at most.

T = TypeVar("T")


class Page(msgspec.Struct, Generic[T], frozen=True):
    """Some items in a stated order.

    `after` is what to pass as `after=` to get the next page; None on the last one.
    """

    items: list[T]
    after: str | None = None


def checked_limit(limit: int) -> int:
    """`limit` itself, or Invalid when it is not 1 to `LIMIT_MAX`."""
    if not 1 <= limit <= LIMIT_MAX:
        raise Invalid("limit is out of range.", limit=limit, most=LIMIT_MAX)
    return limit


def page_of(rows: Sequence[T], limit: int, key: Callable[[T], str]) -> Page[T]:
    """Make a page from `limit + 1` rows asked for: the extra one only says that there is more."""
    if len(rows) <= limit:
        return Page(list(rows))
    items = list(rows[:limit])
    return Page(items, key(items[-1]))
