"""Paying by card: what a provider outside does cannot be in our transaction, so it takes two.

The first, `pay_by_card`, keeps the seats, and records the payment and the job that asks for it. A worker then asks
the provider, under the payment's own id: never twice for another charge, and when the provider keeps silent by a
query. The second, `on_paid`, books the money together with `sell`: it is the same one transaction as for a wallet.

Seats wait for the provider for `PAYING_MS`. Money that comes after that, or for seats that were given back, goes
back by itself. A payment is "HOLD:NUMBER", its reference "VISITOR/HOLD": nothing else has to be remembered.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from examples.boxoffice import hall, wallets
from examples.boxoffice.purchase import sell

from onefold import Conflict, Denied, Money, Tx, booking, idempotency, payments
from onefold.products.payments import Intent
from onefold.testing.provider import DECLINED

PROVIDER = "fake"
PAYING_MS = 600_000  # More: seats of a silent provider are kept from others longer. Less: more money comes late.
TRIES_MAX = 5  # Cards for one hold, which ends an hour after its making in any case.
ORDERS_LOOKED_AT = 100  # The order of a payment is among the buyer's latest.

#: The cards of this demonstration, as a provider's own form would turn them into tokens.
CARDS = {"tok_visa": "Visa ending in 42", DECLINED: "A card that is declined"}

_ENDED = frozenset({"canceled", "failed"})


class Paying(msgspec.Struct, frozen=True):
    """A payment by card as its buyer sees it.

    Attributes:
        id: the payment.
        hold: the seats that it is for.
        price: how much.
        state: "paying" until the provider has answered; "paid", then `order` says which; "declined", and the
            seats are still held; "canceled": the seats are gone, and money that was taken goes back.
        silent: the provider was asked and has not answered; it is asked again.
        until_ms: the seats are kept until then at the most.
        now_ms: the server's clock, to count down by.
        back: what came too late and goes back, or went.
        order: of a payment that is paid.
    """

    id: str
    hold: str
    price: Money
    state: Literal["paying", "paid", "declined", "canceled"]
    silent: bool
    until_ms: int
    now_ms: int
    back: Money | None
    order: str | None


class Paid(msgspec.Struct, frozen=True):
    """How an order was paid, and what became of the money since.

    Attributes:
        card: its name; "" when the wallet paid.
        charge: how the charge of the card stands; None when the wallet paid.
        going_back: what is on its way back to the card.
        went_back: what is there again.
        late: what another card took too late for these seats, and goes back by itself.
    """

    card: str
    charge: payments.State | None
    going_back: Money
    went_back: Money
    late: Money


def open_provider(tx: Tx) -> None:
    """Open the ledger's accounts of the provider; again and again does no harm."""
    payments.open_accounts(tx, PROVIDER, currency=hall.CURRENCY)


def pay_by_card(
    tx: Tx, hold_id: str, *, by: str, key: str, card: str, keep_ms: int = PAYING_MS
) -> idempotency.Answer[str]:
    """Keep the seats and have the provider asked; answers the payment's id. The first of two transactions.

    Args:
        tx: the payment, its job and the longer hold commit with it.
        hold_id: the hold.
        by: the visitor.
        key: the same key asks once. After a card was declined a new key tries another one.
        card: the provider's token.
        keep_ms: how long the seats wait for the provider, 1,000 to 1,800,000; the same for all tries of a hold.

    Raises:
        NotFound: there is no such hold (any more).
        Conflict: it lapsed ("hold_lapsed"); another card is being asked for these seats ("intent_mismatch"); five
            were ("tries_max"); the same request is being worked on at this moment ("in_flight").
        Denied: somebody else holds it.
        Invalid: the card is no token, or the key was used for something else ("idempotency_mismatch").
    """

    def ask() -> str:
        hold = booking.extend(tx, hold_id, by=by, ttl_ms=keep_ms)
        for number in range(1, TRIES_MAX + 1):
            # Written first and looked at then: two at once make one, as the id is the same.
            intent = payments.create(
                tx, f"{hold.id}:{number}", provider=PROVIDER, amount=hold.price, payee=wallets.TILL,
                keep_ms=keep_ms, reference=f"{by}/{hold.id}",
            )  # fmt: skip
            if intent.state not in _ENDED:
                return payments.authorise(tx, intent.id, method=card).id
        raise Conflict("Too many cards were tried for these seats.", code="tries_max", most=TRIES_MAX)

    return idempotency.once(tx, key, ask, scope=f"purchase {by}", request=[hold_id, card], kind=str)


def on_paid(tx: Tx, intent: Intent) -> None:
    """What commits with the money: the second transaction. Raises when the seats are gone; then the money goes back."""
    by, hold_id = _parties(intent)
    sell(tx, booking.hold_of(tx, hold_id, by=by))


def paying_of(tx: Tx, payment: str, *, by: str) -> Paying:
    """The visitor's payment as it stands.

    Raises:
        NotFound: there is none.
        Denied: it is somebody else's.
    """
    intent = payments.intent_of(tx, payment)
    owner, hold_id = _parties(intent)
    if owner != by:
        raise Denied("The payment is somebody else's.", code="payment_foreign", payment=payment)
    order = None
    if intent.captured.minor:
        orders = booking.list_orders(tx, by=by, limit=ORDERS_LOOKED_AT).items
        order = next((found.id for found in orders if found.hold_id == hold_id), None)
    return Paying(
        intent.id, hold_id, intent.amount, _state(intent), intent.state == "unknown", intent.expires_at_ms, tx.now_ms,
        intent.late if intent.late.minor else None, order,
    )  # fmt: skip


def paid_of(tx: Tx, order: booking.Order) -> Paid:
    """How the order was paid: by the card that took money for its hold in time, or else from the wallet."""
    nothing = Money(0, order.price.currency)
    tries = _tries(tx, order.hold_id, order.by)
    late = sum((one.late for one in tries), nothing)
    taken = next((one for one in tries if one.captured.minor), None)
    if taken is None:
        return Paid("", None, nothing, nothing, late)
    return Paid(CARDS.get(taken.method, "A card"), taken.state, taken.refunding, taken.refunded, late)


def open_payment(tx: Tx, hold_id: str, *, by: str) -> str | None:
    """The payment that is under way for a hold of this visitor, if there is one."""
    tries = _tries(tx, hold_id, by)
    return next((one.id for one in tries if one.state not in _ENDED and not one.captured.minor), None)


def give_back(tx: Tx, hold_id: str, *, by: str) -> bool:
    """Release the seats, and end the payment that is under way for them: what it takes all the same goes back.

    Raises:
        NotFound: this is no id of a hold.
        Conflict: they are paid, perhaps at this very moment ("intent_state").
        Denied: somebody else holds it.
    """
    for intent in _tries(tx, hold_id, by):
        if intent.state not in _ENDED:
            payments.cancel(tx, intent.id, reason="the seats were given back")
    return booking.release(tx, hold_id, by=by)


def _tries(tx: Tx, hold_id: str, by: str) -> list[Intent]:
    found = payments.list_intents(tx, after=f"{hold_id}:", limit=TRIES_MAX).items
    return [intent for intent in found if _parties(intent) == (by, hold_id)]


def _parties(intent: Intent) -> tuple[str, str]:
    """The visitor and the hold."""
    by, _, hold_id = intent.reference.rpartition("/")
    return by, hold_id


def _state(intent: Intent) -> Literal["paying", "paid", "declined", "canceled"]:
    if intent.captured.minor:
        return "paid"
    if intent.state == "failed":
        return "declined" if not intent.late.minor else "canceled"
    return "canceled" if intent.state == "canceled" else "paying"
