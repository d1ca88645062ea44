"""Idempotency: what was asked once is done once, and answered alike ever after.

`once`: key, effects and answer commit in one transaction. There is no moment in which the effect is
done and the key is lost, and none in which the key is taken and nobody works on it.

`begin` and `finish` are for effects outside the database. The key commits first, with a lease; whoever
died with it is taken over when the lease has lapsed, and its late `finish` is refused by its token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, overload

from onefold.core.codec import encode, fingerprint
from onefold.core.errors import Conflict, Invalid
from onefold.engine.tx import Tx, operation
from onefold.messaging.idempotency.records import (
    LEASE_MS_DEFAULT,
    TTL_MS_DEFAULT,
    Answer,
    Attempt,
    Key,
    Scope,
    check_attempt,
    check_body,
    check_lease,
    check_names,
    check_ttl,
    read,
)

IN_FLIGHT_RETRY_MS = 100  # A hint: transactions last milliseconds,
BEGUN_RETRY_MS = 1_000  # and what leaves them lasts longer.
SWEEP_ROWS = 200  # Keys that callers make up lie on a page each; more would hold SQLite's writer for long.

T = TypeVar("T")


@overload
def once(
    tx: Tx, key: str, do: Callable[[], T], *, scope: str, request: object, kind: object, ttl_ms: int = TTL_MS_DEFAULT
) -> Answer[T]: ...


@overload
def once(
    tx: Tx, key: str, do: Callable[[], object], *, scope: str, request: object, ttl_ms: int = TTL_MS_DEFAULT
) -> Answer[Any]: ...


@operation
def once(
    tx: Tx,
    key: str,
    do: Callable[[], object],
    *,
    scope: str,
    request: object,
    kind: object = Any,
    ttl_ms: int = TTL_MS_DEFAULT,
) -> Answer[Any]:
    """Do it, unless `key` was used before; then answer what was answered then.

    An error that leaves `do` undoes everything with the key, so that the next attempt starts
    afresh. A refusal that shall be final is a value: let `do` answer it.

    Args:
        tx: everything that `do` does belongs in it.
        key: the caller's name for this one request: 1 to 255 printable ASCII characters.
        do: called without arguments when the key is new; its answer has a JSON form of at most
            64 KiB.
        scope: whose key it is, so that callers cannot meet: "POST /orders ana"; 1 to 200
            characters.
        request: all that the answer depends on, as anything with a JSON form. Dicts are compared
            without the order of their keys.
        kind: the type that the stored answer is read as, such as `Order` or `Order | Refused`;
            without it the value is made of dicts, lists, strings and numbers. What comes back is
            read from its JSON form the first time too, so that a replay cannot differ.
        ttl_ms: how long the answer is kept, 1 to 31 days; afterwards the key is new.

    Raises:
        Conflict: code "in_flight": another transaction is busy with this key; it is not waited
            for. Ask again after `retry_after_ms`.
        Invalid: code "idempotency_mismatch": the key was used for another request. Other codes:
            an argument is out of range, or the answer has no JSON form or does not fit `kind`.
    """
    check_names(key, scope)
    check_ttl(ttl_ms)
    asked = fingerprint(request, what="request")
    row = _take(tx, key, scope, asked, keep_ms=ttl_ms, token=None, lease_until_ms=None)
    if row is None:
        return _stored(tx, key, scope, asked, kind)
    answer = encode(do(), what="answer")
    value = read(answer, kind)
    # An upsert of a row that is there: unlike UPDATE it finds it without a scan, whose predicate
    # lock on the leaf page would make neighbouring keys conflict on PostgreSQL.
    tx.run(
        """INSERT INTO onefold.idempotency_keys
               (space, scope, key, fingerprint, answer, asked_at_ms, expires_at_ms)
           VALUES (:space, :scope, :key, :fingerprint, :answer, :now_ms, :now_ms + :ttl_ms)
           ON CONFLICT (space, scope, key) DO UPDATE SET answer = excluded.answer""",
        scope=scope, key=key, fingerprint=asked, answer=answer, ttl_ms=ttl_ms,
    )  # fmt: skip
    tx.emit("idempotency.done", scope=scope, key=key)
    return Answer(value, replayed=False, at_ms=row[0])


@overload
def begin(
    tx: Tx, key: str, *, scope: str, request: object, kind: type[T], lease_ms: int = LEASE_MS_DEFAULT,
    ttl_ms: int = TTL_MS_DEFAULT,
) -> Attempt | Answer[T]: ...


@overload
def begin(
    tx: Tx, key: str, *, scope: str, request: object, lease_ms: int = LEASE_MS_DEFAULT, ttl_ms: int = TTL_MS_DEFAULT
) -> Attempt | Answer[Any]: ...


@operation
def begin(
    tx: Tx, key: str, *, scope: str, request: object, kind: object = Any, lease_ms: int = LEASE_MS_DEFAULT,
    ttl_ms: int = TTL_MS_DEFAULT,
) -> Attempt | Answer[Any]:
    """Take the key for work outside the transaction, or answer what was answered under it.

    Commit it, do the work, and give its outcome to `finish`. Rows and rules are those of `once`, and
    either finds what the other stored.

    Args:
        key: see `once`; `scope`, `request` and `kind` too.
        lease_ms: how long the work may take before another caller takes it over; 1 ms to one hour.
        ttl_ms: how long the key is kept, counted from here, 1 ms to 31 days; never less than the lease.

    Raises:
        Conflict: code "in_flight": another attempt has the key and a lease. Ask again after
            `retry_after_ms`.
        Invalid: code "idempotency_mismatch": the key was used for another request, answered or not.
            Other codes: an argument is out of range.
    """
    check_names(key, scope)
    check_ttl(ttl_ms)
    check_lease(lease_ms)
    asked = fingerprint(request, what="request")
    token = tx.new_id("attempt")
    until_ms = tx.now_ms + lease_ms
    row = _take(tx, key, scope, asked, keep_ms=max(ttl_ms, lease_ms), token=token, lease_until_ms=until_ms)
    if row is None:
        return _stored(tx, key, scope, asked, kind)
    tx.emit("idempotency.begun", scope=scope, key=key, number=row[1])
    return Attempt(key, scope, token, row[1], until_ms)


@operation
def finish(tx: Tx, attempt: Attempt, value: object, *, body: bytes = b"") -> Answer[Any]:
    """Store the outcome, success or refusal: what every later caller with this key is answered.

    No clock is read: an attempt that lapsed, but has no successor, may still answer.

    Args:
        attempt: from `begin`.
        value: anything with a JSON form of at most 64 KiB.
        body: at most 64 KiB beside it, kept as they are.

    Raises:
        Conflict: code "lost": the key was taken over, given back, answered already, or expired and
            was swept. Nothing was stored; ask with `begin` what holds now.
        Invalid: the value or the body is too large, or has no JSON form.
    """
    check_attempt(attempt)
    check_body(body)
    answer = encode(value, what="answer")
    row = tx.one(
        """UPDATE onefold.idempotency_keys SET answer = :answer, body = :body
            WHERE space = :space AND scope = :scope AND key = :key AND attempt = :token AND answer IS NULL
        RETURNING asked_at_ms""",
        scope=attempt.scope, key=attempt.key, token=attempt.token, answer=answer, body=body,
    )  # fmt: skip
    if row is None:
        raise _lost(attempt)
    tx.emit("idempotency.done", scope=attempt.scope, key=attempt.key)
    return Answer(read(answer, Any), replayed=False, at_ms=row[0], body=body)


@operation
def renew(tx: Tx, attempt: Attempt, *, lease_ms: int = LEASE_MS_DEFAULT) -> Attempt:
    """Let the lease end `lease_ms` from now, never earlier than before; the token stays.

    It may have lapsed: as long as nobody took it over, it is renewed. The key is kept at least as long.

    Raises:
        Conflict: code "lost", as in `finish`.
        Invalid: an argument is out of range; nothing was written.
    """
    check_attempt(attempt)
    check_lease(lease_ms)
    row = tx.one(
        """UPDATE onefold.idempotency_keys
              SET lease_until_ms = CASE WHEN lease_until_ms > :until_ms THEN lease_until_ms ELSE :until_ms END,
                  expires_at_ms = CASE WHEN expires_at_ms > :until_ms THEN expires_at_ms ELSE :until_ms END
            WHERE space = :space AND scope = :scope AND key = :key AND attempt = :token AND answer IS NULL
        RETURNING lease_until_ms""",
        scope=attempt.scope, key=attempt.key, token=attempt.token, until_ms=tx.now_ms + lease_ms,
    )  # fmt: skip
    if row is None:
        raise _lost(attempt)
    return Attempt(attempt.key, attempt.scope, attempt.token, attempt.number, row[0])


@operation
def release(tx: Tx, attempt: Attempt) -> None:
    """Give the key back without an answer: the next caller with the same request takes over at once.

    For work that failed and may be tried again. The request stays bound to the key, and the next
    attempt sees by its number that it is not the first.

    Raises:
        Conflict: code "lost", as in `finish`.
    """
    check_attempt(attempt)
    row = tx.one(
        """UPDATE onefold.idempotency_keys SET attempt = {null:text}, lease_until_ms = :now_ms
            WHERE space = :space AND scope = :scope AND key = :key AND attempt = :token AND answer IS NULL
        RETURNING asked_at_ms""",
        scope=attempt.scope, key=attempt.key, token=attempt.token,
    )  # fmt: skip
    if row is None:
        raise _lost(attempt)
    tx.emit("idempotency.released", scope=attempt.scope, key=attempt.key, number=attempt.number)


@operation
def answer_of(tx: Tx, key: Key, *, scope: Scope) -> Answer[Any] | None:
    """What was answered under `key`, or None when it is new, still in flight, or expired.

    For a caller that never got its answer and wants to know before it asks again.
    """
    check_names(key, scope)
    row = _row(tx, key, scope)
    if row is None or row[1] is None:
        return None
    return Answer(read(row[1], Any), replayed=True, at_ms=row[2], body=row[3] or b"")


@operation
def sweep(tx: Tx) -> bool:
    """Delete up to 200 expired keys of all spaces; True when there may be more.

    Expiry itself is a condition in `once`; this only gives the room back.
    """
    gone = tx.all(
        """DELETE FROM onefold.idempotency_keys -- all spaces
            WHERE (scope, key, space) IN (
                SELECT scope, key, space FROM onefold.idempotency_keys WHERE expires_at_ms <= :now_ms
                 ORDER BY expires_at_ms LIMIT :rows {for_update} {skip_locked})
        RETURNING space""",
        rows=SWEEP_ROWS,
    )  # fmt: skip
    return len(gone) == SWEEP_ROWS


def _take(
    tx: Tx, key: str, scope: str, asked: str, *, keep_ms: int, token: str | None, lease_until_ms: int | None
) -> tuple[Any, ...] | None:
    """Have the key if it is new, has expired, or was left behind by who asked the same; else None."""
    # The claim only answers at once what the unique key would answer after a wait: the key decides.
    # The length keeps "a" + "b/c" apart from "a/b" + "c".
    if not tx.try_claim(f"idempotency/{len(scope)}/{scope}/{key}"):
        return None
    # A key without a lease is being answered in its own transaction, and is no one else's to take.
    return tx.one(
        """INSERT INTO onefold.idempotency_keys
               (space, scope, key, fingerprint, asked_at_ms, expires_at_ms, attempt, lease_until_ms)
           VALUES (:space, :scope, :key, :fingerprint, :now_ms, :now_ms + :keep_ms, :token, :lease_until_ms)
           ON CONFLICT (space, scope, key) DO UPDATE SET
               fingerprint = excluded.fingerprint, answer = excluded.answer, body = excluded.body,
               asked_at_ms = excluded.asked_at_ms, expires_at_ms = excluded.expires_at_ms,
               attempt = excluded.attempt, lease_until_ms = excluded.lease_until_ms,
               attempts = CASE WHEN onefold.idempotency_keys.expires_at_ms <= :now_ms
                               THEN 1 ELSE onefold.idempotency_keys.attempts + 1 END
           WHERE onefold.idempotency_keys.expires_at_ms <= :now_ms
              OR (onefold.idempotency_keys.answer IS NULL
                  AND onefold.idempotency_keys.lease_until_ms <= :now_ms
                  AND onefold.idempotency_keys.fingerprint = excluded.fingerprint)
           RETURNING asked_at_ms, attempts""",
        scope=scope, key=key, fingerprint=asked, keep_ms=keep_ms, token=token, lease_until_ms=lease_until_ms,
    )  # fmt: skip


def _stored(tx: Tx, key: str, scope: str, asked: str, kind: object) -> Answer[Any]:
    row = _row(tx, key, scope)
    if row is not None and row[0] != asked:
        raise Invalid(
            "The idempotency key was used for another request; use a new key for a new request.",
            code="idempotency_mismatch", scope=scope, key=key,
        )
    if row is None or row[1] is None:
        left_ms = IN_FLIGHT_RETRY_MS
        if row is not None and row[4] is not None:
            left_ms = max(1, min(row[4] - tx.now_ms, BEGUN_RETRY_MS))
        raise Conflict(
            "Another request with this idempotency key is being worked on.",
            code="in_flight", scope=scope, key=key, retry_after_ms=left_ms,
        )
    tx.emit("idempotency.replayed", scope=scope, key=key)
    return Answer(read(row[1], kind), replayed=True, at_ms=row[2], body=row[3] or b"")


def _row(tx: Tx, key: str, scope: str) -> tuple[Any, ...] | None:
    return tx.one(
        """SELECT fingerprint, answer, asked_at_ms, body, lease_until_ms FROM onefold.idempotency_keys
            WHERE space = :space AND scope = :scope AND key = :key AND expires_at_ms > :now_ms""",
        scope=scope, key=key,
    )


def _lost(attempt: Attempt) -> Conflict:
    return Conflict(
        "The idempotency key is no longer this attempt's to answer.",
        code="lost", scope=attempt.scope, key=attempt.key, number=attempt.number,
    )
