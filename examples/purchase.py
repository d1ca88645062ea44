"""The purchase that each shop beside this file sells, whatever its framework: one function over `tx`.

The shop adds a row of its own ORM to it, in the same transaction. Where the shop does no jobs itself,
`ONEFOLD_URL=shop.db onefold worker examples.purchase:worker` does.
"""

from __future__ import annotations

import os

import msgspec

import onefold
from onefold import Money, Tx, events, jobs, ledger

CURRENCY = "EUR"
WELCOME = Money(5_000, CURRENCY)
STATUS = {"invalid": 400, "denied": 403, "not_found": 404, "conflict": 409, "retry": 503}  # By kind of error.


class Wanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a shop is asked for."""

    order: str
    buyer: str
    cents: int


@events.kind("shop.order.placed")
class OrderPlaced(msgspec.Struct, frozen=True):
    """Somebody bought something."""

    order: str
    buyer: str
    price: Money


@jobs.kind("shop.receipt.send")
class SendReceipt(msgspec.Struct, frozen=True):
    """Tell the buyer, once the order is committed."""

    order: str


@events.kind("shop.receipt.sent")
class ReceiptSent(msgspec.Struct, frozen=True):
    """The buyer was told."""

    order: str


def open_shop(tx: Tx, *buyers: str) -> None:
    """Open the accounts, and give each buyer a little money; again and again does no harm."""
    ledger.open_account(tx, "bank", currency=CURRENCY, kind="unlimited")
    ledger.open_account(tx, "till", currency=CURRENCY, kind="unlimited")
    for buyer in buyers:
        ledger.open_account(tx, f"wallet/{buyer}", currency=CURRENCY)
        ledger.transfer(tx, f"welcome/{buyer}", debit="bank", credit=f"wallet/{buyer}", amount=WELCOME)


def purchase(tx: Tx, wanted: Wanted) -> str:
    """Move the money, note the order, ask for the receipt; answer the id of the event.

    Raises:
        Conflict: the wallet has too little (code "insufficient_funds"), or the order was placed already.
        NotFound: nobody of that name has a wallet.
        Invalid: a field is out of range.
    """
    price = Money(wanted.cents, CURRENCY)
    ledger.transfer(tx, wanted.order, debit=f"wallet/{wanted.buyer}", credit="till", amount=price)
    placed = OrderPlaced(order=wanted.order, buyer=wanted.buyer, price=price)
    appended = events.append(tx, f"order/{wanted.order}", placed, expected="absent")
    jobs.put(tx, SendReceipt(order=wanted.order), unique=f"receipt/{wanted.order}")
    return appended.ids[0]


def send_receipt(tx: Tx, job: SendReceipt) -> None:
    """Write the receipt; the job ends in this very transaction."""
    events.append(tx, f"receipt/{job.order}", ReceiptSent(order=job.order), expected="absent")


def worker() -> jobs.Worker:
    """Who sends the receipts."""
    return jobs.Worker(onefold.connect(os.environ.get("ONEFOLD_URL", "shop.db")), tx={SendReceipt: send_receipt})
