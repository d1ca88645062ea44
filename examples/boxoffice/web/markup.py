"""HTML that cannot be injected into: text is escaped unless it is `Markup` already."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import LiteralString


class Markup(str):
    """Text that is HTML."""

    __slots__ = ()


def h(template: LiteralString, /, *parts: object, **named: object) -> Markup:
    """Fill the template's {} with parts; everything but `Markup` is escaped."""
    return Markup(template.format(*map(_safe, parts), **{name: _safe(value) for name, value in named.items()}))


def join(parts: Iterable[Markup]) -> Markup:
    """One after the other."""
    return Markup("".join(parts))


def _safe(value: object) -> str:
    return value if isinstance(value, Markup) else escape(str(value))
