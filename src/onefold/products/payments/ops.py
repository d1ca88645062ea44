"""Payments: what a program asks for. Nothing here calls a provider: that is left to jobs put with the change.

An intent is one try to get one amount, under one key. Each transition locks its row, refuses what its state
does not allow, and moves the money in the ledger, tells the event and puts the job in the same transaction.
"""

from __future__ import annotations

from typing import Literal

from onefold.core.errors import Conflict, Invalid, NotFound
from onefold.core.money import Currency, Money
from onefold.core.page import LIMIT_DEFAULT, Limit, Page, checked_limit, page_of
from onefold.engine.tx import Tx, operation
from onefold.messaging import jobs
from onefold.products import ledger
from onefold.products.payments import rows
from onefold.products.payments.provider import REFUNDS_MAX
from onefold.products.payments.records import (
    KEEP_MS_MAX,
    LATE,
    REFUND_KEEP_MS,
    Amount,
    Asked,
    Intent,
    IntentCursor,
    IntentId,
    KeepMs,
    Method,
    NewIntentId,
    NewRefundId,
    PartOfIt,
    Payee,
    ProviderName,
    Refund,
    RefundId,
    Settle,
    SettleRefund,
    State,
    Text,
    accounts_of,
    check_amount,
    check_id,
    check_payee,
    check_provider,
    check_refund_id,
    check_text,
    clearing_of,
)

WAITING: frozenset[State] = frozenset(("processing", "unknown"))
RESERVING: frozenset[State] = frozenset(("processing", "unknown", "authorised"))


@operation
def open_accounts(tx: Tx, provider: ProviderName, *, currency: Currency) -> list[str]:
    """Open the ledger's accounts that stand for a provider; again does no harm. Answers their names.

    "payments/PROVIDER/CURRENCY/clearing" is what the provider owes us (below zero), ".../unclaimed" what came
    late and is on its way back, ".../disputed" what it took back for disputes that are not decided.
    """
    check_provider(provider)
    names = list(accounts_of(provider, currency))
    for name in names:
        ledger.open_account(tx, name, currency=currency, kind="unlimited")
    return names


@operation
def create(
    tx: Tx,
    id: NewIntentId,
    *,
    provider: ProviderName,
    amount: Amount,
    payee: Payee,
    keep_ms: KeepMs,
    reference: Text = "",
    capture: Literal["automatic", "manual"] = "automatic",
) -> Intent:
    """Make an intent; nobody is asked yet. The same id with the same fields answers the one made before.

    Args:
        id: 1 to 100 letters, digits and . _ : -, not ending in ".late", and unique among all that use the
            provider's account, refunds too: it is the key that makes the provider do things once.
        provider: whose accounts `open_accounts` opened.
        amount: 1 to 10^12 minor units.
        payee: the account of the ledger that is to get it.
        keep_ms: how long from now the money may take to come, 1 to `KEEP_MS_MAX`. Until then an unknown
            result keeps what it reserved; what comes later is refunded.
        reference: what it is for, at most 200 characters; the provider is told.
        capture: "automatic" takes the money at once, "manual" when `capture` is called.

    Raises:
        Invalid: an argument is out of range; nothing was written.
        Conflict: the id was used for something else ("intent_mismatch").
    """
    check_id(id)
    if id.endswith(LATE):  # To the ledger and to providers, ids of intents and refunds are keys of one kind.
        raise Invalid('Ids that end in ".late" are for automatic refunds.', code="intent_id")
    check_provider(provider)
    check_amount(amount)
    check_payee(payee)
    check_text(reference)
    if not 1 <= keep_ms <= KEEP_MS_MAX:
        raise Invalid("keep_ms is out of range.", keep_ms=keep_ms, most=KEEP_MS_MAX)
    if capture not in {"automatic", "manual"}:
        raise Invalid('An intent is captured "automatic" or "manual".', code="capture")
    zero = Money(0, amount.currency)
    wanted = Intent(
        id, provider, payee, amount, reference, capture == "automatic", tx.now_ms, tx.now_ms + keep_ms,
        "requires_payment", "", None, 0, zero, zero, zero, zero, zero, zero, None, "", tx.now_ms,
    )  # fmt: skip
    made = tx.one(
        """INSERT INTO onefold.payment_intents
               (space, id, provider, payee, currency, amount, reference, automatic, created_at_ms, expires_at_ms,
                state, method, asks, to_capture, captured, refunding, refunded, late, disputed, reason, changed_at_ms)
           VALUES (:space, :id, :provider, :payee, :currency, :amount, :reference, :automatic, :now_ms,
                   :expires_at_ms, 'requires_payment', '', 0, 0, 0, 0, 0, 0, 0, '', :now_ms)
           ON CONFLICT (space, id) DO NOTHING RETURNING id""",
        id=id, provider=provider, payee=payee, currency=amount.currency, amount=amount.minor, reference=reference,
        automatic=wanted.automatic, expires_at_ms=wanted.expires_at_ms,
    )  # fmt: skip
    if made is not None:
        return wanted
    found = rows.locked(tx, id)
    if _terms(found) != _terms(wanted):
        raise mismatch(id)
    return found


