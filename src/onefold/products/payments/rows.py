"""How intents and refunds are read and written: one lock, one text for each way, one event for each move."""

from __future__ import annotations

from typing import Any

import msgspec

from onefold.core.errors import NotFound
from onefold.core.money import Money
from onefold.engine.tx import Row, Tx
from onefold.messaging import events
from onefold.products.payments.records import Intent, PaymentMoved, Refund, RefundMoved, check_id, check_refund_id


def find(tx: Tx, id: str) -> Intent | None:
    """The intent, unlocked."""
    row = tx.one(
        """SELECT id, provider, payee, amount, currency, reference, automatic, created_at_ms, expires_at_ms, state,
                  method, asked, asks, to_capture, captured, refunding, refunded, late, disputed, dispute, reason,
                  changed_at_ms
           FROM onefold.payment_intents WHERE space = :space AND id = :id""",
        id=id,
    )
    return _intent(row) if row else None


def locked(tx: Tx, id: str) -> Intent:
    """The intent, which nobody else moves before this transaction ends; NotFound when there is none."""
    check_id(id)
    row = tx.one(
        """SELECT id, provider, payee, amount, currency, reference, automatic, created_at_ms, expires_at_ms, state,
                  method, asked, asks, to_capture, captured, refunding, refunded, late, disputed, dispute, reason,
                  changed_at_ms
           FROM onefold.payment_intents WHERE space = :space AND id = :id {for_update}""",
        id=id,
    )
    if row is None:
        raise missing(id)
    return _intent(row)


def missing(id: str) -> NotFound:
    """What is said of an intent that is not there."""
    return NotFound("There is no such intent.", code="intent", id=id)


def page(tx: Tx, *, after: str, most: int) -> list[Intent]:
    """Intents behind `after` in the order of their ids."""
    rows = tx.all(
        """SELECT id, provider, payee, amount, currency, reference, automatic, created_at_ms, expires_at_ms, state,
                  method, asked, asks, to_capture, captured, refunding, refunded, late, disputed, dispute, reason,
                  changed_at_ms
           FROM onefold.payment_intents WHERE space = :space AND id > :after ORDER BY id LIMIT :most""",
        after=after, most=most,
    )  # fmt: skip
    return [_intent(row) for row in rows]


def change(tx: Tx, intent: Intent, **fields: Any) -> Intent:
    """Write the row anew; with another state there is an event as well."""
    changed = msgspec.structs.replace(intent, changed_at_ms=tx.now_ms, **fields)
    tx.run(
        """UPDATE onefold.payment_intents
           SET state = :state, method = :method, asked = :asked, asks = :asks, to_capture = :to_capture,
               captured = :captured, refunding = :refunding, refunded = :refunded, late = :late,
               disputed = :disputed, dispute = :dispute, reason = :reason, changed_at_ms = :now_ms
           WHERE space = :space AND id = :id""",
        id=changed.id, state=changed.state, method=changed.method, asked=changed.asked, asks=changed.asks,
        to_capture=changed.to_capture.minor, captured=changed.captured.minor, refunding=changed.refunding.minor,
        refunded=changed.refunded.minor, late=changed.late.minor, disputed=changed.disputed.minor,
        dispute=changed.dispute, reason=changed.reason,
    )  # fmt: skip
    if changed.state != intent.state:
        moved = PaymentMoved(
            changed.id, intent.state, changed.state, changed.captured, changed.refunded, changed.reason
        )
        events.append(tx, f"payment/{changed.id}", moved)
        tx.emit("payments.moved", intent=changed.id, was=intent.state, state=changed.state)
    return changed


def find_refund(tx: Tx, id: str) -> Refund | None:
    """The refund. Who changes it has locked its intent."""
    check_refund_id(id)
    row = tx.one(
        """SELECT r.id, r.intent_id, r.amount, i.currency, r.automatic, r.state, r.asks, r.reason, r.created_at_ms,
                  r.changed_at_ms
           FROM onefold.payment_refunds r, onefold.payment_intents i
           WHERE r.space = :space AND r.id = :id AND i.space = :space AND i.id = r.intent_id""",
        id=id,
    )
    return _refund(row) if row else None


def refunds_of(tx: Tx, intent: Intent) -> list[Refund]:
    """All refunds of an intent; at most 100, and one automatic."""
    rows = tx.all(
        """SELECT id, intent_id, amount, :currency, automatic, state, asks, reason, created_at_ms, changed_at_ms
           FROM onefold.payment_refunds WHERE space = :space AND intent_id = :intent_id ORDER BY id LIMIT 101""",
        intent_id=intent.id, currency=intent.amount.currency,
    )  # fmt: skip
    return [_refund(row) for row in rows]


def add_refund(tx: Tx, refund: Refund) -> bool:
    """Write a new refund and its event; False when the id is taken."""
    row = tx.one(
        """INSERT INTO onefold.payment_refunds
               (space, id, intent_id, amount, automatic, state, asks, reason, created_at_ms, changed_at_ms)
           VALUES (:space, :id, :intent_id, :amount, :automatic, 'pending', 0, :reason, :now_ms, :now_ms)
           ON CONFLICT (space, id) DO NOTHING RETURNING id""",
        id=refund.id, intent_id=refund.intent_id, amount=refund.amount.minor, automatic=refund.automatic,
        reason=refund.reason,
    )  # fmt: skip
    if row is not None:
        _tell(tx, refund)
    return row is not None


def change_refund(tx: Tx, refund: Refund, **fields: Any) -> Refund:
    """Write the row anew; with another state there is an event as well."""
    changed = msgspec.structs.replace(refund, changed_at_ms=tx.now_ms, **fields)
    tx.run(
        """UPDATE onefold.payment_refunds SET state = :state, asks = :asks, changed_at_ms = :now_ms
           WHERE space = :space AND id = :id""",
        id=changed.id, state=changed.state, asks=changed.asks,
    )  # fmt: skip
    if changed.state != refund.state:
        _tell(tx, changed)
    return changed


def _tell(tx: Tx, refund: Refund) -> None:
    moved = RefundMoved(refund.intent_id, refund.id, refund.amount, refund.automatic, refund.state)
    events.append(tx, f"payment/{refund.intent_id}", moved)


def _intent(row: Row) -> Intent:
    currency = row[4]
    to_capture, captured, refunding, refunded, late, disputed = (Money(minor, currency) for minor in row[13:19])
    return Intent(
        row[0], row[1], row[2], Money(row[3], currency), row[5], bool(row[6]), row[7], row[8], row[9], row[10],
        row[11], row[12], to_capture, captured, refunding, refunded, late, disputed, row[19], row[20], row[21],
    )  # fmt: skip


def _refund(row: Row) -> Refund:
    return Refund(row[0], row[1], Money(row[2], row[3]), bool(row[4]), *row[5:])
