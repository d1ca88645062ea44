"""Idempotency as HTTP says it: draft-ietf-httpapi-idempotency-key-header, as pure functions.

What the draft leaves open is decided here, and `vectors.json` shows it by example: whose key it is
(`scope_of`), which requests are the same (`request_of`), and which responses are final (`is_final`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from typing import Annotated, Any
from urllib.parse import quote

import msgspec

from onefold.core.codec import fingerprint
from onefold.core.errors import Invalid
from onefold.core.limits import shaped
from onefold.messaging.idempotency.records import (
    BODY_BYTES_MAX,
    KEY_LENGTH_MAX,
    SCOPE_LENGTH_MAX,
    check_lease,
    check_ttl,
)

HEADER_BYTES_MAX = 16_384  # Of all the headers of one stored response.
TENANT_LENGTH_MAX = 100
METHOD_LENGTH_MAX = 32

#: Headers of a response that a replay repeats. The others (cookies, dates, ids of traces) belong to one exchange.
KEPT_HEADERS = frozenset({
    "cache-control", "content-disposition", "content-encoding", "content-language", "content-location",
    "content-type", "etag", "expires", "last-modified", "link", "location", "preference-applied", "vary",
})  # fmt: skip
#: Never stored, also when asked to: another caller's session, or what the server writes itself.
UNKEPT_HEADERS = frozenset({
    "connection", "content-length", "date", "keep-alive", "proxy-authenticate", "server", "set-cookie", "trailer",
    "transfer-encoding", "upgrade",
})  # fmt: skip

# Below 500 and yet no decision: the same request shall come again.
_COME_AGAIN = frozenset({408, 425, 429})
_FIELD = re.compile(
    rf'(?:[!#-~](?:[ -~]{{0,{KEY_LENGTH_MAX - 2}}}[!-~])?|"(?:[ !#-\[\]-~]|\\["\\]){{1,{KEY_LENGTH_MAX}}}")'
)
KeyField = Annotated[str, shaped(_FIELD)]  #: What the header holds.


class Head(msgspec.Struct, frozen=True):
    """A stored response without its body, which `finish` has beside it.

    Attributes:
        status: a final one; 500 only for a response that was withheld because no replay could give it.
        headers: names in lower case, in the order in which they were sent.
    """

    status: int
    headers: list[tuple[str, str]]


def key_of(values: list[bytes]) -> str | None:
    """The key that the `Idempotency-Key` headers of a request name; None without one.

    The draft writes it as a string in quotes, most clients without; both name the same key.

    Raises:
        Invalid: code "idempotency_key": it stands there twice, or is not 1 to 255 printable ASCII characters.
    """
    if not values:
        return None
    key = values[0].decode("latin-1").strip(" \t")
    if len(values) > 1 or not _FIELD.fullmatch(key):
        raise Invalid(
            "Idempotency-Key is one of 1 to 255 printable ASCII characters, in quotes or without.",
            code="idempotency_key", most=KEY_LENGTH_MAX,
        )
    return re.sub(r"\\(.)", r"\1", key[1:-1]) if key.startswith('"') else key


def scope_of(method: str, path: str, tenant: str) -> str:
    """Whose key it is: the route's and the tenant's, so that neither callers nor routes can meet.

    Args:
        method: of the request.
        path: as it was sent, percent signs and all, without the query; one of more than 60 characters
            goes in as its digest.
        tenant: 1 to 100 characters: who calls.
    """
    if not 1 <= len(tenant) <= TENANT_LENGTH_MAX or len(method) > METHOD_LENGTH_MAX:
        raise Invalid("A tenant is 1 to 100 characters.", code="tenant", length=len(tenant))
    # Neither a method nor a quoted path has a blank or "#" in it, so the parts cannot run into each other.
    path = quote(path, safe="/%:@!$&'()*+,;=~")
    if len(path) > SCOPE_LENGTH_MAX - TENANT_LENGTH_MAX - METHOD_LENGTH_MAX - 8:
        path = f"#{_digest(path.encode())}"
    return f"{method} {path} {tenant}"


def request_of(query: bytes, content_type: str, body: bytes) -> list[str]:
    """All of a request that its answer depends on: give it to `begin`, which takes the fingerprint.

    The order of the members and the white space of a JSON body do not count; numbers count as they were
    written (1.0 is not 1). A body that has no one meaning as JSON (a member twice, NaN, no UTF-8), and
    every other kind, counts byte by byte. The query counts as it was sent.
    """
    media = content_type.partition(";")[0].strip().lower()
    if media == "application/json" or media.endswith("+json"):
        try:
            value = json.loads(
                body.decode(), object_pairs_hook=_members, parse_float=_as_sent, parse_int=_as_sent,
                parse_constant=_refuse,
            )
            return [query.decode("latin-1"), media, "json", fingerprint(value)]
        except (ValueError, RecursionError, Invalid):
            pass
    return [query.decode("latin-1"), media, "bytes", _digest(body)]


def is_final(status: int) -> bool:
    """Whether a response decides the request, success or refusal, and is stored.

    Not 5xx: a server that failed has decided nothing; nor 408, 425 and 429, which ask to come again.
    """
    return 200 <= status < 500 and status not in _COME_AGAIN


def head_of(status: int, headers: Iterable[tuple[str, str]], body: bytes, *, keep: frozenset[str]) -> Head:
    """What is stored of a response.

    Raises:
        Invalid: code "answer_streams" or "answer_too_large": no replay could give it.
    """
    kept = [(name.lower(), value) for name, value in headers if name.lower() in keep]
    check_size(kept, len(body))
    return Head(status, kept)


def check_size(headers: Iterable[tuple[str, str]], body_bytes: int) -> None:
    """Refuse a response, whole or as far as it came, that cannot be stored; see `head_of`."""
    size = 0
    for name, value in headers:
        size += len(name) + len(value)
        if name.lower() == "content-type" and value.lower().startswith("text/event-stream"):
            raise Invalid("The route answers with a stream of events, which cannot be replayed.", code="answer_streams")
    if body_bytes > BODY_BYTES_MAX or size > HEADER_BYTES_MAX:
        raise Invalid(
            "The route's answer is too large to be replayed.", code="answer_too_large",
            most=BODY_BYTES_MAX, headers_most=HEADER_BYTES_MAX,
        )  # fmt: skip


def check_times(*, lease_ms: int, ttl_ms: int) -> None:
    """Refuse what `begin` would, when an app is put together and not at its first request."""
    check_lease(lease_ms)
    check_ttl(ttl_ms)


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError  # Which of the two counts is the reader's choice.
    return found


def _as_sent(literal: str) -> msgspec.Raw:
    return msgspec.Raw(literal.encode())


def _refuse(_constant: str) -> None:
    raise ValueError


def _digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()[:32]
