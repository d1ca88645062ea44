"""What idempotency is made of: its limits, what it answers, and what it accepts."""

from __future__ import annotations

import re
from typing import Annotated, Any, Generic, TypeVar

import msgspec

from onefold.core.codec import decode
from onefold.core.errors import Invalid
from onefold.core.limits import CONTROL, NO_CONTROL, PRINTABLE, text

KEY_LENGTH_MAX = 255
SCOPE_LENGTH_MAX = 200
TOKEN_LENGTH_MAX = 64
BODY_BYTES_MAX = 65_536
TTL_MS_DEFAULT = 86_400_000  # A day: longer than clients go on retrying.
TTL_MS_MAX = 31 * 86_400_000
# Longer: after a crash the key stays in flight longer. Shorter: a slow holder is taken over while it works.
LEASE_MS_DEFAULT = 60_000
LEASE_MS_MAX = 3_600_000  # One hour; who needs longer renews.

_KEY = re.compile(r"[\x20-\x7e]+")  # With re.fullmatch: "$" would let a line break through.
Key = Annotated[str, text(1, KEY_LENGTH_MAX, PRINTABLE)]
Scope = Annotated[str, text(1, SCOPE_LENGTH_MAX, NO_CONTROL)]

T = TypeVar("T")


class Answer(msgspec.Struct, Generic[T], frozen=True):
    """What was answered, the first time and every other time.

    Attributes:
        value: what `do` answered or `finish` was given, as it comes back from JSON, also the first time.
        replayed: False for the call that did it.
        at_ms: when the attempt that answered began, in ms since 1970.
        body: the bytes that `finish` stored beside the value; none for `once`.
    """

    value: T
    replayed: bool
    at_ms: int
    body: bytes = b""


class Attempt(msgspec.Struct, frozen=True):
    """A key that is ours to answer, until somebody takes it over. What makes its bearer the holder is `token`.

    Attributes:
        key: as the caller named it.
        scope: whose key it is.
        token: of this attempt alone.
        number: 1 for a new key. From 2 on an earlier attempt ended without an answer, and what it did
            outside may have happened: ask the other side before doing it again.
        lease_until_ms: from when on others may take over, on the database's clock.
    """

    key: str
    scope: str
    token: str
    number: int
    lease_until_ms: int


def read(answer: str, kind: object) -> Any:
    """The stored value as `kind`."""
    return decode(answer, kind)  # pyright: ignore[reportArgumentType]  Unions and Any are no `type`.


def check_names(key: str, scope: str) -> None:
    """Refuse what cannot name a key."""
    if not (len(key) <= KEY_LENGTH_MAX and _KEY.fullmatch(key)):
        raise Invalid("An idempotency key is 1 to 255 printable ASCII characters.", length=len(key))
    if not 1 <= len(scope) <= SCOPE_LENGTH_MAX or CONTROL.search(scope):
        raise Invalid("A scope is 1 to 200 characters, none of them control characters.", length=len(scope))


def check_ttl(ttl_ms: int) -> None:
    """Refuse a span out of range."""
    if type(ttl_ms) is not int or not 1 <= ttl_ms <= TTL_MS_MAX:
        raise Invalid("ttl_ms is out of range.", ttl_ms=ttl_ms, most=TTL_MS_MAX)


def check_lease(lease_ms: int) -> None:
    """Refuse a span out of range."""
    if type(lease_ms) is not int or not 1 <= lease_ms <= LEASE_MS_MAX:
        raise Invalid("lease_ms is out of range.", lease_ms=lease_ms, most=LEASE_MS_MAX)


def check_attempt(attempt: Attempt) -> None:
    """Refuse what `begin` cannot have answered."""
    check_names(attempt.key, attempt.scope)
    if not (1 <= len(attempt.token) <= TOKEN_LENGTH_MAX and _KEY.fullmatch(attempt.token)):
        raise Invalid("An attempt's token is 1 to 64 printable ASCII characters.", length=len(attempt.token))


def check_body(body: bytes) -> None:
    """Refuse what is too long to keep."""
    if type(body) is not bytes or len(body) > BODY_BYTES_MAX:
        raise Invalid(
            "The body is no bytes, or too large; store it elsewhere and answer a reference.",
            code="answer_too_large", most=BODY_BYTES_MAX,
        )
