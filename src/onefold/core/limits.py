"""Limits beside types, for the description of the API: what a function's own checks hold, where a reader sees it.

They check nothing themselves: what is beyond them is refused by the function, with its code and its facts, however
it was called. That they are true is tried by test: what lies beyond is sent, and must be refused.
"""

from __future__ import annotations

from typing import Any

from msgspec import Meta

NO_NUL = r"^[^\u0000]*$"


def whole(least: int, most: int) -> Meta:
    """A whole number from `least` to `most`."""
    return Meta(extra_json_schema={"minimum": least, "maximum": most})


def text(least: int, most: int, pattern: str = NO_NUL) -> Meta:
    """A text of `least` to `most` characters that fits `pattern`; without one any but NUL, which no database stores."""
    found: dict[str, Any] = {"minLength": least, "maxLength": most, "pattern": pattern}
    return Meta(extra_json_schema=found)
