"""Limits beside types, for the description of the API: what a function's own checks hold, where a reader sees it.

They check nothing themselves: what is beyond them is refused by the function, with its code and its facts, however
it was called. Both take the same constants, and the same patterns. That they are true is tried by test: what lies
beyond is sent, and must be refused; what lies within is sent, and must be taken.
"""

from __future__ import annotations

import re
from typing import Any

from msgspec import Meta

# Characters as a JSON Schema writes them, for any reader of patterns.
_CONTROL = r"\u0000-\u001f\u007f-\u009f\u2028\u2029"
NO_NUL = r"^[^\u0000]*$"
NO_CONTROL = f"^[^{_CONTROL}]*$"
#: What a text of `NO_CONTROL` may not hold: control characters and line breaks make two names look alike in a log.
#: And surrogates, which are no text; none can come in JSON.
CONTROL = re.compile(rf"[{_CONTROL}\ud800-\udfff]")
PRINTABLE = r"^[\u0020-\u007e]*$"  # ASCII.


def whole(least: int, most: int) -> Meta:
    """A whole number from `least` to `most`."""
    return Meta(extra_json_schema={"minimum": least, "maximum": most})


def text(least: int, most: int, pattern: str | re.Pattern[str] = NO_NUL) -> Meta:
    """A text of `least` to `most` characters that fits `pattern`; without one any but NUL, which no database stores.

    A compiled pattern is one that the check asks for a `fullmatch`; its alternatives, if any, stand in a group.
    """
    found: dict[str, Any] = {"minLength": least, "maxLength": most, **_pattern(pattern)}
    return Meta(extra_json_schema=found)


def shaped(pattern: re.Pattern[str]) -> Meta:
    """A text that fits `pattern`, which says how long it may be."""
    return Meta(extra_json_schema=_pattern(pattern))


def many(least: int, most: int, *, unique: bool = False) -> Meta:
    """A list of `least` to `most` items; with `unique` no two are the same."""
    found: dict[str, Any] = {"minItems": least, "maxItems": most}
    return Meta(extra_json_schema=found | {"uniqueItems": True} if unique else found)


def entries(most: int) -> Meta:
    """A mapping of at most `most` entries."""
    return Meta(extra_json_schema={"maxProperties": most})


def money(least_minor: int, most_minor: int) -> Meta:
    """An amount from `least_minor` to `most_minor`, for `Money` and `Money | None`."""
    return Meta(extra_json_schema={"properties": {"minor": {"minimum": least_minor, "maximum": most_minor}}})


def _pattern(pattern: str | re.Pattern[str]) -> dict[str, Any]:
    if isinstance(pattern, str):
        return {"pattern": pattern}
    # Groups without names, which each kind of pattern writes in its own way.
    return {"pattern": f"^{re.sub(r'[?]P<[a-z0-9_]+>', '', pattern.pattern)}$"}