@operation
def authorise(tx: Tx, id: IntentId, *, method: Method) -> Intent:
    """Have the provider asked for the money, by a job that commits with this; reserves it in the ledger.

    Asked again with the same method it answers the intent as it stands.

    Args:
        id: the intent.
        method: what the buyer pays with: the provider's token for it, 1 to 200 characters. Never the
            number of a card: it is stored.

    Raises:
        Invalid: an argument is out of range, or the payee cannot be paid from here: it holds another currency
            ("currency") or is the provider's own account ("same_account").
        NotFound: there is no such intent, or no such account ("account").
        Conflict: it has ended ("intent_state") or its time is over ("intent_lapsed"); it was asked for
            with another method, or a refund has its id ("intent_mismatch").
    """
    check_text(method, least=1)
    intent = rows.locked(tx, id)
    if intent.method:
        if intent.method != method:
            raise mismatch(id)
        if intent.state in {"canceled", "failed"}:
            raise refused(intent)
        return intent
    if intent.state != "requires_payment":
        raise refused(intent)
    if intent.expires_at_ms <= tx.now_ms:
        raise lapsed(intent)
    _pend(
        tx, id, debit=clearing_of(intent), credit=intent.payee, amount=intent.amount,
        timeout_ms=intent.expires_at_ms - tx.now_ms, taken=mismatch(id),
    )  # fmt: skip
    jobs.put(tx, Settle(id))
    to_capture = intent.amount if intent.automatic else intent.to_capture
    return rows.change(tx, intent, state="processing", method=method, asked="authorise", to_capture=to_capture)


@operation
def capture(tx: Tx, id: IntentId, *, amount: PartOfIt = None) -> Intent:
    """Have the provider asked to take what it authorised, all or `amount` of it; the rest is free again.

    Asked again for the same amount it answers the intent as it stands.

    Raises:
        Invalid: the amount is out of range; it is more than was authorised, or of another currency (code
            "exceeds_authorised").
        NotFound: there is no such intent.
        Conflict: it is not authorised ("intent_state"), its time is over ("intent_lapsed"), or another
            amount was asked for ("intent_mismatch").
    """
    if amount is not None:
        check_amount(amount)
    intent = rows.locked(tx, id)
    wanted = amount or intent.amount
    if wanted.currency != intent.amount.currency or wanted.minor > intent.amount.minor:
        raise Invalid(
            "At most what was authorised can be captured.", code="exceeds_authorised", most=intent.amount.minor
        )
    if intent.to_capture.minor:
        if intent.state in {"canceled", "failed"}:
            raise refused(intent)
        if intent.to_capture != wanted:
            raise mismatch(id)
        return intent
    if intent.state != "authorised":
        raise refused(intent)
    if intent.expires_at_ms <= tx.now_ms:
        raise lapsed(intent)
    jobs.put(tx, Settle(id))
    return rows.change(tx, intent, state="processing", asked="capture", asks=0, to_capture=wanted)


@operation
def cancel(tx: Tx, id: IntentId, *, reason: Text = "") -> Intent:
    """End an intent that is not captured; what it reserved is free with this commit, and the provider is told.

    Should the provider have taken the money already, or take it later, it is refunded by itself. Canceling
    again does nothing.

    Args:
        id: the intent.
        reason: for people, at most 200 characters.

    Raises:
        Invalid: an argument is out of range.
        NotFound: there is no such intent.
        Conflict: it is captured, or has failed ("intent_state").
    """
    check_text(reason)
    intent = rows.locked(tx, id)
    if intent.state == "canceled":
        return intent
    if intent.state == "requires_payment":
        return rows.change(tx, intent, state="canceled", reason=reason)
    if intent.state not in RESERVING:
        raise refused(intent)
    jobs.put(tx, Settle(id))
    return end(tx, intent, state="canceled", asked="cancel", reason=reason)


def end(tx: Tx, intent: Intent, *, state: State, asked: Asked | None, reason: str) -> Intent:
    """Release what the intent reserved. Where the provider is to be told, put the job, or be it."""
    if intent.expires_at_ms > tx.now_ms:  # Else it reserves nothing any more.
        ledger.void(tx, f"{intent.id}/voided", f"{intent.id}/pending")
    return rows.change(tx, intent, state=state, asked=asked, asks=0, reason=reason)


