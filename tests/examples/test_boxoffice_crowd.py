"""A small crowd over real HTTP, with and without kill -9, and an audit that is not easily pleased."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from boxoffice_house import PAIR, open_evening, send_receipts
from examples.boxoffice import desk, paying, wallets
from examples.boxoffice.__main__ import main
from examples.boxoffice.crowd.audit import Report, audit
from examples.boxoffice.crowd.buyer import Told
from examples.boxoffice.crowd.crash import on_sale_with_kills
from examples.boxoffice.crowd.load import Crowd, read_told
from examples.boxoffice.crowd.servers import House
from examples.boxoffice.crowd.tally import Tally
from examples.boxoffice.crowd.witnesses import Witnesses
from examples.boxoffice.outside import provider_in
from examples.boxoffice.purchase import OrderPlaced, purchase
from waiting import until

from onefold import Database, Money, Tx, booking, events, jobs, ledger, payments
from onefold.runtime import Supervisor, all_loops

ANA = "v-ana"
SMALL = ["--quiet", "--at-once", "40"]


def counted(output: str) -> dict[str, int]:
    """The lines of the audit."""
    found = re.findall(r"^ +([a-z ]+?) +([\d,]+)$", output, re.MULTILINE)
    return {name: int(number.replace(",", "")) for name, number in found}


def check(output: str, code: int, *, orders: int) -> None:
    numbers = counted(output)
    assert code == 0, output
    assert "audit passed" in output
    assert numbers["orders"] >= orders
    assert numbers["orders"] == numbers["transfers"] == numbers["events"] == numbers["receipts"] == numbers["webhooks"]
    assert 0 < numbers["by card"] <= numbers["charges"]
    assert numbers["provider minor"] == numbers["ledger minor"] > 0
    assert numbers["acknowledged"] >= orders
    assert (numbers["ledger sum"], numbers["lost"], numbers["doubled"]) == (0, 0, 0)


def mode(name: str, request: pytest.FixtureRequest) -> list[str]:
    """How the shop runs: on SQLite, in four processes on one file, or on PostgreSQL."""
    if name == "postgres":
        return ["--url", request.getfixturevalue("postgres_url")]
    return ["--workers", "4"] if name == "four processes" else []


MODES = ["sqlite", "four processes", "postgres"]


@pytest.mark.slow
@pytest.mark.parametrize("name", MODES)
def test_a_crowd_leaves_everything_in_order(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data", str(tmp_path), *SMALL, "--buyers", "100", "--shows", "3", *mode(name, request)]
    code = main(["load", "--fresh", *arguments])
    check(capsys.readouterr().out, code, orders=75)
    assert len(read_told(tmp_path / "told.jsonl")) >= 75


@pytest.mark.slow
@pytest.mark.parametrize("name", MODES)
def test_three_kills_lose_nothing(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data", str(tmp_path), *SMALL, "--buyers", "100", "--shows", "3", *mode(name, request)]
    code = main(["crash", "--kills", "3", *arguments])
    output = capsys.readouterr().out
    check(output, code, orders=75)
    assert "killed -9: 3 times" in output


@pytest.mark.soak
def test_10000_purchases_by_card_with_every_fault_and_kills_lose_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crowd = ["--buyers", "11500", "--shows", "30", "--cards", "1", "--kills", "80"]
    code = main(["crash", "--data", str(tmp_path), "--quiet", *crowd])
    output = capsys.readouterr().out
    check(output, code, orders=10_000)
    numbers = counted(output)
    assert numbers["by card"] >= 10_000
    assert min(numbers["silent"], numbers["late refunded"]) > 0
    assert "killed -9: 80 times" in output


@pytest.mark.soak
@pytest.mark.parametrize("name", MODES)
def test_twenty_kills_lose_nothing(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data", str(tmp_path), "--quiet", "--buyers", "5000", *mode(name, request)]
    code = main(["crash", "--kills", "20", *arguments])
    output = capsys.readouterr().out
    check(output, code, orders=4_000)
    assert "killed -9: 20 times" in output


@pytest.mark.soak
def test_postgres_killed_too_loses_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The database's server dies as well, with all its backends in the middle of what they do."""
    code = main(["crash", "--kills", "20", "--postgres", "--data", str(tmp_path), "--quiet", "--buyers", "3000"])
    output = capsys.readouterr().out
    check(output, code, orders=2_500)
    assert "killed -9: 20 times" in output


