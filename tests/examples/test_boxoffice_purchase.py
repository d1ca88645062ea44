"""The purchase on both engines: everything, or nothing, and once."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import pytest
from boxoffice_house import PAIR, open_evening, send_receipts, traces
from examples.boxoffice import desk, hall, wallets
from examples.boxoffice.purchase import OrderPlaced, purchase
from examples.boxoffice.receipts import ReceiptSent, receipt_of
from waiting import until

from onefold import Conflict, Database, Denied, Invalid, NotFound, OnefoldError, Tx, booking, events, ledger
from onefold.core.clock import FakeClock

ANA, BEN = "v-ana", "v-ben"
WELCOME = wallets.WELCOME.minor


@pytest.fixture
def show(db: Database) -> str:
    return db.run(open_evening)


@pytest.fixture
def hold(db: Database, show: str) -> booking.Hold:
    return db.run(desk.take, show, by=ANA, wish=PAIR)


def test_a_purchase_does_everything_that_belongs_to_it(db: Database, show: str, hold: booking.Hold) -> None:
    bought = db.run(purchase, hold.id, by=ANA, key="k1")
    price = hold.price.minor
    assert bought.value.blocks == hold.blocks
    assert db.run(traces, show, ANA) == {
        "sold": 2, "held": 0, "orders": 1, "wallet": WELCOME - price, "till": price, "placed": 1, "receipts": 0,
        "jobs": 1,
    }  # fmt: skip
    placed = db.run(events.read_stream, f"order/{bought.value.id}").items[0].open(OrderPlaced)
    assert placed == OrderPlaced(order=bought.value.id, by=ANA, show=show, price=hold.price)
    paid = db.run(ledger.transfer_of, hold.id)
    assert (paid.debit, paid.credit, paid.amount, paid.state) == (f"wallet/{ANA}", "box-office", hold.price, "posted")


def test_an_error_after_the_purchase_leaves_nothing_of_it(db: Database, show: str, hold: booking.Hold) -> None:
    before = db.run(traces, show, ANA)

    def torn(tx: Tx) -> None:
        purchase(tx, hold.id, by=ANA, key="k1")
        raise RuntimeError("the power fails")

    with pytest.raises(RuntimeError):
        db.run(torn)
    assert db.run(traces, show, ANA) == before
    assert before["held"] == 2
    assert not db.run(purchase, hold.id, by=ANA, key="k1").replayed, "the key is as free as the rest"


def test_the_same_key_buys_once_and_is_answered_alike(db: Database, show: str, hold: booking.Hold) -> None:
    first = db.run(purchase, hold.id, by=ANA, key="k1")
    after = db.run(traces, show, ANA)
    again = db.run(purchase, hold.id, by=ANA, key="k1")
    assert (first.replayed, again.replayed) == (False, True)
    assert again.value == first.value
    assert db.run(traces, show, ANA) == after


def test_a_key_is_for_one_request(db: Database, show: str, hold: booking.Hold) -> None:
    db.run(purchase, hold.id, by=ANA, key="k1")
    other = db.run(desk.take, show, by=ANA, wish=PAIR)
    with pytest.raises(Invalid) as caught:
        db.run(purchase, other.id, by=ANA, key="k1")
    assert caught.value.code == "idempotency_mismatch"
    assert db.run(traces, show, ANA)["orders"] == 1


def test_a_hold_is_sold_once_whatever_the_key(db: Database, show: str, hold: booking.Hold) -> None:
    db.run(purchase, hold.id, by=ANA, key="k1")
    with pytest.raises(NotFound):
        db.run(purchase, hold.id, by=ANA, key="k2")
    assert db.run(traces, show, ANA)["orders"] == 1


def test_without_money_nothing_happens_and_the_key_stays_free(db: Database, show: str, hold: booking.Hold) -> None:
    def spend_all(tx: Tx) -> None:
        ledger.transfer(tx, "spree", debit=f"wallet/{ANA}", credit=wallets.TILL, amount=wallets.balance(tx, ANA))

    db.run(spend_all)
    before = db.run(traces, show, ANA)
    with pytest.raises(Conflict) as caught:
        db.run(purchase, hold.id, by=ANA, key="k1")
    assert caught.value.code == "insufficient_funds"
    assert db.run(traces, show, ANA) == before
    db.run(wallets.top_up, ANA, key="t1")
    assert db.run(purchase, hold.id, by=ANA, key="k1").value.price == hold.price


def test_nobody_buys_what_somebody_else_holds(db: Database, show: str, hold: booking.Hold) -> None:
    db.run(desk.take, show, by=BEN, wish=PAIR)
    with pytest.raises(Denied):
        db.run(purchase, hold.id, by=BEN, key="k1")
    assert db.run(traces, show, BEN)["orders"] == 0


def test_a_lapsed_hold_is_not_sold(db: Database, show: str, clock: FakeClock) -> None:
    hold = db.run(desk.take, show, by=ANA, wish=desk.Wish(count=2, ttl_ms=1_000))
    clock.advance(1_000)
    until(lambda: db.run(desk.try_hold, hold.id, by=ANA) is None)
    with pytest.raises(OnefoldError) as caught:
        db.run(purchase, hold.id, by=ANA, key="k1")
    assert caught.value.code in {"hold_lapsed", "hold_gone"}
    assert db.run(traces, show, ANA)["wallet"] == WELCOME


def test_the_receipt_is_sent_once_by_a_job(db: Database, show: str, hold: booking.Hold) -> None:
    order = db.run(purchase, hold.id, by=ANA, key="k1").value
    send_receipts(db, order.id)
    receipt = db.run(receipt_of, order.id)
    assert receipt is not None
    sent = receipt.open(ReceiptSent)
    assert (sent.to, sent.price) == (ANA, order.price)
    assert sent.text == f"Hamlet: {hall.places(order.blocks)}. Paid {order.price}."
    left = db.run(traces, show, ANA)
    assert (left["receipts"], left["jobs"]) == (1, 0)


def test_a_crowd_on_one_hold_gets_one_order(db: Database, show: str, hold: booking.Hold) -> None:
    """Twelve at once, four keys: one key wins, whoever has it gets the order, the others nothing."""
    found: list[Any] = []

    def buy(number: int) -> None:
        try:
            found.append(db.run(purchase, hold.id, by=ANA, key=f"k{number % 4}").value.id)
        except OnefoldError as error:
            found.append(error.code)

    threads = [threading.Thread(target=buy, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts = Counter(found)
    orders = [one for one in counts if one.startswith("order_")]
    assert len(orders) == 1
    assert set(counts) - set(orders) <= {"hold_gone", "in_flight", "hold_lapsed", "conflict", "retry"}
    assert db.run(traces, show, ANA)["orders"] == 1


def test_a_new_choice_gives_the_old_seats_back(db: Database, show: str, hold: booking.Hold) -> None:
    db.run(desk.take_instead, show, by=ANA, wish=desk.Wish(count=3), old=hold.id)
    assert db.run(traces, show, ANA)["held"] == 3


def test_a_choice_that_fails_keeps_the_old_seats(db: Database, show: str, hold: booking.Hold) -> None:
    taken = db.run(desk.take, show, by=BEN, wish=PAIR).blocks[0]
    wish = desk.Wish(row=taken.row, seats=taken.seats)
    with pytest.raises(Conflict):
        db.run(desk.take_instead, show, by=ANA, wish=wish, old=hold.id)
    assert db.run(desk.try_hold, hold.id, by=ANA) == hold


def test_a_hold_asked_for_twice_is_one(db: Database, show: str) -> None:
    one = db.run(desk.take_once, show, by=ANA, wish=PAIR, key="h1")
    two = db.run(desk.take_once, show, by=ANA, wish=PAIR, key="h1")
    assert one == two
    assert db.run(traces, show, ANA)["held"] == 2


def test_a_top_up_pressed_twice_is_one(db: Database, show: str) -> None:
    db.run(wallets.top_up, ANA, key="t1")
    assert db.run(wallets.top_up, ANA, key="t1").minor == WELCOME + wallets.TOP_UP.minor
