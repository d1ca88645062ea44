"""What people and programs see of webhooks, and what may stand in them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec

from onefold.core.errors import Invalid
from onefold.core.limits import PRINTABLE, text

ID_LENGTH_MAX = 60
TYPE_LENGTH_MAX = 100
DETAIL_LENGTH_MAX = 1_000
WHY_LENGTH_MAX = 200

Outcome = Literal["delivered", "refused", "unreached", "denied"]
# delivered: 2xx. refused: any other answer. unreached: no answer. denied: we do not send there.

_TYPE = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
_WANTED = re.compile(rf"{_TYPE.pattern}(?:\.\*)?")
Id = Annotated[str, text(1, ID_LENGTH_MAX, PRINTABLE)]
IdCursor = Annotated[str, text(0, ID_LENGTH_MAX, PRINTABLE)]
Type = Annotated[str, text(1, TYPE_LENGTH_MAX, _TYPE)]
Wanted = Annotated[str, text(1, TYPE_LENGTH_MAX, _WANTED)]  #: A type, or all below one.


class Endpoint(msgspec.Struct, frozen=True):
    """Where messages go.

    Attributes:
        id: "ep_...".
        url: as it is called.
        types: "order.placed", or "order.*" for all below; empty for all.
        headers: sent with every request. They are stored as they are.
        concurrency: requests at once, 1 to 100.
        per_second: requests a second, 0 for no limit.
        key_id: which key its secret is derived from.
        generation: 1, and one more with each rotation.
        created_at_ms: when it was made.
        old_key_id: whence the secret before comes, None when there is none.
        old_until_ms: until when the secret before signs too.
        failing_since_ms: when its attempts began to fail; None while they go well.
        disabled_at_ms: None while it is enabled.
        disabled_why: who or what disabled it.
    """

    id: str
    url: str
    types: tuple[str, ...]
    headers: dict[str, str]
    concurrency: int
    per_second: int
    key_id: str
    generation: int
    created_at_ms: int
    old_key_id: str | None = None
    old_until_ms: int | None = None
    failing_since_ms: int | None = None
    disabled_at_ms: int | None = None
    disabled_why: str | None = None


class Backlog(msgspec.Struct, frozen=True):
    """How many messages wait for an endpoint or were given up, each counted to 1,001: that says "more than 1,000"."""

    waiting: int
    given_up: int


class KeyUse(msgspec.Struct, frozen=True):
    """Which keys an endpoint's secrets are derived from.

    Attributes:
        space: the name of the endpoint's space.
        endpoint_id: "ep_...".
        key_id: the present secret's key.
        old_key_id: the key of the secret that still signs beside it; None when none does.
        old_until_ms: until when it does.
    """

    space: str
    endpoint_id: str
    key_id: str
    old_key_id: str | None
    old_until_ms: int | None


class Attempt(msgspec.Struct, frozen=True):
    """One request that was made, and what came of it.

    Attributes:
        message_id: what the receiver saw as `webhook-id`.
        attempt: 1, 2, ... of this message to this endpoint.
        outcome: "delivered", "refused", "unreached" or "denied".
        status: of the answer; None when there was none.
        took_ms: how long it took.
        detail: the first 1,000 characters of the answer, or the error.
        at_ms: when it was noted.
    """

    message_id: str
    attempt: int
    outcome: str
    status: int | None
    took_ms: int
    detail: str
    at_ms: int


class Failed(msgspec.Struct, frozen=True):
    """A message that was given up for an endpoint, and when."""

    message_id: str
    type: str | None
    failed_at_ms: int


class Pending(msgspec.Struct, frozen=True):
    """A message that is still to be delivered to an endpoint.

    Attributes:
        message_id: which.
        at_ms: not before.
        attempt: the number of the next attempt.
        failures: since it was sent or replayed.
    """

    message_id: str
    at_ms: int
    attempt: int
    failures: int


class Late(msgspec.Struct, frozen=True):
    """An endpoint that gets nothing though something is due, and since when it is."""

    endpoint_id: str
    url: str
    due_at_ms: int


class Trouble(msgspec.Struct, frozen=True):
    """An endpoint that needs somebody.

    Attributes:
        space_name: where it is.
        endpoint_id: which.
        url: where its messages go.
        failing_since_ms: since when nothing was delivered; None when it is well.
        disabled_why: why it was disabled by itself; None when it is enabled.
        due_at_ms: since when something is due though it is enabled and well: nobody delivers. None for nothing.
    """

    space_name: str
    endpoint_id: str
    url: str
    failing_since_ms: int | None
    disabled_why: str | None
    due_at_ms: int | None


def checked_id(identifier: str) -> str:
    """The id itself, if it may be one."""
    if not 1 <= len(identifier) <= ID_LENGTH_MAX or not identifier.isascii() or not identifier.isprintable():
        raise Invalid("An id has 1 to 60 printable ASCII characters.", length=len(identifier))
    return identifier


def checked_type(name: str) -> str:
    """The type itself, if it may be one."""
    if len(name) > TYPE_LENGTH_MAX or not _TYPE.fullmatch(name):
        raise Invalid('A type is words joined by dots ("order.placed"), at most 100 characters.', length=len(name))
    return name


def checked_wanted(name: str) -> str:
    """The type or the "TYPE.*" itself, if it may be one."""
    if len(name) > TYPE_LENGTH_MAX or not _WANTED.fullmatch(name):
        raise Invalid('An endpoint wants "order.placed" or "order.*", at most 100 characters.', length=len(name))
    return name


def wants(types: tuple[str, ...], name: str) -> bool:
    """Whether an endpoint with these types gets a message of type `name`."""
    return not types or any(
        name == one or (one.endswith(".*") and name.startswith(one[:-1])) for one in types
    )


def iso_time(at_ms: int) -> str:
    """The moment as the bodies of messages say it: "2026-01-31T12:00:00.123Z"."""
    return datetime.fromtimestamp(at_ms / 1_000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
