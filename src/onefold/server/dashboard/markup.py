"""HTML from Python values: whatever is not `Markup` already is text, and is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Any

_VOID = frozenset({"input", "meta", "link", "br", "hr"})


class Markup(str):
    """HTML that is safe to send. Made by `tag` and `join` only."""

    __slots__ = ()


def text(value: object) -> Markup:
    """A value as text of a page; None as a dash."""
    if isinstance(value, Markup):
        return value
    # A lone surrogate has no UTF-8 form; the rest is still worth showing.
    shown = "\u2013" if value is None else str(value).encode("utf-8", "replace").decode()
    return Markup(html.escape(shown))


def join(parts: Iterable[object]) -> Markup:
    """The parts one behind the other."""
    return Markup("".join(text(part) for part in parts))


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """An element.

    Args:
        name: of the element.
        children: its content; what is no `Markup` is escaped.
        attributes: `class_` is "class" and `data_x` is "data-x". None and False leave one out, True
            gives it without a value.
    """
    given = "".join(
        _attribute(key, value) for key, value in attributes.items() if value is not None and value is not False
    )
    if name in _VOID:
        return Markup(f"<{name}{given}>")
    return Markup(f"<{name}{given}>{join(children)}</{name}>")


def link(address: str, /, *children: object, **attributes: Any) -> Markup:
    """A link to another page of the dashboard."""
    return tag("a", *children, href=address, **attributes)


def _attribute(key: str, value: object) -> str:
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{text(value)}"'
