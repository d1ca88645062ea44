"""Locks: at most one live holder per name, and every holder is numbered.

A holder that sleeps past its expiry is not stopped, it is outnumbered: call `check` in the same
transaction as the write that the lock guards, and the write cannot land after a take-over.

The clock decides one thing only: when somebody else may take over. Whoever was not taken over
still holds, so `check`, `renew` and `release` compare tokens and look at no clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import msgspec

from onefold.core.errors import Conflict, Invalid, NotFound
from onefold.core.limits import CONTROL, NO_CONTROL, text, whole
from onefold.core.page import LIMIT_DEFAULT, Limit, Page, checked_limit, page_of
from onefold.engine.tx import Tx, operation
from onefold.engine.values import INTEGER_MAX

NAME_LENGTH_MAX = 200
OWNER_LENGTH_MAX = 200
REASON_LENGTH_MAX = 500
TTL_MS_MAX = 3_600_000  # One hour; who needs longer renews.
ALL_MAX = 100  # Names in one `acquire_all`.

Name = Annotated[str, text(1, NAME_LENGTH_MAX, NO_CONTROL)]
NameBegin = Annotated[str, text(0, NAME_LENGTH_MAX, NO_CONTROL)]
Owner = Annotated[str, text(1, OWNER_LENGTH_MAX, NO_CONTROL)]
Reason = Annotated[str, text(1, REASON_LENGTH_MAX, NO_CONTROL)]
TtlMs = Annotated[int, whole(1, TTL_MS_MAX)]
_Count = Annotated[int, whole(0, INTEGER_MAX)]

IDLE_MS = 3_600_000  # From the end of a lock to the mark. Longer: more rows that nobody needs.
# From the mark to the deletion. It must outlast every transaction: one that began before the
# mark may still count from the old floor. The engine's own end after ten minutes.
MARK_MS = 3_600_000
SWEEP_ROWS = 1_000  # Looked at in one step.

_BEYOND = "\U0010ffff" * NAME_LENGTH_MAX  # After a prefix: no name with the prefix sorts behind it.


class Lock(msgspec.Struct, frozen=True):
    """A lock as it was when it was read. What makes its bearer the holder is `token`.

    Attributes:
        name: what is locked.
        owner: who holds it.
        token: counts the holders of `name`; hand it to outside resources that can compare.
        acquired_at_ms: since when this owner holds it.
        expires_at_ms: from when on others may take it, on the database's clock.
    """

    name: Name
    owner: Owner
    token: _Count
    acquired_at_ms: _Count
    expires_at_ms: _Count


@operation
def acquire(tx: Tx, name: Name, *, owner: Owner, ttl_ms: TtlMs) -> Lock:
    """Take the lock `name`; see `try_acquire`.

    Raises:
        Conflict: code "held": another owner has it; the fact `retry_after_ms` says when it
            expires, unless it is renewed or released before.
        Invalid: an argument is out of range; nothing was written.
    """
    lock = _take(tx, name, owner, ttl_ms)
    if lock is None:
        raise _held(tx, name)
    return lock


@operation
def try_acquire(tx: Tx, name: Name, *, owner: Owner, ttl_ms: TtlMs) -> Lock | None:
    """Take the lock `name`, or answer None while another owner holds it.

    Args:
        name: 1 to 200 characters, compared byte by byte; "/" separates levels by custom
            ("invoice/42").
        owner: who asks, 1 to 200 characters, different for everyone who may compete. The holder
            asking again keeps its token and expires later.
        ttl_ms: counted from `tx.now_ms`; 1 to `TTL_MS_MAX`.

    Raises:
        Invalid: an argument is out of range; nothing was written.
    """
    return _take(tx, name, owner, ttl_ms)


@operation
def acquire_all(tx: Tx, names: Iterable[str], *, owner: str, ttl_ms: int) -> list[Lock]:
    """Take 1 to 100 locks or none of them, in the order of their names.

    The order is what keeps two callers from waiting for each other.

    Raises:
        Conflict: code "held", with the first name that another owner has.
        Invalid: an argument is out of range, or one name came twice.
    """
    wanted = sorted(names)
    if not 1 <= len(wanted) <= ALL_MAX or len(set(wanted)) != len(wanted):
        raise Invalid("acquire_all takes 1 to 100 different names.", names=len(wanted), most=ALL_MAX)
    locks: list[Lock] = []
    for name in wanted:
        lock = _take(tx, name, owner, ttl_ms)
        if lock is None:
            raise _held(tx, name)
        locks.append(lock)
    return locks


@operation
def renew(tx: Tx, lock: Lock, *, ttl_ms: TtlMs) -> Lock:
    """Let `lock` expire `ttl_ms` from now (never earlier than before); its token stays.

    It may have expired: as long as nobody took it over, it is renewed.

    Raises:
        Conflict: code "lost": it was taken over, released, or released by force.
        Invalid: an argument is out of range; nothing was written.
    """
    _check_lock(lock)
    _check_ttl(ttl_ms)
    row = tx.one(
        """UPDATE onefold.locks
              SET expires_at_ms = CASE WHEN onefold.locks.expires_at_ms > :now_ms + :ttl_ms
                                       THEN onefold.locks.expires_at_ms ELSE :now_ms + :ttl_ms END,
                  marked_at_ms = {null:int}
            WHERE space = :space AND name = :name AND token = :token AND owner = :owner
        RETURNING acquired_at_ms, expires_at_ms""",
        name=lock.name, token=lock.token, owner=lock.owner, ttl_ms=ttl_ms,
    )  # fmt: skip
    if row is None:
        raise _lost(lock)
    tx.emit("locks.renewed", name=lock.name, owner=lock.owner, token=lock.token)
    return Lock(lock.name, lock.owner, lock.token, row[0], row[1])


@operation
def check(tx: Tx, lock: Lock) -> None:
    """Go on only if `lock` was not taken over, and let nobody take it before this commits.

    Call it in the transaction that writes what the lock guards. No clock is read: a holder that
    expired, but has no successor, may still write.

    Raises:
        Conflict: code "lost": it was taken over, released, or released by force.
    """
    _check_lock(lock)
    # Shared: transactions of one holder pass each other. Without the lock a holder whose check
    # is past could be taken over before its write lands.
    row = tx.one(
        "SELECT token, owner FROM onefold.locks WHERE space = :space AND name = :name {for_share}",
        name=lock.name,
    )
    if row != (lock.token, lock.owner):
        raise _lost(lock)


@operation
def release(tx: Tx, lock: Lock) -> None:
    """Give the lock back; who waits for it is woken.

    Like `check` it aborts a deposed holder, so that work committed together with the release is
    guarded by it.

    Raises:
        Conflict: code "lost": it was taken over, released already, or released by force.
    """
    _check_lock(lock)
    row = tx.one(
        """UPDATE onefold.locks SET owner = {null:text}, expires_at_ms = :now_ms
            WHERE space = :space AND name = :name AND token = :token AND owner = :owner
        RETURNING token""",
        name=lock.name, token=lock.token, owner=lock.owner,
    )  # fmt: skip
    if row is None:
        raise _lost(lock)
    _freed(tx, lock.name)
    tx.emit("locks.released", name=lock.name, owner=lock.owner, token=lock.token)


@operation
def force_release(tx: Tx, name: Name, *, reason: Reason) -> Lock:
    """Take the lock from its holder, whose checks fail from now on; answer what it had.

    Args:
        name: the lock.
        reason: 1 to 500 characters; goes into the fact "locks.forced", which audits record.

    Raises:
        NotFound: nobody holds it.
        Invalid: an argument is out of range; nothing was written.
    """
    _check_text("name", name, NAME_LENGTH_MAX)
    _check_text("reason", reason, REASON_LENGTH_MAX)
    row = tx.one(
        """SELECT owner, token, acquired_at_ms, expires_at_ms FROM onefold.locks
            WHERE space = :space AND name = :name {for_update}""",
        name=name,
    )
    if row is None or row[0] is None:
        raise NotFound("Nobody holds the lock.", code="not_held", name=name)
    tx.run(
        """UPDATE onefold.locks SET owner = {null:text}, expires_at_ms = :now_ms
            WHERE space = :space AND name = :name""",
        name=name,
    )
    _freed(tx, name)
    tx.emit("locks.forced", name=name, owner=row[0], token=row[1], reason=reason)
    return Lock(name, *row)


@operation
def lock_of(tx: Tx, name: Name) -> Lock | None:
    """The lock `name` as it is now, or None when nobody holds it or its holder expired."""
    _check_text("name", name, NAME_LENGTH_MAX)
    row = tx.one(
        """SELECT name, owner, token, acquired_at_ms, expires_at_ms FROM onefold.locks
            WHERE space = :space AND name = :name AND owner IS NOT NULL AND expires_at_ms > :now_ms""",
        name=name,
    )
    return Lock(*row) if row else None


@operation
def list_locks(
    tx: Tx, *, prefix: NameBegin = "", after: NameBegin | None = None, limit: Limit = LIMIT_DEFAULT
) -> Page[Lock]:
    """The locks that are held now, in the order of their names.

    Args:
        prefix: only names that begin with it; "" is all.
        after: `Page.after` of the page before.
        limit: 1 to 1,000.
    """
    if prefix:
        _check_text("prefix", prefix, NAME_LENGTH_MAX)
    if after:
        _check_text("after", after, NAME_LENGTH_MAX)
    checked_limit(limit)
    rows = tx.all(
        """SELECT name, owner, token, acquired_at_ms, expires_at_ms FROM onefold.locks
            WHERE space = :space AND name > :after AND name >= :prefix AND name <= :last
              AND owner IS NOT NULL AND expires_at_ms > :now_ms
            ORDER BY name LIMIT :rows""",
        after=after or "", prefix=prefix, last=prefix + _BEYOND, rows=limit + 1,
    )  # fmt: skip
    return page_of([Lock(*row) for row in rows], limit, lambda lock: lock.name)


@operation
def sweep(tx: Tx) -> bool:
    """Look at the next 1,000 rows; delete those marked long ago, mark those that are idle.

    A loop calls it, for all spaces at once and with nobody's help: it may run twice at once.
    Answers True until it came to the end of the table.
    """
    place = tx.one("SELECT space, name FROM onefold.lock_sweep ORDER BY space LIMIT 1 -- all spaces")
    tx.run("DELETE FROM onefold.lock_sweep -- all spaces")
    first = place or (-1, "")
    rows = tx.all(
        """SELECT space, name FROM onefold.locks -- all spaces
            WHERE (space, name) > (:from_space, :from_name) ORDER BY space, name LIMIT :rows""",
        from_space=first[0], from_name=first[1], rows=SWEEP_ROWS,
    )  # fmt: skip
    if not rows:
        return False
    last = rows[-1]
    _sweep_range(tx, first, last)
    if len(rows) < SWEEP_ROWS:
        return False
    tx.run(
        """INSERT INTO onefold.lock_sweep (space, name) VALUES (:at_space, :at_name) -- all spaces
           ON CONFLICT (space) DO UPDATE SET name = excluded.name""",
        at_space=last[0], at_name=last[1],
    )  # fmt: skip
    return True


def _sweep_range(tx: Tx, first: tuple[int, str], last: tuple[int, str]) -> None:
    limits = {"from_space": first[0], "from_name": first[1], "to_space": last[0], "to_name": last[1]}
    # A row that somebody works with is skipped: it is not idle, or not for long.
    tx.run(
        """DELETE FROM onefold.locks -- all spaces
            WHERE (name, space) IN (
                SELECT name, space FROM onefold.locks
                 WHERE (space, name) > (:from_space, :from_name) AND (space, name) <= (:to_space, :to_name)
                   AND marked_at_ms <= :marked_before
                 ORDER BY space, name {for_update} {skip_locked})""",
        **limits, marked_before=tx.now_ms - MARK_MS,
    )  # fmt: skip
    marked = tx.all(
        """UPDATE onefold.locks SET marked_at_ms = :now_ms -- all spaces
            WHERE (name, space) IN (
                SELECT name, space FROM onefold.locks
                 WHERE (space, name) > (:from_space, :from_name) AND (space, name) <= (:to_space, :to_name)
                   AND marked_at_ms IS NULL AND expires_at_ms <= :idle_before
                 ORDER BY space, name {for_update} {skip_locked})
        RETURNING space, token""",
        **limits, idle_before=tx.now_ms - IDLE_MS,
    )  # fmt: skip
    floors: dict[int, int] = {}
    for space, token in marked:
        floors[space] = max(token, floors.get(space, 0))
    if floors:
        tx.many(
            """INSERT INTO onefold.lock_floors (space, token) VALUES (:at_space, :token) -- all spaces
               ON CONFLICT (space) DO UPDATE SET token = excluded.token
                WHERE onefold.lock_floors.token < excluded.token""",
            [{"at_space": space, "token": floors[space]} for space in sorted(floors)],
        )


def abandon(tx: Tx, name: str, owner: str) -> None:
    """Free the lock if `owner` has it: for a holder that never learnt its token."""
    row = tx.one(
        """UPDATE onefold.locks SET owner = {null:text}, expires_at_ms = :now_ms
            WHERE space = :space AND name = :name AND owner = :owner
        RETURNING token""",
        name=name, owner=owner,
    )  # fmt: skip
    if row is not None:
        _freed(tx, name)
        tx.emit("locks.released", name=name, owner=owner, token=row[0])


def _take(tx: Tx, name: str, owner: str, ttl_ms: int) -> Lock | None:
    _check_text("name", name, NAME_LENGTH_MAX)
    _check_text("owner", owner, OWNER_LENGTH_MAX)
    _check_ttl(ttl_ms)
    # One statement: there is no gap between looking and taking. A live holder asking again keeps
    # its token, because writes already made carry that number; an expired one gets a new number,
    # because its name may have gone to another incarnation.
    row = tx.one(
        """INSERT INTO onefold.locks (space, name, owner, token, acquired_at_ms, expires_at_ms)
           VALUES (:space, :name, :owner,
                   coalesce((SELECT token FROM onefold.lock_floors WHERE space = :space), 0) + 1,
                   :now_ms, :now_ms + :ttl_ms)
           ON CONFLICT (space, name) DO UPDATE SET
               token = onefold.locks.token
                   + CASE WHEN onefold.locks.owner = :owner AND onefold.locks.expires_at_ms > :now_ms
                          THEN 0 ELSE 1 END,
               acquired_at_ms =
                   CASE WHEN onefold.locks.owner = :owner AND onefold.locks.expires_at_ms > :now_ms
                        THEN onefold.locks.acquired_at_ms ELSE :now_ms END,
               expires_at_ms =
                   CASE WHEN onefold.locks.owner = :owner
                         AND onefold.locks.expires_at_ms > :now_ms + :ttl_ms
                        THEN onefold.locks.expires_at_ms ELSE :now_ms + :ttl_ms END,
               owner = :owner,
               marked_at_ms = {null:int}
           WHERE onefold.locks.owner IS NULL OR onefold.locks.owner = :owner
              OR onefold.locks.expires_at_ms <= :now_ms
           RETURNING token, acquired_at_ms, expires_at_ms""",
        name=name, owner=owner, ttl_ms=ttl_ms,
    )  # fmt: skip
    if row is None:
        return None
    tx.emit("locks.acquired", name=name, owner=owner, token=row[0])
    return Lock(name, owner, *row)


def _held(tx: Tx, name: str) -> Conflict:
    row = tx.one(
        "SELECT owner, expires_at_ms FROM onefold.locks WHERE space = :space AND name = :name", name=name
    )
    owner, expires_at_ms = row or (None, tx.now_ms)
    left_ms = max(0, expires_at_ms - tx.now_ms)
    return Conflict("Another owner holds the lock.", code="held", name=name, holder=owner, retry_after_ms=left_ms)


def _lost(lock: Lock) -> Conflict:
    return Conflict("The lock is no longer held.", code="lost", name=lock.name, owner=lock.owner, token=lock.token)


def _freed(tx: Tx, name: str) -> None:
    tx.wake(f"locks/{name}")


def _check_lock(lock: Lock) -> None:
    _check_text("name", lock.name, NAME_LENGTH_MAX)
    _check_text("owner", lock.owner, OWNER_LENGTH_MAX)


def _check_ttl(ttl_ms: int) -> None:
    if type(ttl_ms) is not int or not 1 <= ttl_ms <= TTL_MS_MAX:
        raise Invalid("ttl_ms is out of range.", ttl_ms=ttl_ms, most=TTL_MS_MAX)


def _check_text(what: str, text: str, most: int) -> None:
    if not 1 <= len(text) <= most:
        raise Invalid("A text is too short or too long.", what=what, length=len(text), most=most)
    if CONTROL.search(text):
        raise Invalid("A text may not hold control characters.", what=what)
