"""Receipts: the job that a purchase leaves behind, and what it writes.

The receipt is an event in a stream of its own that must not exist before, appended in the same
transaction that ends the job: a worker that dies in between has done neither.
"""

from __future__ import annotations

import msgspec
from examples.boxoffice import hall
from examples.boxoffice.purchase import SendReceipt

from onefold import Money, Tx, booking, events


@events.kind("receipt.sent")
class ReceiptSent(msgspec.Struct, frozen=True):
    """What the buyer was told."""

    order: str
    to: str
    text: str
    price: Money


def send_receipt(tx: Tx, wanted: SendReceipt) -> None:
    """Write the receipt of the order; the job ends in this very transaction."""
    order = booking.order_of(tx, wanted.order)
    show = booking.show_of(tx, order.show_id)
    text = f"{show.title}: {hall.places(order.blocks)}. Paid {order.price}."
    receipt = ReceiptSent(order=order.id, to=order.by, text=text, price=order.price)
    events.append(tx, f"receipt/{order.id}", receipt, expected="absent", causation=f"order/{order.id}@1")


def receipt_of(tx: Tx, order_id: str) -> events.Event | None:
    """The receipt, or None while the job is still waiting."""
    found = events.read_stream(tx, f"receipt/{order_id}", limit=1).items
    return found[0] if found else None