@pytest.mark.slow
def test_a_crowd_larger_than_the_hall_sells_it_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    crowd = ["--buyers", "900", "--shows", "1", "--cards", "0.1"]
    code = main(["load", "--fresh", "--data", str(tmp_path), *SMALL, *crowd])
    output = capsys.readouterr().out
    check(output, code, orders=400)
    numbers = counted(output)
    assert numbers["seats sold"] > 1_700
    assert 1_950 <= numbers["seats sold"] + numbers["seats held"] <= 2_000, "some were left to lapse"
    assert "went home: sold out" in output


@pytest.fixture
def show(db: Database) -> str:
    return db.run(open_evening)


@pytest.fixture
def order(db: Database, show: str) -> booking.Order:
    hold = db.run(desk.take, show, by=ANA, wish=PAIR)
    return db.run(purchase, hold.id, by=ANA, key="k").value


def audited(db: Database, *told: Told, drain_s: float = 0.0) -> Report:
    with Supervisor(db, all_loops()):
        return audit(db, told, drain_s=drain_s)


def told_of(order: booking.Order) -> Told:
    seats = [(block.row, seat) for block in order.blocks for seat in block.seats]
    return Told(order.id, order.hold_id, "k", order.by, order.show_id, seats, order.price.minor)


def test_the_audit_passes_what_is_right(db: Database, order: booking.Order) -> None:
    send_receipts(db, order.id)
    report = audited(db, told_of(order), drain_s=20)
    assert report.passed, report.text()
    assert (report.seats_sold, report.orders, report.events, report.receipts, report.acknowledged) == (2, 1, 1, 1, 1)


def test_the_audit_misses_a_receipt(db: Database, order: booking.Order) -> None:
    report = audited(db)
    assert "has no receipt" in report.text()
    assert not report.passed


def test_the_audit_misses_payment_and_event(db: Database, show: str) -> None:
    hold = db.run(desk.take, show, by=ANA, wish=PAIR)
    db.run(booking.confirm_hold, hold.id, by=ANA)
    report = audited(db)
    assert report.lost == 3
    assert "was never paid" in report.text()
    assert "has no event" in report.text()


def test_the_audit_misses_what_buyers_were_told(db: Database, order: booking.Order) -> None:
    send_receipts(db, order.id)
    lie = Told("order_0", "hold_0", "other", ANA, order.show_id, [(1, 1)], 1)
    twice = Told(order.id, order.hold_id, "k", ANA, order.show_id, [(1, 1)], 1)
    report = audited(db, lie, twice, drain_s=20)
    assert "which does not exist" in report.text()
    assert "is not what" in report.text()
    assert (report.lost, report.other) == (1, 1)


def test_the_audit_finds_doubles(db: Database, order: booking.Order) -> None:
    send_receipts(db, order.id)
    again = OrderPlaced(order=order.id, by=ANA, show=order.show_id, price=order.price)

    def double(tx: Tx) -> None:
        events.append(tx, f"order/{order.id}", again)
        ledger.transfer(tx, "stray", debit=wallets.wallet(ANA), credit=wallets.TILL, amount=order.price)

    db.run(double)
    two = Told("order_0", "hold_0", "k", ANA, order.show_id, [], 1)
    report = audited(db, told_of(order), two, drain_s=20)
    assert report.doubled == 2, report.text()
    assert "has 2 events" in report.text()
    assert "key k bought" in report.text()
    assert "were paid for hold stray" in report.text()


def test_the_audit_finds_seats_without_an_order(db: Database, order: booking.Order) -> None:
    send_receipts(db, order.id)

    def forget(tx: Tx) -> None:
        tx.run("DELETE FROM onefold.booking_orders WHERE space = :space AND id = :id", id=order.id)

    db.run(forget)
    report = audited(db, drain_s=20)
    assert "is sold, but in no order" in report.text()
    assert not report.passed


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Witnesses]:
    with provider_in(tmp_path) as fake, fake.connect() as provider:
        yield Witnesses(provider, fake.waiting, tmp_path)


def pay_by_card(db: Database, outside: Witnesses, hold: booking.Hold) -> str:
    """By the real provider, and by a worker's hand."""
    payment = db.run(paying.pay_by_card, hold.id, by=ANA, key="c", card="tok_visa").value
    asking = payments.handlers({paying.PROVIDER: outside.provider}, on_paid=paying.on_paid)
    with jobs.Worker(db, io=asking, lease_ms=1_000, poll_ms=50):
        until(lambda: db.run(payments.intent_of, payment).asked is None, "the provider's answer")
    return payment


