"""Paying by card on both engines: two transactions, and whatever the provider says in between, or never says."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from boxoffice_house import PAIR, open_evening, traces
from examples.boxoffice import desk, paying, wallets
from examples.boxoffice.paying import PROVIDER, on_paid, pay_by_card, paying_of
from examples.boxoffice.purchase import OrderPlaced, purchase
from examples.boxoffice.web import till_pages
from waiting import until

from onefold import (
    Conflict,
    Database,
    Denied,
    Invalid,
    Money,
    NotFound,
    Tx,
    booking,
    events,
    jobs,
    ledger,
    payments,
    webhooks,
)
from onefold.core.clock import FakeClock
from onefold.products.payments import Charge, Intent, RefundRecord
from onefold.products.payments.settling import unanswered

ANA, BEN = "v-ana", "v-ben"
WELCOME = wallets.WELCOME.minor
CLEARING, UNCLAIMED = f"payments/{PROVIDER}/EUR/clearing", f"payments/{PROVIDER}/EUR/unclaimed"


@pytest.fixture
def show(db: Database) -> str:
    return db.run(open_evening)


@pytest.fixture
def hold(db: Database, show: str) -> booking.Hold:
    return db.run(desk.take, show, by=ANA, wish=PAIR)


@pytest.fixture
def partner(db: Database) -> str:
    return db.run(webhooks.create, "https://partner.example/in", key_id="k1", types=("order.*",)).id


def ask(db: Database, hold: booking.Hold, *, by: str = ANA, key: str = "k1", card: str = "tok_visa", **more: Any) -> str:
    return db.run(pay_by_card, hold.id, by=by, key=key, card=card, **more).value


def answered(db: Database, payment: str, state: Any) -> Intent:
    """The second transaction, with what the provider says."""
    intent = db.run(payments.intent_of, payment)
    minor = intent.amount.minor
    charge = Charge(payment, state, "EUR", minor, minor if state == "captured" else 0, intent.reference)
    return db.run(payments.observe, PROVIDER, charge, on_paid=on_paid)


def books(tx: Tx) -> tuple[int, int, int, int]:
    """Posted to the till, on its way there, owed by the provider, and what came late."""
    till = ledger.balance(tx, wallets.TILL)
    others = (ledger.balance(tx, name).posted.minor for name in (CLEARING, UNCLAIMED))
    return till.posted.minor, till.pending_in.minor, *others


def waiting(db: Database, kind: str) -> list[Any]:
    """What the jobs of a kind that wait are to do."""
    found = db.run(jobs.list_jobs, state="ready").items
    return [msgspec.json.decode(job.args) for job in found if job.kind == kind]


def state(db: Database, payment: str) -> str:
    return db.run(paying_of, payment, by=ANA).state


def test_the_first_transaction_keeps_the_seats_and_asks(db: Database, show: str, hold: booking.Hold) -> None:
    payment = ask(db, hold)
    kept = db.run(booking.hold_of, hold.id, by=ANA)
    seen = db.run(paying_of, payment, by=ANA)
    assert (seen.state, seen.silent, seen.order, seen.price, seen.hold) == ("paying", False, None, hold.price, hold.id)
    assert kept.expires_at_ms == seen.until_ms, "the seats wait as long as the payment may take"
    assert kept.expires_at_ms - hold.expires_at_ms > paying.PAYING_MS - desk.TTL_MS - 60_000
    assert db.run(books) == (0, hold.price.minor, 0, 0)
    assert waiting(db, "payments.settle") == [{"intent": payment, "look": False}]
    there = db.run(traces, show, ANA)
    assert (there["held"], there["sold"], there["orders"], there["wallet"]) == (2, 0, 0, WELCOME)


def test_an_error_after_it_leaves_nothing_of_it(db: Database, hold: booking.Hold) -> None:
    def torn(tx: Tx) -> None:
        pay_by_card(tx, hold.id, by=ANA, key="k1", card="tok_visa")
        raise RuntimeError("the power fails")

    with pytest.raises(RuntimeError):
        db.run(torn)
    assert db.run(booking.hold_of, hold.id, by=ANA) == hold
    assert (db.run(books), waiting(db, "payments.settle")) == ((0, 0, 0, 0), [])
    assert db.run(payments.list_intents).items == []


def test_the_second_does_everything_that_belongs_to_it(
    db: Database, show: str, hold: booking.Hold, partner: str
) -> None:
    payment = ask(db, hold)
    assert answered(db, payment, "captured").state == "captured"
    price = hold.price.minor
    assert db.run(books) == (price, 0, -price, 0)
    there = db.run(traces, show, ANA)
    assert (there["sold"], there["held"], there["orders"], there["placed"], there["wallet"]) == (2, 0, 1, 1, WELCOME)
    order = db.run(booking.list_orders, by=ANA).items[0]
    assert (order.hold_id, order.price, order.blocks) == (hold.id, hold.price, hold.blocks)
    seen = db.run(paying_of, payment, by=ANA)
    assert (seen.state, seen.order) == ("paid", order.id)
    assert db.run(events.read_stream, f"order/{order.id}").items[0].open(OrderPlaced).price == hold.price
    assert waiting(db, "receipt.send") == [{"order": order.id}]
    assert len(db.run(webhooks.list_pending, partner).items) == 1
    answered(db, payment, "captured")  # Told again.
    assert db.run(traces, show, ANA) == there
    assert len(db.run(webhooks.list_pending, partner).items) == 1


def test_an_error_in_the_second_leaves_nothing_of_it(db: Database, show: str, hold: booking.Hold, partner: str) -> None:
    payment = ask(db, hold)
    before = db.run(traces, show, ANA), db.run(books)

    def torn(tx: Tx, intent: Intent) -> None:
        on_paid(tx, intent)
        raise RuntimeError("the power fails")

    minor = hold.price.minor
    with pytest.raises(RuntimeError):
        db.run(payments.observe, PROVIDER, Charge(payment, "captured", "EUR", minor, minor), on_paid=torn)
    assert (db.run(traces, show, ANA), db.run(books)) == before
    assert (state(db, payment), db.run(webhooks.list_pending, partner).items) == ("paying", [])
    answered(db, payment, "captured")
    assert state(db, payment) == "paid"


def test_asked_again_it_is_one_payment(db: Database, hold: booking.Hold) -> None:
    payment = ask(db, hold)
    assert db.run(pay_by_card, hold.id, by=ANA, key="k1", card="tok_visa").replayed
    assert ask(db, hold, key="another tab") == payment
    with pytest.raises(Conflict) as caught:
        ask(db, hold, key="k3", card="tok_other")
    assert caught.value.code == "intent_mismatch"
    with pytest.raises(Invalid) as wrong:
        db.run(purchase, hold.id, by=ANA, key="k1")
    assert wrong.value.code == "idempotency_mismatch", "a key is for one way to pay"
    assert len(db.run(payments.list_intents).items) == 1


def test_a_declined_card_keeps_the_seats_for_the_next(db: Database, show: str, hold: booking.Hold) -> None:
    first = ask(db, hold)
    answered(db, first, "declined")
    assert state(db, first) == "declined"
    assert (db.run(books), db.run(traces, show, ANA)["held"]) == ((0, 0, 0, 0), 2)
    assert ask(db, hold) == first, "the same key answers as before"
    second = ask(db, hold, key="k2", card="tok_other")
    assert second != first
    answered(db, second, "captured")
    assert state(db, second) == "paid"
    assert db.run(traces, show, ANA)["orders"] == 1


def test_a_declined_card_leaves_the_wallet(db: Database, hold: booking.Hold) -> None:
    answered(db, ask(db, hold), "declined")
    assert db.run(purchase, hold.id, by=ANA, key="k2").value.price == hold.price


def test_cards_are_tried_a_few_times(db: Database, hold: booking.Hold) -> None:
    for number in range(paying.TRIES_MAX):
        answered(db, ask(db, hold, key=f"k{number}"), "declined")
    with pytest.raises(Conflict) as caught:
        ask(db, hold, key="once more")
    assert caught.value.code == "tries_max"
    assert db.run(books) == (0, 0, 0, 0)


def test_silence_keeps_the_seats(db: Database, show: str, hold: booking.Hold) -> None:
    payment = ask(db, hold)
    assert db.run(unanswered, payment) is not None
    seen = db.run(paying_of, payment, by=ANA)
    assert (seen.state, seen.silent) == ("paying", True)
    assert (db.run(traces, show, ANA)["held"], db.run(books)[1]) == (2, hold.price.minor)
    assert ask(db, hold, key="again") == payment, "never a second charge beside one that is unknown"
    answered(db, payment, "captured")
    assert state(db, payment) == "paid"


def came_late(db: Database, payment: str, price: int) -> None:
    """The provider took it; it is nobody's, and is on its way back."""
    assert answered(db, payment, "captured").late.minor == price
    seen = db.run(paying_of, payment, by=ANA)
    assert (seen.state, seen.order, seen.back and seen.back.minor) == ("canceled", None, price)
    assert db.run(payments.refund_of, f"{payment}.late").amount.minor == price
    assert len(waiting(db, "payments.refund")) == 1
    assert db.run(books)[2:] == (-price, price)


