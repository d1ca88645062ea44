"""Endpoints: who is told, of what, and how hard. Functions over `tx`, public through the package."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec

from onefold.core import codec
from onefold.core.errors import Conflict, Invalid, NotFound
from onefold.core.limits import entries, many, shaped, text, whole
from onefold.core.page import LIMIT_DEFAULT, Limit, Page, checked_limit, page_of
from onefold.engine.tx import Row, Tx, operation
from onefold.host.addresses import UrlText, checked_url
from onefold.messaging.webhooks.records import (
    WHY_LENGTH_MAX,
    Endpoint,
    Id,
    KeyUse,
    Wanted,
    checked_id,
    checked_wanted,
)

ENDPOINTS_MAX = 1_000  # Of one space, disabled ones too, which may be enabled: each `send` looks at all of them.
TYPES_MAX = 64
HEADERS_MAX = 20
HEADER_LENGTH_MAX = 1_000
HEADERS_LENGTH_MAX = 8_000  # All together, as JSON.
CONCURRENCY_MAX = 100
CONCURRENCY_DEFAULT = 8
PER_SECOND_MAX = 10_000
OVERLAP_MS_DEFAULT = 86_400_000
OVERLAP_MS_MAX = 31 * 86_400_000
KEY_ID_LENGTH_MAX = 40

_KEY_ID = re.compile(r"[a-z0-9][a-z0-9_-]*")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_HEADER_VALUE = re.compile(rf"[\x21-\x7e](?:[\x20-\x7e]{{0,{HEADER_LENGTH_MAX - 2}}}[\x21-\x7e])?")
_USE = re.compile(r"([0-9]{1,19})/([\x21-\x7e]{0,60})")
_OURS = {  # What the request is made of, and what would change its framing or its meaning.
    "accept-encoding", "connection", "content-encoding", "content-length", "content-type", "cookie", "expect", "host",
    "keep-alive", "proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
    "user-agent", "webhook-id", "webhook-signature", "webhook-timestamp",
}  # fmt: skip

KeyId = Annotated[str, text(1, KEY_ID_LENGTH_MAX, _KEY_ID)]
Types = Annotated[tuple[Wanted, ...], many(0, TYPES_MAX)]
Headers = Annotated[
    Mapping[Annotated[str, shaped(_HEADER)], Annotated[str, shaped(_HEADER_VALUE)]], entries(HEADERS_MAX)
]
Concurrency = Annotated[int, whole(1, CONCURRENCY_MAX)]
PerSecond = Annotated[int, whole(0, PER_SECOND_MAX)]
OverlapMs = Annotated[int, whole(0, OVERLAP_MS_MAX)]
Why = Annotated[str, text(1, WHY_LENGTH_MAX)]


@operation
def create(
    tx: Tx,
    url: UrlText,
    *,
    key_id: KeyId,
    types: Types = (),
    headers: Headers | None = None,
    concurrency: Concurrency = CONCURRENCY_DEFAULT,
    per_second: PerSecond = 0,
) -> Endpoint:
    """Make an endpoint. Messages sent by later transactions go to it too.

    Args:
        url: where; see `host.addresses.checked_url`. Where its name leads is judged at every connection.
        key_id: `keys.newest`; `keys.secrets_of(endpoint, now_ms=...)` tells the secret afterwards.
        types: up to 64 of "order.placed" or "order.*", each at most 100 characters; none means all.
        headers: up to 20 that are sent with every request, 8,000 characters as JSON. They stand readable in the
            database.
        concurrency: requests at once, 1 to 100.
        per_second: requests a second, up to 10,000; 0 for no limit.

    Raises:
        Invalid: an argument is out of range; nothing was written.
        Conflict: the space has 1,000 endpoints, disabled ones too (code "endpoints").
    """
    endpoint = Endpoint(
        id=tx.new_id("ep"), url=checked_url(url).text, types=_checked_types(types), headers=_checked_headers(headers),
        concurrency=_in_range(concurrency, 1, CONCURRENCY_MAX), per_second=_in_range(per_second, 0, PER_SECOND_MAX),
        key_id=_checked_key(key_id), generation=1, created_at_ms=tx.now_ms,
    )  # fmt: skip
    tx.run(
        """INSERT INTO onefold.webhook_endpoints (space, id, url, types, headers, concurrency, per_second, key_id,
                                                  generation, created_at_ms)
           VALUES (:space, :id, :url, :types, :headers, :concurrency, :per_second, :key_id, 1, :now_ms)""",
        **_columns(endpoint),
    )
    tx.run(
        """INSERT INTO onefold.webhook_lanes (space, endpoint_id, owner, token, expires_at_ms)
           VALUES (:space, :id, '', 0, 0)""",
        id=endpoint.id,
    )
    # After the write, so that at any isolation the limit is passed by those in flight at most.
    if _count(tx) > ENDPOINTS_MAX:
        raise Conflict("The space has too many endpoints.", code="endpoints", most=ENDPOINTS_MAX)
    tx.emit("webhooks.created", id=endpoint.id)
    return endpoint


@operation
def update(
    tx: Tx,
    endpoint_id: Id,
    *,
    url: UrlText | None = None,
    types: Types | None = None,
    headers: Headers | None = None,
    concurrency: Concurrency | None = None,
    per_second: PerSecond | None = None,
) -> Endpoint:
    """Change what is given; attempts that begin a moment later go by it. Limits as of `create`.

    Raises:
        NotFound: there is no such endpoint.
        Invalid: an argument is out of range; nothing was written.
    """
    changes: dict[str, Any] = {}
    if url is not None:
        changes["url"] = checked_url(url).text
    if types is not None:
        changes["types"] = _checked_types(types)
    if headers is not None:
        changes["headers"] = _checked_headers(headers)
    if concurrency is not None:
        changes["concurrency"] = _in_range(concurrency, 1, CONCURRENCY_MAX)
    if per_second is not None:
        changes["per_second"] = _in_range(per_second, 0, PER_SECOND_MAX)
    changed = msgspec.structs.replace(_locked(tx, endpoint_id), **changes)
    tx.run(
        """UPDATE onefold.webhook_endpoints SET url = :url, types = :types, headers = :headers,
                  concurrency = :concurrency, per_second = :per_second
           WHERE space = :space AND id = :id""",
        **{name: value for name, value in _columns(changed).items() if name != "key_id"},
    )
    tx.emit("webhooks.updated", id=endpoint_id)
    return changed


@operation
def rotate(tx: Tx, endpoint_id: Id, *, key_id: KeyId, overlap_ms: OverlapMs = OVERLAP_MS_DEFAULT) -> Endpoint:
    """Give the endpoint a new secret; the one before signs beside it for a while.

    Args:
        key_id: `keys.newest`.
        overlap_ms: how long; 0 to 31 days. 0 when the old secret was stolen.

    Raises:
        NotFound: there is no such endpoint.
        Invalid: an argument is out of range; nothing was written.
    """
    _checked_key(key_id)
    _in_range(overlap_ms, 0, OVERLAP_MS_MAX)
    row = tx.one(
        """UPDATE onefold.webhook_endpoints SET old_key_id = key_id, old_until_ms = :now_ms + :overlap_ms,
                  key_id = :key_id, generation = generation + 1
           WHERE space = :space AND id = :id
           RETURNING id, url, types, headers, concurrency, per_second, key_id, generation, created_at_ms, old_key_id,
                     old_until_ms, failing_since_ms, disabled_at_ms, disabled_why""",
        id=checked_id(endpoint_id), key_id=key_id, overlap_ms=overlap_ms,
    )  # fmt: skip
    if row is None:
        raise _unknown(endpoint_id)
    tx.emit("webhooks.rotated", id=endpoint_id)
    return endpoint_of(row)


@operation
def enable(tx: Tx, endpoint_id: Id) -> Endpoint:
    """Let messages go there again: those that waited, and new ones. What was sent meanwhile: `replay_range`.

    Raises:
        NotFound: there is no such endpoint.
    """
    _locked(tx, endpoint_id)
    tx.run(
        """UPDATE onefold.webhook_endpoints SET disabled_at_ms = {null:int}, disabled_why = {null:text},
                  failing_since_ms = {null:int}
           WHERE space = :space AND id = :id""",
        id=endpoint_id,
    )
    tx.wake("webhooks")
    tx.emit("webhooks.enabled", id=endpoint_id)
    return get(tx, endpoint_id)


@operation
def disable(tx: Tx, endpoint_id: Id, *, why: Why = "by hand") -> Endpoint:
    """Send nothing there until `enable`. What waits, waits; new messages are not kept for it.

    Args:
        why: 1 to 200 characters, for people.

    Raises:
        NotFound: there is no such endpoint.
    """
    if not 1 <= len(why) <= WHY_LENGTH_MAX:
        raise Invalid("A reason has 1 to 200 characters.", length=len(why))
    _locked(tx, endpoint_id)
    tx.run(
        """UPDATE onefold.webhook_endpoints
           SET disabled_at_ms = coalesce(disabled_at_ms, :now_ms), disabled_why = coalesce(disabled_why, :why)
           WHERE space = :space AND id = :id""",
        id=endpoint_id, why=why,
    )  # fmt: skip
    tx.emit("webhooks.disabled", id=endpoint_id, why=why)
    return get(tx, endpoint_id)


@operation
def delete(tx: Tx, endpoint_id: Id) -> None:
    """Remove the endpoint. What still waits for it is swept; an attempt in flight is not noted any more.

    Raises:
        NotFound: there is no such endpoint.
    """
    # The lane first, as dispatchers do: whoever notes an attempt is waited for, and nobody in a ring.
    row = tx.one(
        "DELETE FROM onefold.webhook_lanes WHERE space = :space AND endpoint_id = :id RETURNING endpoint_id",
        id=checked_id(endpoint_id),
    )  # fmt: skip
    if row is None:
        raise _unknown(endpoint_id)
    tx.run("DELETE FROM onefold.webhook_endpoints WHERE space = :space AND id = :id", id=endpoint_id)
    tx.emit("webhooks.deleted", id=endpoint_id)


@operation
def get(tx: Tx, endpoint_id: Id) -> Endpoint:
    """The endpoint.

    Raises:
        NotFound: there is no such endpoint.
    """
    row = tx.one(
        """SELECT id, url, types, headers, concurrency, per_second, key_id, generation, created_at_ms, old_key_id,
                  old_until_ms, failing_since_ms, disabled_at_ms, disabled_why
           FROM onefold.webhook_endpoints WHERE space = :space AND id = :id""",
        id=checked_id(endpoint_id),
    )
    if row is None:
        raise _unknown(endpoint_id)
    return endpoint_of(row)


@operation
def list_endpoints(tx: Tx, *, after: Id | None = None, limit: Limit = LIMIT_DEFAULT) -> Page[Endpoint]:
    """Endpoints, the oldest first; disabled ones too. `limit` is 1 to 1,000."""
    rows = tx.all(
        """SELECT id, url, types, headers, concurrency, per_second, key_id, generation, created_at_ms, old_key_id,
                  old_until_ms, failing_since_ms, disabled_at_ms, disabled_why
           FROM onefold.webhook_endpoints WHERE space = :space AND id > :after ORDER BY id LIMIT :most""",
        after="" if after is None else checked_id(after), most=checked_limit(limit) + 1,
    )
    return page_of([endpoint_of(row) for row in rows], limit, lambda endpoint: endpoint.id)


@operation
def list_key_uses(tx: Tx, *, after: str | None = None, limit: Limit = LIMIT_DEFAULT) -> Page[KeyUse]:
    """Which keys the secrets of all endpoints of all spaces are derived from, disabled ones too; for operators.

    A key that is on no page, read to the end after the last process took a newer one, can be retired.

    Raises:
        Invalid: `after` is not of a page before, or `limit` is not 1 to 1,000.
    """
    found = _USE.fullmatch("0/" if after is None else after)
    if found is None:
        raise Invalid("A page goes on after what the page before said.", code="after")
    rows = tx.all(
        """SELECT e.space, (SELECT n.name FROM onefold.spaces AS n WHERE n.space = e.space), e.id, e.key_id,
                  CASE WHEN e.old_until_ms > :now_ms THEN e.old_key_id END,
                  CASE WHEN e.old_until_ms > :now_ms THEN e.old_until_ms END
           FROM onefold.webhook_endpoints AS e WHERE (e.space, e.id) > (:after_space, :after_id)
           ORDER BY e.space, e.id LIMIT :most -- all spaces""",
        after_space=int(found[1]), after_id=found[2], most=checked_limit(limit) + 1,
    )  # fmt: skip
    page = page_of(rows, limit, lambda row: f"{row[0]}/{row[2]}")
    return Page([KeyUse(row[1] or "", *row[2:]) for row in page.items], page.after)


def all_of(tx: Tx) -> list[tuple[str, tuple[str, ...]]]:
    """`(id, types)` of the space's enabled endpoints."""
    rows = tx.all(
        """SELECT id, types FROM onefold.webhook_endpoints
           WHERE space = :space AND id > '' AND disabled_at_ms IS NULL ORDER BY id LIMIT :most""",
        most=2 * ENDPOINTS_MAX,  # More than there can be: whoever is left out gets nothing, and nobody is told.
    )
    return [(row[0], codec.decode(row[1], tuple[str, ...])) for row in rows]


