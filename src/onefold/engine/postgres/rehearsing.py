"""For tests: what a rehearsal may answer differently the second time on PostgreSQL.

A sequence does not roll back: an identity column gives another number in the second run. So a
whole number may differ if both runs had it from the database. Nothing else may, except at READ
COMMITTED, where others commit in between and two runs compare nothing.
"""

from __future__ import annotations

from typing import Any

import msgspec


class Expected:
    """The first run's answer; equal to a second one that differs in drawn numbers only."""

    def __init__(self, value: Any, drawn: tuple[set[int], set[int]], *, anything: bool) -> None:
        self._value = value
        self._drawn = drawn
        self._anything = anything

    def __eq__(self, other: object) -> bool:
        return self._anything or self._same(self._value, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def __repr__(self) -> str:
        return repr(self._value)

    def _same(self, first: Any, second: Any) -> bool:
        if type(first) is not type(second):
            return bool(first == second)
        if isinstance(first, (list, tuple)):
            return len(first) == len(second) and all(map(self._same, first, second))
        if isinstance(first, dict):
            return len(first) == len(second) and all(
                self._same(a, b) and self._same(first[a], second[b]) for a, b in zip(first, second, strict=True)
            )
        if isinstance(first, msgspec.Struct):
            fields = first.__struct_fields__
            return all(self._same(getattr(first, name), getattr(second, name)) for name in fields)
        if type(first) is int and first != second:
            return first in self._drawn[0] and second in self._drawn[1]
        return bool(first == second)