def test_seats_given_back_while_paying_are_free_and_late_money_goes_back(
    db: Database, show: str, hold: booking.Hold, partner: str
) -> None:
    payment = ask(db, hold)
    assert db.run(paying.give_back, hold.id, by=ANA)
    assert (state(db, payment), db.run(traces, show, ANA)["held"], db.run(books)) == ("canceled", 0, (0, 0, 0, 0))
    wish = desk.Wish(row=hold.row, seats=hold.seats)
    db.run(desk.take, show, by=BEN, wish=wish)
    came_late(db, payment, hold.price.minor)
    assert (db.run(traces, show, ANA)["orders"], db.run(webhooks.list_pending, partner).items) == (0, [])


def test_seats_that_lapsed_while_paying_are_free_and_late_money_goes_back(
    db: Database, show: str, clock: FakeClock
) -> None:
    hold = db.run(desk.take, show, by=ANA, wish=desk.Wish(count=2, ttl_ms=1_000))
    payment = ask(db, hold, keep_ms=1_000)
    clock.advance(1_000)
    until(lambda: db.run(desk.try_hold, hold.id, by=ANA) is None, "the lapse")
    came_late(db, payment, hold.price.minor)
    assert db.run(traces, show, ANA)["orders"] == 0


def test_seats_bought_from_the_wallet_meanwhile_are_sold_once(db: Database, show: str, hold: booking.Hold) -> None:
    payment = ask(db, hold)
    db.run(purchase, hold.id, by=ANA, key="k2")
    price = hold.price.minor
    came_late(db, payment, price)
    assert db.run(books)[:2] == (price, 0), "the wallet's money, and nothing on its way"
    assert db.run(traces, show, ANA)["orders"] == 1


