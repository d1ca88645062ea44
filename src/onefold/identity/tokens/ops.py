"""Tokens: who holds the secret may use these rights in this space, until a time or a revocation.

A token is an id and a secret. The secret is made outside (`new_secret`), never enters a
transaction, and only its SHA-256 is stored: with 256 random bits there is nothing to guess, so
a slow hash would buy nothing. Rows stand in the root space; call these functions there.
"""

from __future__ import annotations

import hmac
import re
from typing import Annotated

import msgspec

from onefold.core import codec
from onefold.core.errors import Denied, Invalid, NotFound
from onefold.core.limits import many, shaped, text, whole
from onefold.core.page import LIMIT_DEFAULT, Limit, Page, checked_limit, page_of
from onefold.engine.tx import Row, Tx, operation

ID_LENGTH_MAX = 60
NAME_LENGTH_MAX = 200
SPACE_NAME_LENGTH_MAX = 200
RIGHTS_MAX = 64  # Of one token.
TTL_MS_MAX = 10 * 365 * 86_400_000  # Ten years; None for one that does not expire.
USED_EVERY_MS = 3_600_000  # `used_at_ms` may lag by this much: reading must not become writing.
KEPT_MS = 90 * 86_400_000  # After the end, for whoever reads old logs.
SWEEP_MAX = 500

_RIGHT = re.compile(r"(?:\*|[a-z][a-z0-9_]{0,39}:(?:\*|[a-z][a-z0-9_]{0,39}))")
_DIGEST = re.compile(r"[0-9a-f]{64}")

TokenId = Annotated[str, text(1, ID_LENGTH_MAX)]
Cursor = Annotated[str, text(0, ID_LENGTH_MAX)]
Name = Annotated[str, text(1, NAME_LENGTH_MAX)]
SpaceName = Annotated[str, text(0, SPACE_NAME_LENGTH_MAX)]
Digest = Annotated[str, shaped(_DIGEST)]
Rights = Annotated[tuple[Annotated[str, shaped(_RIGHT)], ...], many(1, RIGHTS_MAX)]
TtlMs = Annotated[int, whole(1, TTL_MS_MAX)]


class Token(msgspec.Struct, frozen=True):
    """What is known of a token; neither its secret nor the digest.

    Attributes:
        id: public; stands in logs.
        name: what people call it: "checkout service".
        rights: "booking:read", "booking:*" or "*".
        space_name: the one space that it opens; "" is the root space.
        created_at_ms: when it was made.
        expires_at_ms: from when on it is refused; None for never.
        revoked_at_ms: when it was revoked; None while it was not.
        used_at_ms: a time of use, up to `USED_EVERY_MS` old; None when never used.
    """

    id: str
    name: str
    rights: tuple[str, ...]
    space_name: str
    created_at_ms: int
    expires_at_ms: int | None
    revoked_at_ms: int | None
    used_at_ms: int | None


@operation
def create(
    tx: Tx, name: Name, *, digest: Digest, rights: Rights, space_name: SpaceName = "", ttl_ms: TtlMs | None = None,
    by: str | None = None,
) -> Token:
    """Make a token of which the caller has the secret; see `new_secret` and `bearer`.

    A token can give away what it has itself and no more: rights that it carries, in the space that
    it opens, for no longer than it lasts. It must live at the commit, not only when it was trusted.

    Args:
        name: 1 to 200 characters, for people.
        digest: SHA-256 of the secret, 64 hexadecimal digits in lower case.
        rights: 1 to 64 of "block:verb", "block:*" or "*".
        space_name: the one space that the token opens; at most 200 characters.
        ttl_ms: counted from `tx.now_ms`; 1 to `TTL_MS_MAX`, None for no end.
        by: the id of the token that asks; None for a program that has the database itself, which
            may make any.

    Raises:
        Denied: code "token", the one that asks is not valid (any more); "grant", it has not what it
            would give away (fact "lacks").
        Invalid: an argument is out of range; nothing was written.
    """
    _check(name, digest, rights, space_name, ttl_ms)
    if by is not None:
        _check_grant(_living(tx, by), rights, space_name, None if ttl_ms is None else tx.now_ms + ttl_ms)
    token = Token(
        id=tx.new_id("token"), name=name, rights=tuple(dict.fromkeys(rights)), space_name=space_name,
        created_at_ms=tx.now_ms, expires_at_ms=None if ttl_ms is None else tx.now_ms + ttl_ms,
        revoked_at_ms=None, used_at_ms=None,
    )  # fmt: skip
    tx.run(
        """INSERT INTO onefold.tokens (space, id, name, digest, rights, space_name, created_at_ms, expires_at_ms)
           VALUES (:space, :id, :name, :digest, :rights, :space_name, :now_ms, :expires_at_ms)""",
        id=token.id, name=name, digest=digest, rights=codec.encode(token.rights), space_name=space_name,
        expires_at_ms=token.expires_at_ms,
    )  # fmt: skip
    tx.emit("tokens.created", id=token.id)
    return token


