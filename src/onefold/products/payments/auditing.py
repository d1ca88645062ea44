"""The audit: a provider's record beside the intents, and the intents beside the ledger; to the cent.

Both go page by page. What is still being asked is not a fault, so for a verdict wait until `open` is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from onefold.core.errors import Invalid, NotFound
from onefold.core.page import LIMIT_DEFAULT, LIMIT_MAX, Limit, checked_limit
from onefold.engine.tx import Tx, operation
from onefold.products import ledger
from onefold.products.payments import rows
from onefold.products.payments.provider import Charge
from onefold.products.payments.records import Intent, IntentCursor, ProviderName, check_id, check_provider

What = Literal["unasked", "captured", "refund", "dispute", "journal"]


class IntentFault(msgspec.Struct, frozen=True):
    """Something that an audit found wrong.

    Attributes:
        intent: where.
        what: "unasked": a charge without an intent; "captured", "refund", "dispute": the provider has
            another amount; "journal": the ledger has.
        theirs: the provider's amount, or the ledger's, in minor units.
        ours: the intent's.
    """

    intent: str
    what: What
    theirs: int
    ours: int


class IntentAudit(msgspec.Struct, frozen=True):
    """One page of an audit; add the pages up.

    Attributes:
        checked: how many charges or intents were looked at.
        sums: by currency, in minor units: what was taken less what went back.
        open: how many intents still wait for the provider.
        late: how many had to be refunded by themselves.
        late_minor: how much by currency.
        faults: what is wrong; empty when all is well.
        after: what to pass as `after=` for the next page; None on the last one.
    """

    checked: int
    sums: dict[str, int]
    open: int
    late: int
    late_minor: dict[str, int]
    faults: list[IntentFault]
    after: str | None = None


@operation
def audit_charges(tx: Tx, provider: str, charges: Sequence[Charge]) -> IntentAudit:
    """Check charges of the provider's record, at most 1,000, against the intents and refunds here."""
    check_provider(provider)
    if len(charges) > LIMIT_MAX:
        raise Invalid("Too many charges for one page.", code="charges", count=len(charges), most=LIMIT_MAX)
    sums: dict[str, int] = {}
    faults: list[IntentFault] = []
    for charge in charges:
        net = charge.captured_minor - charge.refunded_minor - charge.disputed_minor
        sums[charge.currency] = sums.get(charge.currency, 0) + net
        intent = rows.find(tx, charge.key)
        if intent is None or intent.provider != provider or intent.amount.currency != charge.currency:
            faults.append(IntentFault(charge.key, "unasked", charge.captured_minor, 0))
        else:
            faults += _differences(tx, intent, charge)
    return IntentAudit(len(charges), sums, 0, 0, {}, faults)


@operation
def audit_intents(
    tx: Tx, provider: ProviderName, *, after: IntentCursor | None = None, limit: Limit = LIMIT_DEFAULT
) -> IntentAudit:
    """Check intents against the ledger's journal, in the order of their ids.

    Args:
        provider: whose intents; those of others are passed by.
        after: the cursor of the page before.
        limit: intents on the page, 1 to 1,000.
    """
    check_provider(provider)
    if after:
        check_id(after)
    found = rows.page(tx, after=after or "", most=checked_limit(limit) + 1)
    more, found = len(found) > limit, found[:limit]
    mine = [intent for intent in found if intent.provider == provider]
    sums: dict[str, int] = {}
    late: dict[str, int] = {}
    faults: list[IntentFault] = []
    for intent in mine:
        currency = intent.amount.currency
        returned = _returned_late(tx, intent)
        net = intent.captured.minor - intent.refunded.minor - _lost(intent) + intent.late.minor - returned
        sums[currency] = sums.get(currency, 0) + net
        if intent.late.minor:
            late[currency] = late.get(currency, 0) + intent.late.minor
        for suffix, ours in (("captured", intent.captured.minor), ("late", intent.late.minor)):
            journal = _moved(tx, f"{intent.id}/{suffix}")
            if journal != ours:
                faults.append(IntentFault(intent.id, "journal", journal, ours))
    waits = sum(bool(intent.asked or intent.refunding.minor) for intent in mine)
    counted = sum(bool(intent.late.minor) for intent in mine)
    return IntentAudit(len(mine), sums, waits, counted, late, faults, found[-1].id if more else None)


def _differences(tx: Tx, intent: Intent, charge: Charge) -> list[IntentFault]:
    faults: list[IntentFault] = []
    taken = intent.captured.minor + intent.late.minor
    if charge.captured_minor != taken:
        faults.append(IntentFault(intent.id, "captured", charge.captured_minor, taken))
    theirs = {refund.id: refund.amount_minor for refund in charge.refunds if refund.state == "succeeded"}
    ours = {refund.id: refund.amount.minor for refund in rows.refunds_of(tx, intent) if refund.state == "succeeded"}
    faults += [
        IntentFault(intent.id, "refund", theirs.get(id, 0), ours.get(id, 0))
        for id in sorted(theirs.keys() | ours.keys()) if theirs.get(id) != ours.get(id)
    ]  # fmt: skip
    if charge.disputed_minor != _lost(intent):
        faults.append(IntentFault(intent.id, "dispute", charge.disputed_minor, _lost(intent)))
    return faults


def _lost(intent: Intent) -> int:
    """What the provider took back for a dispute, as far as it stands."""
    return intent.disputed.minor if intent.dispute in {"open", "lost"} else 0


def _returned_late(tx: Tx, intent: Intent) -> int:
    if not intent.late.minor:
        return 0
    refunds = rows.refunds_of(tx, intent)
    return sum(refund.amount.minor for refund in refunds if refund.automatic and refund.state == "succeeded")


def _moved(tx: Tx, id: str) -> int:
    try:
        with tx.savepoint():
            return ledger.transfer_of(tx, id).amount.minor
    except NotFound:
        return 0


def is_known(tx: Tx, id: str) -> bool:
    """Whether there is an intent of this id."""
    return rows.find(tx, id) is not None
