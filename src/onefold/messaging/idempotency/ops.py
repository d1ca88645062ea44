"""Idempotency: what was asked once is done once, and answered alike ever after.

Key, effects and answer commit in one transaction. There is no moment in which the effect is done
and the key is lost, and none in which the key is taken and nobody works on it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

import msgspec

from onefold.core.codec import decode, encode, fingerprint
from onefold.core.errors import Conflict, Invalid
from onefold.engine.tx import Tx, operation

KEY_LENGTH_MAX = 255
SCOPE_LENGTH_MAX = 200
TTL_MS_DEFAULT = 86_400_000  # A day: longer than clients go on retrying.
TTL_MS_MAX = 31 * 86_400_000
IN_FLIGHT_RETRY_MS = 100  # A hint: transactions last milliseconds.
SWEEP_ROWS = 1_000

_KEY = re.compile(r"[\x20-\x7e]+")  # With re.fullmatch: "$" would let a line break through.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

T = TypeVar("T")


class Answer(msgspec.Struct, Generic[T], frozen=True):
    """What `once` answers, the first time and every other time.

    Attributes:
        value: what `do` answered, as it comes back from JSON, also the first time.
        replayed: False for the call that did it.
        at_ms: when it was done, in ms since 1970.
    """

    value: T
    replayed: bool
    at_ms: int


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
        ttl_ms: how long the answer is kept, 1 to `TTL_MS_MAX`; afterwards the key is new.

    Raises:
        Conflict: code "in_flight": another transaction is busy with this key; it is not waited
            for. Ask again after `retry_after_ms`.
        Invalid: code "idempotency_mismatch": the key was used for another request. Other codes:
            an argument is out of range, or the answer has no JSON form or does not fit `kind`.
    """
    _check(key, scope, ttl_ms)
    asked = _fingerprint(request)
    # The claim only answers at once what the unique key would answer after a wait: the key decides.
    # The length keeps "a" + "b/c" apart from "a/b" + "c".
    if not tx.try_claim(f"idempotency/{len(scope)}/{scope}/{key}"):
        return _stored(tx, key, scope, asked, kind)
    row = tx.one(
        """INSERT INTO onefold.idempotency_keys (space, scope, key, fingerprint, asked_at_ms, expires_at_ms)
           VALUES (:space, :scope, :key, :fingerprint, :now_ms, :now_ms + :ttl_ms)
           ON CONFLICT (space, scope, key) DO UPDATE SET
               fingerprint = excluded.fingerprint, answer = {null:text},
               asked_at_ms = excluded.asked_at_ms, expires_at_ms = excluded.expires_at_ms
           WHERE onefold.idempotency_keys.expires_at_ms <= :now_ms
           RETURNING asked_at_ms""",
        scope=scope, key=key, fingerprint=asked, ttl_ms=ttl_ms,
    )  # fmt: skip
    if row is None:
        return _stored(tx, key, scope, asked, kind)
    answer = encode(do(), what="answer")
    value = _read(answer, kind)
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


@operation
def answer_of(tx: Tx, key: str, *, scope: str) -> Answer[Any] | None:
    """What was answered under `key`, or None when it is new, still in flight, or expired.

    For a caller that never got its answer and wants to know before it asks again.
    """
    _check(key, scope, TTL_MS_DEFAULT)
    row = _row(tx, key, scope)
    if row is None or row[1] is None:
        return None
    return Answer(_read(row[1], Any), replayed=True, at_ms=row[2])


@operation
def sweep(tx: Tx) -> bool:
    """Delete up to 1,000 expired keys of all spaces; True when there may be more.

    Expiry itself is a condition in `once`; this only gives the room back.
    """
    gone = tx.all(
        """DELETE FROM onefold.idempotency_keys -- all spaces
            WHERE (space, scope, key) IN (
                SELECT space, scope, key FROM onefold.idempotency_keys WHERE expires_at_ms <= :now_ms
                 ORDER BY expires_at_ms LIMIT :rows {for_update} {skip_locked})
        RETURNING space""",
        rows=SWEEP_ROWS,
    )  # fmt: skip
    return len(gone) == SWEEP_ROWS


def _stored(tx: Tx, key: str, scope: str, asked: str, kind: object) -> Answer[Any]:
    row = _row(tx, key, scope)
    if row is not None and row[0] != asked:
        raise Invalid(
            "The idempotency key was used for another request; use a new key for a new request.",
            code="idempotency_mismatch", scope=scope, key=key,
        )
    if row is None or row[1] is None:
        raise Conflict(
            "Another request with this idempotency key is being worked on.",
            code="in_flight", scope=scope, key=key, retry_after_ms=IN_FLIGHT_RETRY_MS,
        )
    tx.emit("idempotency.replayed", scope=scope, key=key)
    return Answer(_read(row[1], kind), replayed=True, at_ms=row[2])


def _row(tx: Tx, key: str, scope: str) -> tuple[Any, ...] | None:
    return tx.one(
        """SELECT fingerprint, answer, asked_at_ms FROM onefold.idempotency_keys
            WHERE space = :space AND scope = :scope AND key = :key AND expires_at_ms > :now_ms""",
        scope=scope, key=key,
    )


def _read(answer: str, kind: object) -> Any:
    return decode(answer, kind)  # pyright: ignore[reportArgumentType]  Unions and Any are no `type`.


def _fingerprint(request: object) -> str:
    try:
        return fingerprint(request)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise Invalid("The request has no JSON form.", what="request", why=str(error)) from None


def _check(key: str, scope: str, ttl_ms: int) -> None:
    if not (len(key) <= KEY_LENGTH_MAX and _KEY.fullmatch(key)):
        raise Invalid("An idempotency key is 1 to 255 printable ASCII characters.", length=len(key))
    if not 1 <= len(scope) <= SCOPE_LENGTH_MAX or _CONTROL.search(scope):
        raise Invalid("A scope is 1 to 200 characters, none of them control characters.", length=len(scope))
    if type(ttl_ms) is not int or not 1 <= ttl_ms <= TTL_MS_MAX:
        raise Invalid("ttl_ms is out of range.", ttl_ms=ttl_ms, most=TTL_MS_MAX)