@operation
def refund(tx: Tx, id: NewRefundId, intent_id: IntentId, *, amount: Amount, reason: Text = "") -> Refund:
    """Have the provider asked to give `amount` back; reserves it in the payee's account.

    The same id with the same fields answers the refund made before.

    Args:
        id: 1 to 120 letters, digits and . _ : -, not ending in ".late"; the provider's key, and no intent's.
        intent_id: a captured intent; at most 100 refunds each.
        amount: at most what is captured, and neither refunded nor on its way back.
        reason: for people, at most 200 characters.

    Raises:
        Invalid: an argument is out of range, or the amount is of another currency ("currency").
        NotFound: there is no such intent.
        Conflict: it is not captured, or disputed ("intent_state"); more than is left ("refund_exceeds"); too
            many ("refunds_max"); the payee has too little ("insufficient_funds"); the id was used for another
            refund or an intent ("refund_mismatch").
    """
    check_refund_id(id)
    if id.endswith(LATE):
        raise Invalid('Ids that end in ".late" are for automatic refunds.', code="refund_id")
    check_amount(amount)
    check_text(reason)
    intent = rows.locked(tx, intent_id)
    wanted = Refund(id, intent_id, amount, False, "pending", 0, reason, tx.now_ms, tx.now_ms)
    found = rows.find_refund(tx, id)
    if found is not None:
        if (found.intent_id, found.amount, found.reason) != (intent_id, amount, reason):
            raise refund_mismatch(id)
        return found
    if intent.state not in {"captured", "partially_refunded"}:
        raise refused(intent)
    left = intent.captured - intent.refunded - intent.refunding
    if amount.currency != left.currency:
        raise Invalid("A refund has the currency of its intent.", code="currency", currency=left.currency)
    if amount.minor > left.minor:
        raise Conflict("Less is left to refund.", code="refund_exceeds", id=intent_id, left=left.minor)
    if len(rows.refunds_of(tx, intent)) >= REFUNDS_MAX:
        raise Conflict("The intent has 100 refunds.", code="refunds_max", id=intent_id, most=REFUNDS_MAX)
    if not rows.add_refund(tx, wanted):  # Of another intent, made this moment.
        raise refund_mismatch(id)
    reserve(tx, wanted, debit=intent.payee, credit=clearing_of(intent))
    rows.change(tx, intent, refunding=intent.refunding + amount)
    return wanted


def reserve(tx: Tx, wanted: Refund, *, debit: str, credit: str) -> None:
    """Reserve a refund's money and put its job."""
    _pend(
        tx, wanted.id, debit=debit, credit=credit, amount=wanted.amount, timeout_ms=REFUND_KEEP_MS,
        taken=refund_mismatch(wanted.id),
    )  # fmt: skip
    jobs.put(tx, SettleRefund(wanted.id))


@operation
def intent_of(tx: Tx, id: IntentId) -> Intent:
    """The intent as it stands.

    Raises:
        NotFound: there is none.
    """
    check_id(id)
    found = rows.find(tx, id)
    if found is None:
        raise rows.missing(id)
    return found


@operation
def refund_of(tx: Tx, id: RefundId) -> Refund:
    """The refund as it stands.

    Raises:
        NotFound: there is none.
    """
    found = rows.find_refund(tx, id)
    if found is None:
        raise NotFound("There is no such refund.", code="refund", id=id)
    return found


@operation
def list_intents(tx: Tx, *, after: IntentCursor | None = None, limit: Limit = LIMIT_DEFAULT) -> Page[Intent]:
    """Intents in the order of their ids.

    Args:
        after: `Page.after` of the page before.
        limit: 1 to 1,000.
    """
    if after:
        check_id(after)
    found = rows.page(tx, after=after or "", most=checked_limit(limit) + 1)
    return page_of(found, limit, lambda intent: intent.id)


@operation
def list_refunds(tx: Tx, intent_id: IntentId) -> list[Refund]:
    """All refunds of an intent, at most 101, in the order of their ids.

    Raises:
        NotFound: there is no such intent.
    """
    return rows.refunds_of(tx, intent_of(tx, intent_id))


def mismatch(id: str) -> Conflict:
    """What is said when an id is used for something else."""
    return Conflict("The id was used with other fields, or for a refund.", code="intent_mismatch", id=id)


def refund_mismatch(id: str) -> Conflict:
    """The same of a refund."""
    return Conflict("The id was used for another refund, or an intent.", code="refund_mismatch", id=id)


def refused(intent: Intent) -> Conflict:
    """What is said when the state does not allow it."""
    return Conflict("The intent's state does not allow it.", code="intent_state", id=intent.id, state=intent.state)


def lapsed(intent: Intent) -> Conflict:
    """What is said when it is too late."""
    return Conflict("The intent's time is over.", code="intent_lapsed", id=intent.id, at_ms=intent.expires_at_ms)


def _pend(tx: Tx, id: str, *, debit: str, credit: str, amount: Money, timeout_ms: int, taken: Conflict) -> None:
    """Reserve what an intent or a refund asks for; the ledger tells when one of the other kind has the id."""
    try:
        ledger.pend(tx, f"{id}/pending", debit=debit, credit=credit, amount=amount, timeout_ms=timeout_ms)
    except Conflict as error:
        if error.code != "transfer_mismatch":
            raise
        raise taken from error


def _terms(intent: Intent) -> tuple[object, ...]:
    """What a repetition must agree in."""
    keep_ms = intent.expires_at_ms - intent.created_at_ms
    return intent.provider, intent.payee, intent.amount, intent.reference, intent.automatic, keep_ms