def endpoint_of(row: Row) -> Endpoint:
    """From the columns in the order of the record's fields."""
    endpoint_id, url, types, headers, *rest = row
    wanted, extra = codec.decode(types, tuple[str, ...]), codec.decode(headers, dict[str, str])
    return Endpoint(endpoint_id, url, wanted, extra, *rest)


def _count(tx: Tx) -> int:
    """How many endpoints the space has, as far as that is of interest."""
    [(found,)] = tx.all(
        """SELECT count(*) FROM (
               SELECT 1 FROM onefold.webhook_endpoints e WHERE e.space = :space AND e.id > '' LIMIT :most) found""",
        most=ENDPOINTS_MAX + 1,
    )
    return int(found)


def _columns(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "id": endpoint.id, "url": endpoint.url, "types": codec.encode(endpoint.types),
        "headers": codec.encode(endpoint.headers), "concurrency": endpoint.concurrency,
        "per_second": endpoint.per_second, "key_id": endpoint.key_id,
    }  # fmt: skip


def _locked(tx: Tx, endpoint_id: str) -> Endpoint:
    row = tx.one(
        """SELECT id, url, types, headers, concurrency, per_second, key_id, generation, created_at_ms, old_key_id,
                  old_until_ms, failing_since_ms, disabled_at_ms, disabled_why
           FROM onefold.webhook_endpoints WHERE space = :space AND id = :id {for_update}""",
        id=checked_id(endpoint_id),
    )
    if row is None:
        raise _unknown(endpoint_id)
    return endpoint_of(row)


