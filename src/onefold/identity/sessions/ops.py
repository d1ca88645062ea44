"""Sessions: a browser acts for a token without keeping the token's secret.

Rows stand in the root space; call these functions there. A session is an id and a secret of its own,
of which only the SHA-256 is stored. It can do what its token can, and ends when the token does.
"""

from __future__ import annotations

import hmac
import re
from typing import Annotated

import msgspec

from onefold.core.errors import Denied, Invalid, NotFound
from onefold.core.limits import PRINTABLE, text
from onefold.core.page import LIMIT_DEFAULT, Limit, Page, checked_limit, page_of
from onefold.engine.tx import Tx, operation
from onefold.identity import tokens

ID_LENGTH_MAX = 60
TTL_MS_MAX = 7 * 86_400_000  # One week; then the token is asked for again.
TTL_MS_DEFAULT = 12 * 3_600_000  # A long night.
SWEEP_MAX = 500

SessionId = Annotated[str, text(1, ID_LENGTH_MAX, PRINTABLE)]
Cursor = Annotated[str, text(0, ID_LENGTH_MAX, PRINTABLE)]
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Session(msgspec.Struct, frozen=True):
    """A browser that is logged in; neither its secret nor the digest.

    Attributes:
        id: public; stands in the cookie and in lists.
        token_id: for which token it acts.
        created_at_ms: when it began.
        expires_at_ms: from when on it is refused, whatever happens.
    """

    id: str
    token_id: str
    created_at_ms: int
    expires_at_ms: int


class Person(msgspec.Struct, frozen=True):
    """Who acts in a session: the session, and its token as it is now."""

    session: Session
    token: tokens.Token


@operation
def begin(tx: Tx, token_id: str, *, digest: str, ttl_ms: int = TTL_MS_DEFAULT) -> Session:
    """Begin a session for a token whose holder has just shown its secret.

    Args:
        token_id: a token that lives.
        digest: SHA-256 of the session's secret, 64 hexadecimal digits in lower case.
        ttl_ms: counted from `tx.now_ms`, never renewed; 1 to `TTL_MS_MAX`.

    Raises:
        Denied: the token has ended.
        Invalid: an argument is out of range; nothing was written.
    """
    if not _DIGEST.fullmatch(digest):
        raise Invalid("The digest is 64 hexadecimal digits in lower case: SHA-256 of the secret.", code="digest")
    if type(ttl_ms) is not int or not 1 <= ttl_ms <= TTL_MS_MAX:
        raise Invalid("ttl_ms is out of range.", ttl_ms=ttl_ms, most=TTL_MS_MAX)
    tokens.get(tx, token_id)
    session = Session(tx.new_id("session"), token_id, tx.now_ms, tx.now_ms + ttl_ms)
    tx.run(
        """INSERT INTO onefold.sessions (space, id, digest, token_id, created_at_ms, expires_at_ms)
           VALUES (:space, :id, :digest, :token_id, :now_ms, :expires_at_ms)""",
        id=session.id, digest=digest, token_id=token_id, expires_at_ms=session.expires_at_ms,
    )  # fmt: skip
    tx.emit("sessions.begun", id=session.id, token=token_id)
    return session


@operation
def verify(tx: Tx, session_id: str, *, digest: str) -> Person:
    """Who acts in the session, if `digest` is that of its secret and neither it nor its token has ended.

    Raises:
        Denied: it is unknown or over, its token has ended, or the secret is wrong; which is not told.
    """
    row = tx.one(
        """SELECT id, token_id, created_at_ms, expires_at_ms, digest FROM onefold.sessions
           WHERE space = :space AND id = :id AND expires_at_ms > :now_ms""",
        id=_checked_id(session_id),
    )
    # Compared also when there is no row, so that the time taken does not tell which ids exist.
    known = row[4] if row else "-" * 64
    if not hmac.compare_digest(known.encode(), digest.encode(errors="replace")) or row is None:
        raise Denied("The session is not valid.", code="session")
    return Person(Session(*row[:4]), tokens.get(tx, row[1]))


@operation
def end(tx: Tx, session_id: SessionId) -> Session:
    """End a session at once.

    Raises:
        NotFound: there is none with this id; it may have ended before.
    """
    row = tx.one(
        """DELETE FROM onefold.sessions WHERE space = :space AND id = :id
           RETURNING id, token_id, created_at_ms, expires_at_ms""",
        id=_checked_id(session_id),
    )
    if row is None:
        raise NotFound("There is no such session.", id=session_id)
    tx.emit("sessions.ended", id=session_id)
    return Session(*row)


@operation
def list_sessions(tx: Tx, *, after: Cursor | None = None, limit: Limit = LIMIT_DEFAULT) -> Page[Session]:
    """The sessions whose time is not over, the oldest first.

    Args:
        after: the cursor of the page before.
        limit: 1 to 1,000.
    """
    rows = tx.all(
        """SELECT id, token_id, created_at_ms, expires_at_ms FROM onefold.sessions
           WHERE space = :space AND id > :after AND expires_at_ms > :now_ms ORDER BY id LIMIT :most""",
        after=_checked_id(after) if after else "", most=checked_limit(limit) + 1,
    )  # fmt: skip
    return page_of([Session(*row) for row in rows], limit, lambda session: session.id)


def sweep(tx: Tx) -> bool:
    """Delete some of the sessions whose time is over; True when more may be left."""
    rows = tx.all(
        """DELETE FROM onefold.sessions WHERE (id, space) IN (
               SELECT id, space FROM onefold.sessions WHERE expires_at_ms <= :before_ms
               ORDER BY expires_at_ms LIMIT :most)
           RETURNING id -- all spaces""",
        before_ms=tx.now_ms, most=SWEEP_MAX,
    )
    return len(rows) == SWEEP_MAX


def _checked_id(session_id: str) -> str:
    if not 1 <= len(session_id) <= ID_LENGTH_MAX or not session_id.isascii() or not session_id.isprintable():
        raise Invalid("A session's id has 1 to 60 printable characters.", code="id", length=len(session_id))
    return session_id
