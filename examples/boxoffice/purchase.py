"""The purchase: seats, money, order, event, receipt, webhook and the answer to the next retry, or none of it.

This is the whole of it. There is nothing to reconcile afterwards, because there is no moment in
which one part is done and another is not; nothing to deduplicate, because the key is part of what
commits; and no queue that could hear of an order that was rolled back.

A card's money comes from outside, where our transaction does not reach: `paying.py` takes two, and the second one
ends in the same `sell`.
"""

from __future__ import annotations

import msgspec
from examples.boxoffice import wallets

from onefold import Money, Tx, booking, events, idempotency, jobs, ledger, webhooks


@events.kind("order.placed")
class OrderPlaced(msgspec.Struct, frozen=True):
    """Somebody bought seats."""

    order: str
    by: str
    show: str
    price: Money


@jobs.kind("receipt.send", attempts=20, backoff_ms=200)
class SendReceipt(msgspec.Struct, frozen=True):
    """Tell the buyer, once the order is committed."""

    order: str


def purchase(tx: Tx, hold_id: str, *, by: str, key: str) -> idempotency.Answer[booking.Order]:
    """Sell the held seats to the visitor who holds them, for money in the wallet.

    Args:
        tx: everything below commits with it, or not at all.
        hold_id: the hold.
        by: the visitor.
        key: the same key buys once, however often it is asked, and is answered alike every time.

    Raises:
        NotFound: there is no such hold (any more).
        Conflict: it lapsed (code "hold_lapsed"), the wallet has too little ("insufficient_funds"), or
            the same request is being worked on at this moment ("in_flight").
        Denied: somebody else holds it.
        Invalid: the key was used for another hold (code "idempotency_mismatch").
    """

    def pay_and_sell() -> booking.Order:
        hold = booking.hold_of(tx, hold_id, by=by)
        ledger.transfer(tx, hold.id, debit=wallets.wallet(by), credit=wallets.TILL, amount=hold.price)
        return sell(tx, hold)

    return idempotency.once(tx, key, pay_and_sell, scope=f"purchase {by}", request=hold_id, kind=booking.Order)


def sell(tx: Tx, hold: booking.Hold) -> booking.Order:
    """All that belongs to an order, beside the money, which the caller has moved with the same tx.

    Raises:
        Conflict: the hold lapsed (code "hold_lapsed").
        NotFound: it is gone.
    """
    order = booking.confirm(tx, hold)
    placed = OrderPlaced(order=order.id, by=hold.by, show=order.show_id, price=order.price)
    events.append(tx, f"order/{order.id}", placed, expected="absent")
    jobs.put(tx, SendReceipt(order=order.id), unique=f"receipt/{order.id}")
    webhooks.send(tx, "order.placed", placed)
    return order
