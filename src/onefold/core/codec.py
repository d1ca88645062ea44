"""Payloads to text and back, with a limit, and fingerprints that survive re-encoding."""

from __future__ import annotations

import hashlib
import json
import threading
from typing import Any, TypeVar

import msgspec

from onefold.core.errors import Invalid

PAYLOAD_BYTES_MAX = 65_536  # Larger things are stored elsewhere and named by reference.

T = TypeVar("T")

_encoder = msgspec.json.Encoder()
_canonical = msgspec.json.Encoder(order="sorted")  # Fields of records too: their order may change.
_finite = json.JSONEncoder(allow_nan=False, check_circular=False)  # Refuses in C what msgspec writes as null.
_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}
_building = threading.Lock()


def encode(value: object, *, what: str = "payload") -> str:
    """JSON text of `value`; Invalid when it has no JSON form (NaN and infinities have none) or passes 64 KiB."""
    raw = _written(_encoder, value, what)
    if len(raw) > PAYLOAD_BYTES_MAX:
        raise Invalid(
            "The value is too large; store it elsewhere and pass a reference.",
            what=what, bytes=len(raw), most=PAYLOAD_BYTES_MAX,
        )
    return raw.decode()


def decode(text: str, kind: type[T]) -> T:
    """The value of type `kind` that `text` holds; Invalid when it does not fit."""
    try:
        return decoder_of(kind).decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        name = getattr(kind, "__name__", str(kind))  # A union has none.
        raise Invalid("The stored value does not fit its type.", kind=name, why=str(error)) from None


def decoder_of(kind: type[T]) -> msgspec.json.Decoder[T]:
    """The decoder of a type. Call it before any other use of msgspec on a type that several threads may use first.

    msgspec 0.22 looks at a class when it is first used, and lets other threads have what it knows of it before it is
    done: a second one then reads a null pointer, and the process is gone. Here one looks at a time.
    """
    decoder = _decoders.get(kind)
    if decoder is None:
        with _building:
            decoder = _decoders.get(kind)
            if decoder is None:
                decoder = _decoders[kind] = msgspec.json.Decoder(kind)
    return decoder


def fingerprint(value: object, *, what: str = "payload") -> str:
    """32 hexadecimal digits of SHA-256 over canonical JSON: equal values, equal prints; Invalid as in `encode`."""
    return hashlib.sha256(_written(_canonical, value, what)).hexdigest()[:32]


def _written(encoder: msgspec.json.Encoder, value: object, what: str) -> bytes:
    try:
        raw = encoder.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise Invalid("The value has no JSON form.", what=what, why=str(error)) from None
    # They are encoded as null, which is no number when it is read back, and is not theirs alone.
    if b"null" in raw and not _is_finite(msgspec.to_builtins(value)):
        raise Invalid("The value has no JSON form.", what=what, why="a number is NaN or infinite")
    return raw


def _is_finite(value: Any) -> bool:
    try:
        _finite.encode(value)
    except ValueError:
        return False
    return True