@operation
def verify(tx: Tx, token_id: str, *, digest: str) -> Token:
    """The token, if `digest` is that of its secret and it is neither expired nor revoked.

    Raises:
        Denied: it is unknown, expired, revoked or the secret is wrong; which of them is not told.
    """
    row = tx.one(
        """SELECT id, name, rights, space_name, created_at_ms, expires_at_ms, revoked_at_ms, used_at_ms, digest
           FROM onefold.tokens
           WHERE space = :space AND id = :id AND revoked_at_ms IS NULL
             AND (expires_at_ms IS NULL OR expires_at_ms > :now_ms)""",
        id=token_id,
    )
    # Compared also when there is no row, so that the time taken does not tell which ids exist.
    known = row[8] if row else "-" * 64
    if not hmac.compare_digest(known.encode(), digest.encode(errors="replace")) or row is None:
        raise Denied("The token is not valid.", code="token")
    return _token(row)


@operation
def get(tx: Tx, token_id: str) -> Token:
    """The token, for a caller whose right to act for it was proven by other means (see sessions).

    Raises:
        Denied: it is unknown, expired or revoked; which of them is not told.
    """
    row = tx.one(
        """SELECT id, name, rights, space_name, created_at_ms, expires_at_ms, revoked_at_ms, used_at_ms
           FROM onefold.tokens
           WHERE space = :space AND id = :id AND revoked_at_ms IS NULL
             AND (expires_at_ms IS NULL OR expires_at_ms > :now_ms)""",
        id=token_id,
    )
    if row is None:
        raise Denied("The token is not valid.", code="token")
    return _token(row)


def allows(token: Token, right: str) -> bool:
    """Whether the token carries `right` ("booking:write"), itself or by a "*"."""
    return right in token.rights or "*" in token.rights or f"{right.partition(':')[0]}:*" in token.rights


@operation
def revoke(tx: Tx, token_id: TokenId) -> Token:
    """End a token for good; a second time changes nothing. Servers notice within two seconds.

    Raises:
        NotFound: there is no such token.
    """
    row = tx.one(
        """UPDATE onefold.tokens SET revoked_at_ms = coalesce(revoked_at_ms, :now_ms)
           WHERE space = :space AND id = :id
           RETURNING id, name, rights, space_name, created_at_ms, expires_at_ms, revoked_at_ms, used_at_ms""",
        id=token_id,
    )
    if row is None:
        raise NotFound("There is no such token.", id=token_id)
    tx.emit("tokens.revoked", id=token_id)
    return _token(row)


@operation
def list_tokens(tx: Tx, *, after: Cursor | None = None, limit: Limit = LIMIT_DEFAULT) -> Page[Token]:
    """All tokens, the oldest first; revoked and expired ones as long as they are kept.

    Args:
        after: the cursor of the page before.
        limit: 1 to 1,000.

    Raises:
        Invalid: an argument is out of range.
    """
    if after is not None and len(after) > ID_LENGTH_MAX:
        raise Invalid("A token's id has 1 to 60 characters.", length=len(after))
    rows = tx.all(
        """SELECT id, name, rights, space_name, created_at_ms, expires_at_ms, revoked_at_ms, used_at_ms
           FROM onefold.tokens WHERE space = :space AND id > :after ORDER BY id LIMIT :most""",
        after=after or "", most=checked_limit(limit) + 1,
    )
    return page_of([_token(row) for row in rows], limit, lambda token: token.id)