def arrive(outside: Witnesses, order: str, id: str | None) -> None:
    """A line of what the partner wrote down."""
    body = None if id is None else {"type": "order.placed", "data": {"order": order}}
    with (outside.folder / "received.jsonl").open("ab") as file:
        file.write(msgspec.json.encode({"name": "partner", "id": id, "body": body}) + b"\n")


def asked_outside(db: Database, outside: Witnesses) -> Report:
    with Supervisor(db, all_loops()):
        return audit(db, outside=outside, drain_s=0.0)


def test_the_audit_compares_with_the_world_outside(db: Database, show: str, outside: Witnesses) -> None:
    hold = db.run(desk.take, show, by=ANA, wish=PAIR)
    pay_by_card(db, outside, hold)
    order = db.run(booking.list_orders, by=ANA).items[0]
    send_receipts(db, order.id)
    assert "has no webhook" in asked_outside(db, outside).text()
    arrive(outside, order.id, "msg_1")
    arrive(outside, order.id, "msg_1")
    report = asked_outside(db, outside)
    assert report.passed, report.text()
    assert (report.by_card, report.charges, report.late_refunded, report.silent) == (1, 1, 0, 0)
    assert (report.provider_minor, report.ledger_minor) == (hold.price.minor, hold.price.minor)
    assert (report.webhooks, report.webhooks_again) == (1, 1)
    arrive(outside, order.id, "msg_2")
    arrive(outside, order.id, None)
    report = asked_outside(db, outside)
    assert (report.doubled, report.other) == (1, 1), report.text()
    assert "has 2 webhooks" in report.text()
    assert "1 webhooks were not rightly signed" in report.text()


def test_the_audit_counts_what_came_late_and_went_back(db: Database, show: str, outside: Witnesses) -> None:
    hold = db.run(desk.take, show, by=ANA, wish=PAIR)
    payment = db.run(paying.pay_by_card, hold.id, by=ANA, key="c", card="tok_visa").value
    reference = db.run(payments.intent_of, payment).reference
    outside.provider.authorise(
        payment, hold.price, method="tok_visa", capture=True, reference=reference, timeout_s=5
    )  # The provider has it, and nobody here has heard of that.
    db.run(paying.give_back, hold.id, by=ANA)
    asking = payments.handlers({paying.PROVIDER: outside.provider}, on_paid=paying.on_paid)
    with jobs.Worker(db, io=asking, lease_ms=1_000, poll_ms=50):
        until(lambda: db.run(payments.list_refunds, payment), "the late success")
        until(lambda: db.run(payments.refund_of, f"{payment}.late").state == "succeeded", "the refund")
    report = asked_outside(db, outside)
    assert report.passed, report.text()
    assert (report.charges, report.late_refunded, report.orders) == (1, 1, 0)
    assert (report.provider_minor, report.ledger_minor) == (0, 0)


def test_the_audit_finds_money_that_nobody_here_knows_of(db: Database, show: str, outside: Witnesses) -> None:
    hold = db.run(desk.take, show, by=ANA, wish=PAIR)
    payment = pay_by_card(db, outside, hold)
    outside.provider.authorise("stray", hold.price, method="m", capture=True, reference="", timeout_s=5)
    outside.provider.refund(payment, "re_stray", Money(1, "EUR"), timeout_s=5)
    report = asked_outside(db, outside)
    assert not report.passed
    text = report.text()
    assert "what='unasked'" in text
    assert "what='refund'" in text
    assert f"the provider took {2 * hold.price.minor - 1}, orders by card cost {hold.price.minor}" in text


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_death_by_another_hand_is_told_and_not_hidden_by_a_new_start(processes: int, tmp_path: Path) -> None:
    def crash(_: random.Random) -> str:
        for server in house.servers():
            os.kill(server, signal.SIGSEGV)
        return "the server"

    with House(str(tmp_path / "shop.db"), tmp_path, workers=processes) as house:
        house.check()
        crowd = Crowd(buyers=30, at_once=5, shows=1, cards=0, seed=15)  # Its dice kill at once, by the other hand.
        sale = on_sale_with_kills(house, crowd, kills=50, tally=Tally(30, quiet=True), told=[], also=crash, quiet=True)
        with pytest.raises(RuntimeError, match="ended by itself") as told:
            asyncio.run(sale)
        assert "SIGSEGV" in str(told.value)
