"""Payments through a provider in a process of its own: each fault alone, all at once, and the audit of two records."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from payments_endpoint import Endpoint
from payments_till import (
    CLEARING,
    PRICE,
    UNCLAIMED,
    age,
    charge,
    create,
    eur,
    has_order,
    observe,
    open_till,
    pay,
    pending_in,
    posted,
    settles,
    ship,
    written,
)
from waiting import let_pass, until

import onefold
from onefold import Conflict, Database, Handle, OnefoldError, Tx, jobs, ledger, payments
from onefold.products.payments.records import LOOK_BACK_MS
from onefold.testing.provider import DECLINED, FakeProvider

ANSWER_MS = 300


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeProvider]:
    with FakeProvider(tmp_path) as provider:
        yield provider


@pytest.fixture
def provider(fake: FakeProvider) -> Iterator[payments.HttpProvider]:
    with fake.connect() as connected:
        yield connected


@pytest.fixture
def real_db(db_url: str) -> Iterator[Database]:
    """By the clock of the world: the worker's retries come in their time."""
    with onefold.connect(db_url) as database:
        database.run(open_till)
        yield database


def worker(db: Database, provider: payments.HttpProvider, on_paid: Any = ship, **settings: Any) -> jobs.Worker:
    handlers = payments.handlers({"fake": provider}, on_paid=on_paid, answer_timeout_ms=ANSWER_MS)
    return jobs.Worker(db, io=handlers, poll_ms=20, **{"concurrency": 8, **settings})


def state(db: Database | Handle, id: str = "pay_1") -> str:
    return db.run(payments.intent_of, id).state


def settled(db: Database, id: str = "pay_1") -> bool:
    return db.run(payments.intent_of, id).asked is None


def audited(db: Database, provider: payments.HttpProvider) -> payments.Report:
    return payments.audit(db.reader(), "fake", provider, has_order=has_order)


def test_a_payment_goes_through(real_db: Database, provider: payments.HttpProvider) -> None:
    with worker(real_db, provider):
        real_db.run(pay)
        until(lambda: state(real_db) == "captured", "the money")
        real_db.run(payments.refund, "re_1", "pay_1", amount=eur(500))
        until(lambda: state(real_db) == "partially_refunded", "the refund")
    report = audited(real_db, provider)
    assert report.passed, report
    assert report.theirs == {"EUR": PRICE - 500}
    assert provider.query("pay_1", timeout_s=5).reference == "order/1"  # type: ignore[union-attr]


@pytest.mark.parametrize("by", ["fault", "card"])
def test_a_decline_fails(real_db: Database, fake: FakeProvider, provider: payments.HttpProvider, by: str) -> None:
    fake.switch(decline=float(by == "fault"))

    def pay_badly(tx: Tx) -> None:
        create(tx)
        payments.authorise(tx, "pay_1", method=DECLINED if by == "card" else "tok_visa")

    with worker(real_db, provider):
        real_db.run(pay_badly)
        until(lambda: state(real_db) == "failed", "the decline")
    assert (pending_in(real_db), audited(real_db, provider).passed) == (0, True)


@pytest.mark.parametrize("fault", ["unknown", "timeout"])
def test_silence_is_resolved_by_a_query_under_the_same_key(
    real_db: Database, fake: FakeProvider, provider: payments.HttpProvider, fault: str
) -> None:
    """Done but never told, or never done: either way the buyer pays once."""
    fake.switch(**{fault: 1.0})
    with worker(real_db, provider):
        real_db.run(pay)
        until(lambda: state(real_db) == "unknown", "the silence")
        assert pending_in(real_db) == PRICE
        fake.switch()
        until(lambda: state(real_db) == "captured", "the answer")
    report = audited(real_db, provider)
    assert report.passed, report
    assert (report.charges, fake.totals()) == (1, {"EUR": PRICE})