@operation
def touch(tx: Tx, token_id: str) -> None:
    """Note that the token was used, unless that was noted less than an hour ago."""
    tx.run(
        """UPDATE onefold.tokens SET used_at_ms = :now_ms
           WHERE space = :space AND id = :id
             AND (used_at_ms IS NULL OR used_at_ms <= :now_ms - :every_ms)""",
        id=token_id, every_ms=USED_EVERY_MS,
    )


def sweep(tx: Tx) -> bool:
    """Delete some of those that ended more than 90 days ago; True when more may be left."""
    revoked = tx.all(
        """DELETE FROM onefold.tokens WHERE (id, space) IN (
               SELECT id, space FROM onefold.tokens
               WHERE revoked_at_ms < :before_ms ORDER BY revoked_at_ms LIMIT :most)
           RETURNING id -- all spaces""",
        before_ms=tx.now_ms - KEPT_MS, most=SWEEP_MAX,
    )
    expired = tx.all(
        """DELETE FROM onefold.tokens WHERE (id, space) IN (
               SELECT id, space FROM onefold.tokens
               WHERE expires_at_ms < :before_ms ORDER BY expires_at_ms LIMIT :most)
           RETURNING id -- all spaces""",
        before_ms=tx.now_ms - KEPT_MS, most=SWEEP_MAX,
    )
    return SWEEP_MAX in {len(revoked), len(expired)}


def _living(tx: Tx, token_id: str) -> Token:
    """The token, locked against revocation: one that is revoked meanwhile makes no other."""
    row = tx.one(
        """SELECT id, name, rights, space_name, created_at_ms, expires_at_ms, revoked_at_ms, used_at_ms
           FROM onefold.tokens
           WHERE space = :space AND id = :id AND revoked_at_ms IS NULL
             AND (expires_at_ms IS NULL OR expires_at_ms > :now_ms) {for_share}""",
        id=token_id,
    )
    if row is None:
        raise Denied("The token that asks makes no others: it is not of this space, or has ended.", code="token")
    return _token(row)


def _check_grant(maker: Token, rights: tuple[str, ...], space_name: str, expires_at_ms: int | None) -> None:
    lacks = [right for right in rights if not allows(maker, right)]
    if space_name != maker.space_name:
        lacks.append("space")
    if maker.expires_at_ms is not None and (expires_at_ms is None or expires_at_ms > maker.expires_at_ms):
        lacks.append("time")
    if lacks:
        raise Denied("A token gives away only what it has itself.", code="grant", lacks=" ".join(lacks))


def _check(name: str, digest: str, rights: tuple[str, ...], space_name: str, ttl_ms: int | None) -> None:
    if not 1 <= len(name) <= NAME_LENGTH_MAX:
        raise Invalid("A token's name has 1 to 200 characters.", length=len(name))
    if not _DIGEST.fullmatch(digest):
        raise Invalid("The digest is 64 hexadecimal digits in lower case: SHA-256 of the secret.")
    if not 1 <= len(rights) <= RIGHTS_MAX:
        raise Invalid("A token carries 1 to 64 rights.", count=len(rights))
    for right in rights:
        if not _RIGHT.fullmatch(right):
            raise Invalid('A right is "block:verb", "block:*" or "*".', right=right[:100])
    if len(space_name) > SPACE_NAME_LENGTH_MAX or "\0" in space_name:
        raise Invalid("A space's name has at most 200 characters and no NUL.", length=len(space_name))
    if ttl_ms is not None and not 1 <= ttl_ms <= TTL_MS_MAX:
        raise Invalid("ttl_ms is out of range.", ttl_ms=ttl_ms, most=TTL_MS_MAX)


def _token(row: Row) -> Token:
    rights = codec.decode(row[2], tuple[str, ...])
    return Token(row[0], row[1], rights, row[3], row[4], row[5], row[6], row[7])
