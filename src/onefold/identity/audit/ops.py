"""Audit: who did what to what, and why, written in the transaction that does it.

There is no function that changes or removes an entry; only the sweep does, after `KEPT_MS`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec

from onefold.core import codec
from onefold.core.errors import Invalid, NotFound
from onefold.core.limits import CONTROL, NO_CONTROL, text
from onefold.core.page import LIMIT_DEFAULT, Limit, Page, checked_limit, page_of
from onefold.engine.tx import Row, Tx, operation

ACTOR_LENGTH_MAX = 200
ACTION_LENGTH_MAX = 100
SUBJECT_LENGTH_MAX = 400
REASON_LENGTH_MAX = 500
FACTS_LENGTH_MAX = 8_192  # Of their JSON.
ID_LENGTH_MAX = 60
KEPT_MS = 400 * 86_400_000  # A year can be looked back on at its end.
SWEEP_MAX = 500

_ACTION = re.compile(r"[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*")
EntryId = Annotated[str, text(1, ID_LENGTH_MAX, NO_CONTROL)]
Cursor = Annotated[str, text(0, ID_LENGTH_MAX, NO_CONTROL)]
_NEWEST = "\U0010ffff"  # Behind every id.


class Record(msgspec.Struct, frozen=True):
    """One action.

    Attributes:
        id: sortable by time.
        at_ms: when the transaction that did it ran.
        actor: who did it, such as a token's id.
        action: "jobs.retry".
        subject: what it was done to, such as a job's id; "" when it is in the facts.
        reason: why, in the words of whoever did it.
        facts: what else belongs to it: counts, states before.
    """

    id: str
    at_ms: int
    actor: str
    action: str
    subject: str
    reason: str
    facts: dict[str, Any]


@operation
def record(
    tx: Tx, action: str, subject: str = "", *, actor: str, reason: str, facts: dict[str, Any] | None = None
) -> Record:
    """Write an entry; it exists when, and only when, what it tells of is committed.

    Args:
        action: "block.verb", at most 100 characters.
        subject: what it is done to, at most 400 characters.
        actor: who does it, 1 to 200 characters.
        reason: why, 1 to 500 characters that are not all blank.
        facts: what else belongs to it; at most 8,192 characters of JSON. No secrets. Answered as they come
            back from JSON.

    Raises:
        Invalid: an argument is out of range; nothing was written.
    """
    if len(action) > ACTION_LENGTH_MAX or not _ACTION.fullmatch(action):
        raise Invalid('An action is "block.verb", at most 100 characters.', code="action")
    _check("subject", subject, 0, SUBJECT_LENGTH_MAX)
    _check("actor", actor, 1, ACTOR_LENGTH_MAX)
    reason = reason.strip()
    _check("reason", reason, 1, REASON_LENGTH_MAX)
    stored = codec.encode(facts or {}, what="facts")
    if len(stored) > FACTS_LENGTH_MAX:
        raise Invalid("The facts are too long.", code="facts", length=len(stored), most=FACTS_LENGTH_MAX)
    kept = codec.decode(stored, dict[str, Any])  # Before it is written: what cannot be read would spoil every list.
    entry = Record(tx.new_id("audit"), tx.now_ms, actor, action, subject, reason, kept)
    tx.run(
        """INSERT INTO onefold.audit (space, id, at_ms, actor, action, subject, reason, facts)
           VALUES (:space, :id, :now_ms, :actor, :action, :subject, :reason, :facts)""",
        id=entry.id, actor=actor, action=action, subject=subject, reason=reason, facts=stored,
    )  # fmt: skip
    tx.emit("audit.recorded", id=entry.id, action=action)
    return entry


@operation
def get(tx: Tx, entry_id: EntryId) -> Record:
    """The entry.

    Raises:
        NotFound: there is none with this id, or it was swept.
    """
    row = tx.one(
        """SELECT id, at_ms, actor, action, subject, reason, facts FROM onefold.audit
           WHERE space = :space AND id = :id""",
        id=_checked_id(entry_id),
    )
    if row is None:
        raise NotFound("There is no such entry.", id=entry_id)
    return _entry(row)


@operation
def list_entries(tx: Tx, *, after: Cursor | None = None, limit: Limit = LIMIT_DEFAULT) -> Page[Record]:
    """The entries of this space, the newest first.

    Args:
        after: the cursor of the page before.
        limit: 1 to 1,000.
    """
    rows = tx.all(
        """SELECT id, at_ms, actor, action, subject, reason, facts FROM onefold.audit
           WHERE space = :space AND id < :before ORDER BY id DESC LIMIT :most""",
        before=_checked_id(after) if after else _NEWEST, most=checked_limit(limit) + 1,
    )  # fmt: skip
    return page_of([_entry(row) for row in rows], limit, lambda entry: entry.id)


def sweep(tx: Tx) -> bool:
    """Delete some of the entries that are older than `KEPT_MS`; True when more may be left."""
    rows = tx.all(
        """DELETE FROM onefold.audit WHERE (id, space) IN (
               SELECT id, space FROM onefold.audit WHERE at_ms < :before_ms ORDER BY at_ms LIMIT :most)
           RETURNING id -- all spaces""",
        before_ms=tx.now_ms - KEPT_MS, most=SWEEP_MAX,
    )
    return len(rows) == SWEEP_MAX


def _check(name: str, text: str, least: int, most: int) -> None:
    if not least <= len(text) <= most:
        raise Invalid("A text is too short or too long.", code=name, length=len(text), least=least, most=most)
    if CONTROL.search(text):  # Two entries must not look like one.
        raise Invalid("A text may not hold control characters.", code=name)


def _checked_id(entry_id: str) -> str:
    _check("id", entry_id, 1, ID_LENGTH_MAX)
    return entry_id


def _entry(row: Row) -> Record:
    return Record(row[0], row[1], row[2], row[3], row[4], row[5], codec.decode(row[6], dict[str, Any]))