def test_what_is_paid_is_not_given_back(db: Database, show: str, hold: booking.Hold) -> None:
    answered(db, ask(db, hold), "captured")
    with pytest.raises(Conflict) as caught:
        db.run(paying.give_back, hold.id, by=ANA)
    assert caught.value.code == "intent_state"
    assert db.run(traces, show, ANA)["sold"] == 2


def test_the_till_knows_what_is_under_way(db: Database, hold: booking.Hold) -> None:
    assert db.run(desk.till, hold.id, by=ANA).payment is None
    payment = ask(db, hold)
    assert db.run(desk.till, hold.id, by=ANA).payment == payment
    answered(db, payment, "declined")
    assert db.run(desk.till, hold.id, by=ANA).payment is None


def test_nobody_pays_looks_or_gives_back_for_somebody_else(db: Database, hold: booking.Hold) -> None:
    payment = ask(db, hold)
    with pytest.raises(Denied):
        ask(db, hold, by=BEN)
    with pytest.raises(Denied):
        db.run(paying_of, payment, by=BEN)
    with pytest.raises(Denied):
        db.run(paying.give_back, hold.id, by=BEN)
    with pytest.raises(NotFound):
        db.run(paying_of, f"{hold.id}:2", by=ANA)
    with pytest.raises(Invalid):
        ask(db, hold, key="k2", card="")
    assert state(db, payment) == "paying"
    assert len(waiting(db, "payments.settle")) == 1


def order_page(db: Database) -> tuple[desk.Bought, str]:
    """The one order of Ana, and what its page says."""
    order = db.run(booking.list_orders, by=ANA).items[0]
    shown = db.reader().run(desk.bought, order.id, by=ANA)
    return shown, str(till_pages.order(shown))


def test_an_order_says_that_the_wallet_paid_and_what_a_card_took_beside_it(db: Database, hold: booking.Hold) -> None:
    payment = ask(db, hold)
    db.run(purchase, hold.id, by=ANA, key="k2")
    shown, page = order_page(db)
    assert (shown.paid and shown.paid.card, shown.paid and shown.paid.charge) == ("", None)
    assert "From your wallet" in page
    assert "too late" not in page
    came_late(db, payment, hold.price.minor)
    assert f"{hold.price} from a card goes back to it by itself" in order_page(db)[1]


def test_an_order_says_which_card_paid_and_what_went_back(db: Database, hold: booking.Hold) -> None:
    answered(db, ask(db, hold, key="k0", card="tok_declined"), "declined")
    payment = ask(db, hold)
    answered(db, payment, "captured")
    shown, page = order_page(db)
    assert (shown.paid and shown.paid.card, shown.paid and shown.paid.charge) == ("Visa ending in 42", "captured")
    for said in ("By card: Visa ending in 42", "<dt>Charge</dt><dd>Taken</dd>"):
        assert said in page
    assert "Refund" not in page
    part = Money(hold.price.minor // 4, "EUR")
    db.run(payments.refund, "back-1", payment, amount=part)
    assert f"<dt>Refund</dt><dd>{part} on the way to your card</dd>" in order_page(db)[1]
    minor = hold.price.minor
    told = Charge(
        payment, "captured", "EUR", minor, minor, f"{ANA}/{hold.id}",
        (RefundRecord("back-1", part.minor, "succeeded"),),
    )  # fmt: skip
    db.run(payments.observe, PROVIDER, told, on_paid=on_paid)
    page = order_page(db)[1]
    assert f"<dt>Refunded</dt><dd>{part} back on your card</dd>" in page
    assert "Taken, part of it given back" in page
    assert "on the way" not in page
    assert [one.paid for one in db.reader().run(desk.all_bought, by=ANA)[0]] == [None], "a list does not look it up"