def test_a_slow_answer_is_waited_for(real_db: Database, fake: FakeProvider, provider: payments.HttpProvider) -> None:
    fake.switch(slow=1.0, slow_ms=ANSWER_MS // 3)
    with worker(real_db, provider):
        real_db.run(pay)
        until(lambda: state(real_db) == "captured", "the money")
    assert real_db.run(payments.intent_of, "pay_1").asks == 0


@pytest.mark.parametrize("capture", ["automatic", "manual"])
def test_a_success_after_cancel_is_refunded_by_itself(
    real_db: Database, fake: FakeProvider, provider: payments.HttpProvider, capture: str
) -> None:
    """Taken without a word before the cancel, or let go and taken all the same."""
    with worker(real_db, provider), Endpoint(real_db, provider) as endpoint:
        fake.tell("" if capture == "automatic" else endpoint.url)  # A callback would end the silence.
        fake.switch(**({"unknown": 1.0} if capture == "automatic" else {"late": 1.0}), late_ms=10)
        real_db.run(pay, capture=capture)
        until(lambda: state(real_db) in {"unknown", "authorised"}, "the first call")
        real_db.run(payments.cancel, "pay_1")
        assert pending_in(real_db) == 0
        if capture == "automatic":
            fake.switch()
        until(lambda: not fake.waiting() and settled(real_db), "the provider")
        until(lambda: real_db.run(payments.intent_of, "pay_1").late == eur(PRICE), "the late success")
        until(lambda: real_db.run(payments.refund_of, "pay_1.late").state == "succeeded", "the automatic refund")
    report = audited(real_db, provider)
    assert report.passed, report
    assert (report.late, report.late_minor, fake.totals()) == (1, {"EUR": PRICE}, {"EUR": 0})
    assert (posted(real_db), posted(real_db, UNCLAIMED), posted(real_db, CLEARING)) == (0, 0, 0)


def test_a_success_after_cancel_is_found_though_every_callback_is_lost(
    real_db: Database, fake: FakeProvider, provider: payments.HttpProvider
) -> None:
    with worker(real_db, provider):  # Nobody listens to callbacks.
        fake.switch(late=1.0, late_ms=10)
        real_db.run(pay, capture="manual")
        until(lambda: state(real_db) == "authorised", "the first call")
        real_db.run(payments.cancel, "pay_1")
        until(lambda: not fake.waiting() and settled(real_db) and fake.totals() == {"EUR": PRICE}, "the late success")
        assert real_db.run(payments.intent_of, "pay_1").late == eur(0)
        age(real_db, LOOK_BACK_MS[0])
        until(lambda: real_db.run(payments.intent_of, "pay_1").late == eur(PRICE), "the look back")
        until(lambda: real_db.run(payments.refund_of, "pay_1.late").state == "succeeded", "the automatic refund")
    report = audited(real_db, provider)
    assert (report.passed, report.late, fake.totals()) == (True, 1, {"EUR": 0}), report


def test_disputes_arrive_by_callback(real_db: Database, fake: FakeProvider, provider: payments.HttpProvider) -> None:
    with worker(real_db, provider), Endpoint(real_db, provider) as endpoint:
        fake.tell(endpoint.url)
        fake.switch(duplicate=1.0)
        real_db.run(pay)
        until(lambda: state(real_db) == "captured", "the money")
        fake.dispute("pay_1", PRICE)
        until(lambda: state(real_db) == "disputed", "the dispute")
        assert audited(real_db, provider).theirs == {"EUR": 0}
        fake.dispute("pay_1", PRICE, end="won")
        until(lambda: state(real_db) == "captured", "the end of the dispute")
        until(lambda: not fake.waiting(), "the duplicates")
    assert endpoint.received.count(True) >= 3
    assert endpoint.received.count(False) >= 3
    assert audited(real_db, provider).passed


def test_what_was_authorised_is_let_go_when_its_time_is_over(real_db: Database, provider: payments.HttpProvider) -> None:
    with worker(real_db, provider):
        real_db.run(pay, capture="manual", keep_ms=700)
        until(lambda: state(real_db) == "canceled" and settled(real_db), "the end")
    charge = provider.query("pay_1", timeout_s=5)
    assert charge is not None
    assert charge.state == "canceled"


def test_nobody_listens(real_db: Database) -> None:
    away = payments.HttpProvider("http://127.0.0.1:9", token="t", callback_secret=b"x" * 16)
    with worker(real_db, away):
        real_db.run(pay)
        until(lambda: state(real_db) == "unknown", "the silence")
        real_db.run(payments.cancel, "pay_1")
    assert (state(real_db), pending_in(real_db)) == ("canceled", 0)


def test_a_dispute_long_after_outlives_a_provider_that_is_silent(real_db: Database) -> None:
    away = payments.HttpProvider("http://127.0.0.1:9", token="t", callback_secret=b"x" * 32)
    real_db.run(pay)
    real_db.run(observe, charge("captured"))
    disputed = charge("captured", dispute=payments.DisputeRecord(PRICE, "open"))
    with worker(real_db, away):
        until(lambda: not settles(real_db), "the first job, which has nothing to ask any more")
        age(real_db, 90 * 86_400_000)
        assert real_db.run(payments.receive, "fake", payments.Callback("evt_1", disputed))
        until(lambda: real_db.run(payments.intent_of, "pay_1").asks, "the silence")
        until(lambda: real_db.run(jobs.list_jobs, state="scheduled").items, "another try")
    assert real_db.run(jobs.list_jobs, state="dead").items == []


@pytest.mark.slow
def test_all_faults_at_once_lose_and_double_nothing(real_db: Database, fake: FakeProvider, provider: payments.HttpProvider) -> None:
    """Three hundred payments, some of them two tries for one order; some are canceled, some go back in part."""
    dice = random.Random(7)
    count = 300
    with worker(real_db, provider, concurrency=32), Endpoint(real_db, provider) as endpoint:
        fake.tell(endpoint.url)
        fake.switch(decline=0.1, slow=0.2, timeout=0.08, unknown=0.15, duplicate=0.4, reorder=0.5, late=0.8, slow_ms=50)
        for n in range(count):
            capture = "manual" if n % 3 == 0 else "automatic"
            real_db.run(pay, f"pay_{n:04d}", capture=capture, reference=f"order/{n // 2}", minor=100 + n)
            if dice.random() < 0.2:
                real_db.run(quietly, payments.cancel, f"pay_{n:04d}")
        until(lambda: move_on(real_db, dice), "most of them", seconds=60)
        fake.switch(duplicate=0.4, reorder=0.5)
        until(
            # Looked at twice: a callback that is no longer on its way may have put a job by now.
            lambda: move_on(real_db, dice) and at_rest(real_db) and not fake.waiting() and at_rest(real_db),
            "all of them", seconds=60,
        )  # fmt: skip
    report = audited(real_db, provider)
    assert report.passed, report
    assert report.intents == count
    assert report.late > 0
    assert report.theirs == fake.totals()
    assert endpoint.received.count(False) > 0
    seen = {one.state for one in real_db.run(payments.list_intents, limit=1_000).items}
    assert {"captured", "canceled", "failed"} <= seen


def quietly(tx: Tx, fn: Any, *args: Any, **kwargs: Any) -> None:
    try:
        with tx.savepoint():
            fn(tx, *args, **kwargs)
    except OnefoldError:
        pass


def move_on(db: Database, dice: random.Random) -> bool:
    """Capture, cancel or refund what waits for somebody; True when nothing does."""
    found = db.run(payments.list_intents, limit=1_000).items
    for one in found:
        if one.state == "authorised":
            db.run(quietly, payments.cancel if dice.random() < 0.3 else payments.capture, one.id)
        elif one.state == "captured" and int(one.id[-4:]) % 5 == 0 and not db.run(payments.list_refunds, one.id):
            db.run(quietly, payments.refund, f"re_{one.id}", one.id, amount=eur(1 + one.captured.minor // 2))
    return not {"authorised", "processing"} & {one.state for one in found}


def at_rest(db: Database) -> bool:
    """Nothing is to be done before the looks back, an hour and a day later; a refund whose answer is missing is."""
    waiting = (row for row in db.run(jobs.stats) if row.state != "scheduled" or row.kind == "payments.refund")
    return not any(row.count for row in waiting) and not any(
        one.asked or one.refunding.minor for one in db.run(payments.list_intents, limit=1_000).items
    )


def test_the_audit_finds_what_it_is_for(real_db: Database, fake: FakeProvider, provider: payments.HttpProvider) -> None:
    """A charge behind our back, one without its order, one paid twice, a refund and a cent that nobody knows of."""
    def forget(tx: Tx, intent: payments.Intent) -> None:
        if intent.id not in {"pay_1", "pay_2"}:
            ship(tx, intent)

    with worker(real_db, provider, on_paid=forget):
        real_db.run(pay)
        real_db.run(pay, "pay_2")
        real_db.run(pay, "pay_3", reference="order/3")
        until(lambda: all(state(real_db, f"pay_{n}") == "captured" for n in (1, 2, 3)), "the money")
    provider.authorise("stray", eur(7), method="m", capture=True, reference="", timeout_s=5)
    provider.refund("pay_3", "re_stray", eur(3), timeout_s=5)
    real_db.run(lambda tx: ledger.transfer(tx, "leak", debit="box-office", credit=CLEARING, amount=eur(1)))
    report = audited(real_db, provider)
    assert not report.passed
    assert (report.doubled, report.without_order) == (["order/1"], ["pay_1", "pay_2"])
    assert {(fault.intent, fault.what, fault.theirs, fault.ours) for fault in report.faults} == {
        ("stray", "unasked", 7, 0), ("pay_3", "refund", 3, 0),
    }  # fmt: skip
    assert (report.theirs, report.ours, report.owed) == (
        {"EUR": 3 * PRICE + 4}, {"EUR": 3 * PRICE}, {"EUR": 3 * PRICE - 1},
    )  # fmt: skip


def test_a_worker_without_the_provider_says_so_and_loses_nothing(real_db: Database, provider: payments.HttpProvider) -> None:
    handlers = payments.handlers({}, on_paid=ship)
    with jobs.Worker(real_db, io=handlers, poll_ms=20):
        real_db.run(pay)
        until(lambda: real_db.run(jobs.list_jobs, state="scheduled").items, "the failure")
    job = real_db.run(jobs.list_jobs, state="scheduled").items[0]
    assert "no provider of this name" in str(job.error)
    assert pending_in(real_db) == PRICE


def test_the_way_out_is_bounded(fake: FakeProvider, provider: payments.HttpProvider) -> None:
    fake.switch(slow=1.0, slow_ms=2_000)
    with pytest.raises(payments.NoAnswer):
        provider.authorise("k", eur(1), method="m", capture=True, reference="", timeout_s=0.05)
    fake.switch()
    with pytest.raises(Conflict) as caught:
        provider.capture("nobody", eur(1), timeout_s=5)
    assert caught.value.code == "provider_refused"
    with pytest.raises(onefold.Invalid):
        payments.HttpProvider("ftp://provider", token="t", callback_secret=b"x" * 16)


@pytest.mark.parametrize("trickles", ["head", "body"])
def test_an_answer_that_trickles_has_no_more_time_than_another(trickles: str) -> None:
    """Each byte comes soon after the one before, and the end never."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n"

    def answer(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65_536)
            connection.sendall(head[:8] if trickles == "head" else head)
            for _ in range(200):
                let_pass(30)
                try:
                    connection.sendall(b"7")
                except OSError:
                    return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer, args=(listener,))
        thread.start()
        base = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(payments.NoAnswer):
            began = time.monotonic()
            payments.HttpProvider(base, token="t", callback_secret=b"x" * 16).query("k", timeout_s=0.2)
        took_s = time.monotonic() - began
        thread.join()
    assert took_s < 3, took_s


def test_a_refused_create_asks_nobody(real_db: Database, provider: payments.HttpProvider) -> None:
    before = written(real_db)
    with pytest.raises(onefold.Invalid):
        real_db.run(create, minor=-1)
    assert written(real_db) == before
    assert provider.charges(after=None, timeout_s=5) == []
