"""What becomes of an answer: the charge as the provider has it is laid beside the intent's row, and moves it.

It does not matter who saw the charge, or in which order: the worker that asked, a query, or somebody whom a
callback made look. A charge tells where it stands, not what happened, so an old one or one that was seen
before moves nothing. Whatever the provider took belongs to somebody at each commit: to the payee if it was
wanted, else to the account "unclaimed", from where it goes back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from onefold.core.errors import Conflict, Denied, Invalid, NotFound
from onefold.core.money import Money
from onefold.engine.tx import Tx, operation
from onefold.messaging import events, jobs
from onefold.products import ledger
from onefold.products.payments import rows
from onefold.products.payments.ops import RESERVING, WAITING, end, reserve
from onefold.products.payments.provider import Charge, DisputeRecord, RefundState
from onefold.products.payments.records import (
    ASK_AGAIN_MS_FIRST,
    ASK_AGAIN_MS_MAX,
    GIVE_UP_MS,
    LATE,
    LOOK_BACK_MS,
    Intent,
    PaymentLate,
    Refund,
    Settle,
    State,
    clearing_of,
    disputed_of,
    unclaimed_of,
)

OnPaid = Callable[[Tx, Intent], object]


class Step(NamedTuple):
    """What is to be asked now: of which intent, and whether it may have been asked before."""

    intent: Intent
    asked_before: bool


class RefundStep(NamedTuple):
    """The same of a refund."""

    refund: Refund
    intent: Intent
    asked_before: bool


@operation
def next_step(tx: Tx, id: str, *, look: bool = False) -> Step | None:
    """What the provider is to be asked about the intent now; None for nothing.

    An intent whose time is over while the provider is silent, or while nobody captures it, is canceled here.

    Args:
        id: the intent.
        look: a query is wanted even when nothing is to be asked.
    """
    intent = rows.locked(tx, id)
    if intent.state in RESERVING and intent.expires_at_ms <= tx.now_ms:
        intent = end(tx, intent, state="canceled", asked="cancel", reason="lapsed")
        return Step(intent, True)
    if intent.asked is None and not look:
        if intent.state == "authorised":  # The job that lets it lapse was early, by the clock of who started it.
            jobs.put(tx, Settle(id), at_ms=intent.expires_at_ms)
        return None
    return Step(intent, intent.asks > 0)


@operation
def next_refund(tx: Tx, id: str) -> RefundStep | None:
    """The refund, when the provider still has to answer; else None."""
    refund = rows.find_refund(tx, id)
    if refund is None or refund.state != "pending":
        return None
    intent = rows.find(tx, refund.intent_id)
    assert intent is not None, "a refund has its intent"
    return RefundStep(refund, intent, refund.asks > 0)


@operation
def unanswered(tx: Tx, id: str, *, since_ms: int = 0) -> int | None:
    """Note that the provider kept silent: what waits for it is "unknown". Nothing is released.

    Args:
        id: the intent.
        since_ms: since when it is asked, where that may be long after the intent's time: disputes come late.

    Returns:
        In how many ms to ask again; None when it was asked for 30 days more than the intent had.
    """
    intent = rows.locked(tx, id)
    state: State = "unknown" if intent.state == "processing" else intent.state
    rows.change(tx, intent, state=state, asks=intent.asks + 1)
    return _again(tx, intent.asks, max(intent.expires_at_ms, since_ms))


@operation
def refund_unanswered(tx: Tx, id: str) -> int | None:
    """The same for a refund, which stays "pending" and keeps what it reserved."""
    refund = rows.find_refund(tx, id)
    if refund is None:
        return 0
    rows.locked(tx, refund.intent_id)
    refund = rows.find_refund(tx, id)  # Again: an answer may have come before the lock did.
    if refund is None or refund.state != "pending":
        return 0
    rows.change_refund(tx, refund, asks=refund.asks + 1)
    return _again(tx, refund.asks, refund.created_at_ms)


@operation
def observe(tx: Tx, provider: str, charge: Charge, *, on_paid: OnPaid | None = None) -> Intent:
    """Lay a charge beside its intent, and do all that follows from it.

    Args:
        tx: what follows commits with it.
        provider: who has the charge.
        charge: as the provider's answer had it.
        on_paid: called with the intent when it is captured, in this transaction: the order, the seats, the
            receipt. When it raises `Conflict`, `NotFound` or `Denied` its part is undone, the intent is
            canceled and the money refunded; any other error undoes everything, and the provider is asked
            again later.

    Raises:
        NotFound: there is no such intent.
        Conflict: it is another provider's, or the charge is of another currency or larger than the intent
            ("charge_mismatch").
    """
    intent = rows.locked(tx, charge.key)
    _check(intent, provider, charge)
    if charge.state == "authorised":
        intent = _authorised(tx, intent)
    elif charge.state == "captured":
        intent = _captured(tx, intent, Money(charge.captured_minor, charge.currency), on_paid)
    elif intent.state in RESERVING:
        ended: State = "failed" if charge.state == "declined" else "canceled"
        intent = end(tx, intent, state=ended, asked=None, reason=f"{charge.state} by the provider")
    elif intent.asked == "cancel":
        intent = _confirmed(tx, intent)
    if charge.refunds and (intent.refunding.minor or intent.late.minor):
        intent = _refunds(tx, intent, charge)
    if charge.dispute is not None and intent.captured.minor:
        intent = _disputed(tx, intent, charge.dispute)
    return intent


def _confirmed(tx: Tx, intent: Intent) -> Intent:
    """It is canceled there too. It may be taken all the same, and every callback of that be lost: we look back."""
    for delay_ms in LOOK_BACK_MS:
        jobs.put(tx, Settle(intent.id, look=True), delay_ms=delay_ms)
    return rows.change(tx, intent, asked=None)


def is_news(intent: Intent, charge: Charge) -> bool:
    """Whether the charge may move the intent: a reason to ask, cheap enough for every callback."""
    if intent.asked is not None or intent.state in RESERVING:
        return True
    taken = intent.captured.minor + intent.late.minor
    dispute = charge.dispute.state if charge.dispute else None
    return (
        (charge.state == "authorised" and intent.state in {"canceled", "failed", "requires_payment"})
        or charge.captured_minor > taken
        or (dispute is not None and dispute != intent.dispute)
        or (bool(charge.refunds) and bool(intent.refunding.minor or intent.late.minor))
    )


def _check(intent: Intent, provider: str, charge: Charge) -> None:
    taken = max(charge.amount_minor, charge.captured_minor)
    # What was canceled before the provider heard of it has no amount, and no currency.
    foreign = taken > 0 and charge.currency != intent.amount.currency
    if intent.provider != provider or foreign or taken > intent.amount.minor:
        raise Conflict(
            "The charge does not fit its intent; people have to look.", code="charge_mismatch",
            id=intent.id, provider=provider, currency=charge.currency, minor=taken,
        )  # fmt: skip


def _authorised(tx: Tx, intent: Intent) -> Intent:
    if intent.state in WAITING and intent.asked == "authorise":
        if intent.expires_at_ms <= tx.now_ms:
            jobs.put(tx, Settle(intent.id))
            return end(tx, intent, state="canceled", asked="cancel", reason="lapsed")
        if intent.automatic:  # A provider that does not take at once is asked to, by the same token.
            jobs.put(tx, Settle(intent.id))
            return rows.change(tx, intent, state="processing", asked="capture", asks=0)
        # Comes back when it lapses, so that the buyer's money is free at the provider as well.
        jobs.put(tx, Settle(intent.id), at_ms=intent.expires_at_ms)
        return rows.change(tx, intent, state="authorised", asked=None, asks=0)
    if intent.state in {"canceled", "failed", "requires_payment"} and intent.asked is None:
        jobs.put(tx, Settle(intent.id))
        return rows.change(tx, intent, state=_ended(intent), asked="cancel", asks=0)
    return intent


def _captured(tx: Tx, intent: Intent, taken: Money, on_paid: OnPaid | None) -> Intent:
    if intent.captured.minor or intent.late.minor:
        return intent if intent.asked is None else rows.change(tx, intent, asked=None)
    if intent.state not in RESERVING:
        return _late(tx, intent, taken, intent.reason)
    if intent.expires_at_ms <= tx.now_ms:
        return _late(tx, intent, taken, "lapsed")
    if on_paid is None:
        return _paid(tx, intent, taken)
    try:
        with tx.savepoint():
            paid = _paid(tx, intent, taken)
            on_paid(tx, paid)
            return paid
    except (Conflict, NotFound, Denied) as error:
        ledger.void(tx, f"{intent.id}/voided", f"{intent.id}/pending")
        return _late(tx, intent, taken, f"refused: {error.code}"[:200])


def _paid(tx: Tx, intent: Intent, taken: Money) -> Intent:
    ledger.post(tx, f"{intent.id}/captured", f"{intent.id}/pending", amount=taken)
    return rows.change(tx, intent, state="captured", captured=taken, asked=None, asks=0)


def _late(tx: Tx, intent: Intent, taken: Money, reason: str) -> Intent:
    """Money for an intent that has ended: it belongs to nobody here, and goes back by itself."""
    unclaimed = unclaimed_of(intent)
    ledger.transfer(tx, f"{intent.id}/late", debit=clearing_of(intent), credit=unclaimed, amount=taken)
    refund = Refund(intent.id + LATE, intent.id, taken, True, "pending", 0, reason, tx.now_ms, tx.now_ms)
    if not rows.add_refund(tx, refund):
        raise Invalid("The automatic refund exists already.", code="refund_id", id=refund.id)
    reserve(tx, refund, debit=unclaimed, credit=clearing_of(intent))
    events.append(tx, f"payment/{intent.id}", PaymentLate(intent.id, taken, refund.id))
    tx.emit("payments.late", intent=intent.id, minor=taken.minor)
    return rows.change(tx, intent, state=_ended(intent), late=taken, asked=None, asks=0, reason=reason)


def _ended(intent: Intent) -> State:
    return "failed" if intent.state == "failed" else "canceled"


def _refunds(tx: Tx, intent: Intent, charge: Charge) -> Intent:
    told = {refund.id: refund for refund in charge.refunds}
    for refund in rows.refunds_of(tx, intent):
        seen = told.get(refund.id)
        if seen is None or refund.state != "pending" or seen.state == "pending":
            continue
        if seen.amount_minor != refund.amount.minor:
            raise Conflict("The refund does not fit its row.", code="charge_mismatch", id=refund.id)
        intent = _refund_settled(tx, intent, refund, seen.state)
    return intent


def _refund_settled(tx: Tx, intent: Intent, refund: Refund, state: RefundState) -> Intent:
    rows.change_refund(tx, refund, state=state)
    went = state == "succeeded"
    if went:
        ledger.post(tx, f"{refund.id}/refunded", f"{refund.id}/pending")
    else:  # What came late stays unclaimed then, for people to see.
        ledger.void(tx, f"{refund.id}/voided", f"{refund.id}/pending")
    if refund.automatic:
        return intent
    refunded = intent.refunded + refund.amount if went else intent.refunded
    return rows.change(
        tx, intent, refunding=intent.refunding - refund.amount, refunded=refunded,
        state=intent.state if intent.state == "disputed" else _state_by_refunds(intent.captured, refunded),
    )  # fmt: skip


def _state_by_refunds(captured: Money, refunded: Money) -> State:
    if refunded.minor == 0:
        return "captured"
    return "refunded" if refunded == captured else "partially_refunded"


def _disputed(tx: Tx, intent: Intent, dispute: DisputeRecord) -> Intent:
    """Open, win or lose the dispute, as far as the row does not know it; an end may come before its beginning."""
    amount, bearer = Money(dispute.amount_minor, intent.amount.currency), disputed_of(intent)
    if intent.dispute is None:
        # The provider has taken the money back already; who bears that is open.
        ledger.transfer(tx, f"{intent.id}/disputed", debit=bearer, credit=clearing_of(intent), amount=amount)
        intent = rows.change(tx, intent, state="disputed", disputed=amount, dispute="open")
    if intent.dispute != "open" or dispute.state == "open":
        return intent
    if dispute.state == "won":
        ledger.transfer(
            tx, f"{intent.id}/dispute_won", debit=clearing_of(intent), credit=bearer, amount=intent.disputed
        )
        return rows.change(tx, intent, state=_state_by_refunds(intent.captured, intent.refunded), dispute="won")
    # A payee with too little leaves the loss where it is, in "disputed".
    ledger.try_transfer(tx, f"{intent.id}/dispute_lost", debit=intent.payee, credit=bearer, amount=intent.disputed)
    return rows.change(tx, intent, dispute="lost")


def _again(tx: Tx, asks: int, since_ms: int) -> int | None:
    if tx.now_ms >= since_ms + GIVE_UP_MS:
        return None
    most = min(ASK_AGAIN_MS_FIRST << min(asks, 20), ASK_AGAIN_MS_MAX)
    return tx.random.randint(most // 2, most)  # Half of it jitter: who was silent is not asked by all at once.
