"""Which values may go into a column; the same answer on both engines."""

from __future__ import annotations

import math
from typing import Any

from onefold.core.errors import Invalid

INTEGER_MAX = (1 << 63) - 1
INTEGER_MIN = -(1 << 63)


def check_parameters(parameters: dict[str, Any]) -> None:
    """Refuse what one of the engines would refuse or bend, before it is sent.

    Raises:
        Invalid: a NUL or a lone surrogate in a text, a whole number beyond 64 bits, NaN or
            infinity, or a value of another type than int, str, float, bytes, bool, None.
    """
    for name, value in parameters.items():
        kind = type(value)
        if kind is str:
            if "\0" in value:
                raise Invalid("A text cannot hold the character NUL.", code="nul", parameter=name)
            if not value.isascii():
                _check_unicode(name, value)
        elif kind is int:
            if not INTEGER_MIN <= value <= INTEGER_MAX:
                raise Invalid("A whole number has at most 64 bits.", code="integer_range", parameter=name)
        elif kind is float:
            if not math.isfinite(value):
                raise Invalid("A number must be finite.", code="not_finite", parameter=name)
        elif not (kind is bytes or kind is bool or value is None):
            _check_subclass(name, value)


def check_name(name: object) -> None:
    """Refuse a name that is no text, or that no column could hold."""
    if not isinstance(name, str):
        raise Invalid("A name is a text.", code="type", type=type(name).__name__)
    check_parameters({"name": name})


def _check_unicode(name: str, value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Invalid("A text must be valid Unicode.", code="surrogate", parameter=name) from None


def _check_subclass(name: str, value: object) -> None:
    # A StrEnum or IntEnum is as good as its base; a list, a Decimal or a date is not. The base's own
    # conversions give what the drivers will send, whatever the subclass says about itself.
    if isinstance(value, str):
        check_parameters({name: str.__str__(value)})
    elif isinstance(value, int):
        check_parameters({name: int.__int__(value)})
    elif isinstance(value, float):
        check_parameters({name: float.__float__(value)})
    elif not isinstance(value, bytes):
        kind = type(value).__name__
        raise Invalid("A parameter is an int, str, float, bytes, bool or None.", code="type", parameter=name, type=kind)