def _unknown(endpoint_id: str) -> NotFound:
    return NotFound("There is no such endpoint.", id=endpoint_id)


def _checked_types(types: Sequence[str]) -> tuple[str, ...]:
    if isinstance(types, str) or len(types) > TYPES_MAX:
        raise Invalid("An endpoint names at most 64 types.", count=len(types), most=TYPES_MAX)
    for name in types:
        checked_wanted(name)
    return tuple(dict.fromkeys(types))


def _checked_headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    found = dict(headers or {})
    if len(found) > HEADERS_MAX:
        raise Invalid("An endpoint has at most 20 headers.", count=len(found), most=HEADERS_MAX)
    for name, value in found.items():
        if not _HEADER.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise Invalid("A header's name or value is none.", code="header", name=name[:100])
        if name.lower() in _OURS:
            raise Invalid("A header is not one that an endpoint may set.", code="header_reserved", name=name[:100])
    if len({name.lower() for name in found}) < len(found) or len(codec.encode(found)) > HEADERS_LENGTH_MAX:
        raise Invalid("The headers are too long, or one stands there twice.", code="headers", most=HEADERS_LENGTH_MAX)
    return found


def _checked_key(key_id: str) -> str:
    if len(key_id) > KEY_ID_LENGTH_MAX or not _KEY_ID.fullmatch(key_id):
        raise Invalid("A key's id has 1 to 40 of a-z, 0-9, - and _.", length=len(key_id))
    return key_id


def _in_range(value: int, least: int, most: int) -> int:
    if not least <= value <= most:
        raise Invalid("A number is out of range.", value=value, least=least, most=most)
    return value
