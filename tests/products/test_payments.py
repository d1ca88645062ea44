"""Payments on both engines: each transition does what belongs to it, and refuses what its state does not allow."""

from __future__ import annotations

from typing import Any

import pytest
from payments_till import (
    CLEARING,
    DISPUTED,
    KEEP_MS,
    PAYEE,
    PRICE,
    UNCLAIMED,
    age,
    charge,
    create,
    eur,
    observe,
    open_till,
    pay,
    pending_in,
    posted,
    settles,
    ship,
    written,
)

from onefold import (
    Conflict,
    Database,
    Denied,
    Invalid,
    NotFound,
    OnefoldError,
    Retry,
    Tx,
    events,
    jobs,
    ledger,
    payments,
)
from onefold.products.payments import DisputeRecord, Intent, PaymentMoved, RefundRecord, signature
from onefold.products.payments.callbacks import KEEP_MS as CALLBACK_KEEP_MS
from onefold.products.payments.callbacks import sweep
from onefold.products.payments.settling import next_step, unanswered


@pytest.fixture(autouse=True)
def till(db: Database) -> None:
    db.run(open_till)


def captured(tx: Tx) -> Intent:
    pay(tx)
    return observe(tx, charge("captured"))


def authorised(tx: Tx) -> Intent:
    pay(tx, capture="manual")
    return observe(tx, charge("authorised"))


def refunding(tx: Tx, minor: int = 1_500, id: str = "re_1") -> None:
    payments.refund(tx, id, "pay_1", amount=eur(minor))


def returned(*refunds: tuple[str, int, Any], **fields: Any) -> payments.Charge:
    return charge("captured", refunds=tuple(RefundRecord(*one) for one in refunds), **fields)


def states(db: Database, id: str = "pay_1") -> list[str]:
    found = [event for event in db.run(events.read_stream, f"payment/{id}").items if event.kind == "payment.moved"]
    return [event.open(PaymentMoved).state for event in found]


def test_a_payment_moves_its_money_and_writes_its_order_in_one_transaction(db: Database) -> None:
    assert db.run(pay).state == "processing"
    assert (posted(db), pending_in(db), settles(db)) == (0, PRICE, ["payments.settle"])
    paid = db.run(observe, charge("captured"))
    assert (paid.state, paid.captured, paid.asked) == ("captured", eur(PRICE), None)
    assert (posted(db), pending_in(db), posted(db, CLEARING)) == (PRICE, 0, -PRICE)
    assert db.run(lambda tx: tx.total("order/1")) == 1
    assert states(db) == ["processing", "captured"]
    assert db.run(payments.intent_of, "pay_1") == paid


def test_a_provider_that_only_authorises_is_asked_to_capture(db: Database) -> None:
    db.run(pay)
    seen = db.run(observe, charge("authorised"))
    assert (seen.state, seen.asked, len(settles(db))) == ("processing", "capture", 2)
    assert db.run(observe, charge("captured")).state == "captured"


def test_part_of_what_was_authorised_is_captured_and_the_rest_is_free(db: Database) -> None:
    assert db.run(authorised).state == "authorised"
    asked = db.run(payments.capture, "pay_1", amount=eur(2_000))
    assert (asked.state, asked.asked, asked.to_capture) == ("processing", "capture", eur(2_000))
    assert pending_in(db) == PRICE
    assert db.run(observe, charge("captured", taken=2_000)).captured == eur(2_000)
    assert (posted(db), pending_in(db)) == (2_000, 0)


@pytest.mark.parametrize("state", ["canceled", "declined"])
def test_what_the_provider_ends_is_released(db: Database, state: str) -> None:
    db.run(pay)
    ended = db.run(observe, charge(state))
    assert (ended.state, ended.asked) == ("failed" if state == "declined" else "canceled", None)
    assert (posted(db), pending_in(db)) == (0, 0)


ENDED: dict[str, Any] = {
    "requires_payment": create,
    "authorised": authorised,
    "captured": captured,
    "canceled": lambda tx: (create(tx), payments.cancel(tx, "pay_1")),
    "failed": lambda tx: (pay(tx), observe(tx, charge("declined"))),
    "refunded": lambda tx: (captured(tx), refunding(tx, PRICE), observe(tx, returned(("re_1", PRICE, "succeeded")))),
    "disputed": lambda tx: (captured(tx), observe(tx, charge("captured", dispute=DisputeRecord(PRICE, "open")))),
    "processing": pay,
    "unknown": lambda tx: (pay(tx), unanswered(tx, "pay_1")),
}
MOVES: dict[str, Any] = {
    "authorise": lambda tx: payments.authorise(tx, "pay_1", method="tok_visa"),
    "capture": lambda tx: payments.capture(tx, "pay_1", amount=eur(PRICE - 1)),
    "cancel": lambda tx: payments.cancel(tx, "pay_1"),
    "refund": lambda tx: refunding(tx, id="re_9"),
}
ALLOWED = {
    "authorise": {"requires_payment"}, "capture": {"authorised"}, "refund": {"captured"},
    "cancel": {"requires_payment", "processing", "unknown", "authorised"},
}  # fmt: skip
REPEATED = {("authorise", state) for state in ENDED} | {("cancel", "canceled")}


@pytest.mark.parametrize("state", ENDED)
@pytest.mark.parametrize("move", MOVES)
def test_a_state_allows_what_it_allows_and_a_refusal_writes_nothing(db: Database, state: str, move: str) -> None:
    db.run(ENDED[state])
    assert db.run(payments.intent_of, "pay_1").state == state
    before = written(db)
    if state in ALLOWED[move]:
        db.run(MOVES[move])
        assert written(db) != before
        return
    try:
        db.run(MOVES[move])
    except Conflict as error:
        assert error.code in {"intent_state", "intent_mismatch"}
    else:
        assert (move, state) in REPEATED
    assert written(db) == before


def test_repetitions_answer_what_was_made_before(db: Database) -> None:
    first = db.run(create)
    assert db.run(create) == first
    asked = db.run(pay, capture="automatic")
    assert db.run(pay) == asked
    db.run(observe, charge("captured"))
    once = db.run(payments.refund, "re_1", "pay_1", amount=eur(500))
    before = written(db)
    assert db.run(payments.refund, "re_1", "pay_1", amount=eur(500)) == once
    assert db.run(payments.authorise, "pay_1", method="tok_visa").state == "captured"
    assert written(db) == before


def test_an_id_with_other_fields_is_refused(db: Database) -> None:
    db.run(captured)
    db.run(refunding)
    before = written(db)
    for call, code in (
        (lambda tx: create(tx, minor=1), "intent_mismatch"),
        (lambda tx: payments.authorise(tx, "pay_1", method="tok_other"), "intent_mismatch"),
        (lambda tx: payments.capture(tx, "pay_1", amount=eur(1)), "intent_mismatch"),
        (lambda tx: refunding(tx, 2), "refund_mismatch"),
    ):
        with pytest.raises(Conflict) as caught:
            db.run(call)
        assert caught.value.code == code
    assert written(db) == before


def test_refunds_go_back_in_parts_and_never_more_than_was_taken(db: Database) -> None:
    db.run(captured)
    db.run(refunding)
    with pytest.raises(Conflict) as caught:
        db.run(refunding, PRICE - 1_499, "re_2")
    assert (caught.value.code, caught.value.facts["left"]) == ("refund_exceeds", PRICE - 1_500)
    seen = db.run(observe, returned(("re_1", 1_500, "succeeded")))
    assert (seen.state, seen.refunded, seen.refunding) == ("partially_refunded", eur(1_500), eur(0))
    assert (posted(db), posted(db, CLEARING)) == (PRICE - 1_500, 1_500 - PRICE)
    db.run(refunding, PRICE - 1_500, "re_2")
    done = returned(("re_1", 1_500, "succeeded"), ("re_2", PRICE - 1_500, "succeeded"))
    assert db.run(observe, done).state == "refunded"
    assert (posted(db), posted(db, CLEARING)) == (0, 0)
    assert [one.state for one in db.run(payments.list_refunds, "pay_1")] == ["succeeded", "succeeded"]


def test_an_id_is_an_intents_or_a_refunds(db: Database) -> None:
    """To the provider, and to the ledger, they are keys of one kind."""
    db.run(captured)
    db.run(create, "pay_2", reference="order/2")
    db.run(refunding, 1_500, "pay_2")
    before = written(db)
    for call, code in (
        (lambda tx: refunding(tx, 100, "pay_1"), "refund_mismatch"),
        (lambda tx: payments.authorise(tx, "pay_2", method="tok_visa"), "intent_mismatch"),
    ):
        with pytest.raises(Conflict) as caught:
            db.run(call)
        assert caught.value.code == code
    assert written(db) == before


def test_a_refund_that_fails_is_the_payees_again(db: Database) -> None:
    db.run(captured)
    db.run(refunding)
    assert db.run(observe, returned(("re_1", 1_500, "pending"))).refunding == eur(1_500)
    seen = db.run(observe, returned(("re_1", 1_500, "failed")))
    assert (seen.state, seen.refunded, seen.refunding) == ("captured", eur(0), eur(0))
    assert (posted(db), db.run(payments.refund_of, "re_1").state) == (PRICE, "failed")


def test_a_payee_cannot_refund_what_it_has_spent(db: Database) -> None:
    space = db.at("limited")
    space.run(open_till, kind="limited")
    space.run(captured)
    space.run(lambda tx: ledger.transfer(tx, "rent", debit=PAYEE, credit=UNCLAIMED, amount=eur(PRICE - 100)))
    with pytest.raises(Conflict) as caught:
        space.run(refunding, 101)
    assert caught.value.code == "insufficient_funds"
    with pytest.raises(NotFound):
        space.run(payments.refund_of, "re_1")


@pytest.mark.parametrize("end", ["won", "lost"])
@pytest.mark.parametrize("announced", [True, False])
def test_a_dispute_takes_the_money_back_until_it_is_won(db: Database, end: Any, announced: bool) -> None:
    db.run(captured)
    if announced:
        assert db.run(observe, charge("captured", dispute=DisputeRecord(PRICE, "open"))).state == "disputed"
        assert (posted(db), posted(db, DISPUTED), posted(db, CLEARING)) == (PRICE, -PRICE, 0)
    over = charge("captured", dispute=DisputeRecord(PRICE, end))
    seen = db.run(observe, over)
    assert (seen.state, seen.dispute) == ("captured" if end == "won" else "disputed", end)
    rest = PRICE if end == "won" else 0
    assert (posted(db), posted(db, DISPUTED), posted(db, CLEARING)) == (rest, 0, -rest)
    before = written(db)
    db.run(observe, charge("captured", dispute=DisputeRecord(PRICE, "open")))
    db.run(observe, over)
    assert written(db) == before


@pytest.mark.parametrize("state", ["canceled", "failed", "requires_payment", "lapsed"])
def test_a_late_success_goes_back_by_itself(db: Database, state: str) -> None:
    """Canceled, declined, never asked for, or past its time: the money belongs to nobody here."""
    db.run(create if state == "requires_payment" else pay)
    if state == "lapsed":
        age(db, KEEP_MS)
    elif state == "canceled":
        db.run(payments.cancel, "pay_1", reason="changed their mind")
    elif state == "failed":
        db.run(observe, charge("declined"))
    seen = db.run(observe, charge("captured"))
    assert (seen.state, seen.late, seen.captured) == ("failed" if state == "failed" else "canceled", eur(PRICE), eur(0))
    assert (posted(db), posted(db, UNCLAIMED), posted(db, CLEARING)) == (0, PRICE, -PRICE)
    refund = db.run(payments.refund_of, "pay_1.late")
    assert (refund.automatic, refund.state, refund.amount) == (True, "pending", eur(PRICE))
    db.run(observe, charge("captured"))
    db.run(observe, returned(("pay_1.late", PRICE, "succeeded")))
    assert (posted(db), posted(db, UNCLAIMED), posted(db, CLEARING)) == (0, 0, 0)
    assert db.run(lambda tx: tx.total("order/1")) == 0


def test_the_last_millisecond_counts(db: Database) -> None:
    def at_the_edge(tx: Tx, left: int) -> Intent:
        pay(tx, f"pay_{left}", reference=f"order/{left}")
        for table in ("payment_intents", "ledger_pendings"):
            tx.run(
                f"UPDATE onefold.{table} SET expires_at_ms = :now_ms + :left WHERE space = :space AND id IN (:a, :b)",  # noqa: S608
                left=left, a=f"pay_{left}", b=f"pay_{left}/pending",
            )  # fmt: skip
        return observe(tx, charge("captured", f"pay_{left}"))

    assert (db.run(at_the_edge, 1).state, db.run(at_the_edge, 0).state) == ("captured", "canceled")


def test_silence_is_unknown_and_keeps_what_it_reserved_until_its_time_is_over(db: Database) -> None:
    db.run(pay)
    after_ms = db.run(unanswered, "pay_1")
    assert after_ms is not None
    assert 500 <= after_ms <= 1_000
    assert (db.run(payments.intent_of, "pay_1").state, pending_in(db)) == ("unknown", PRICE)
    step = db.run(next_step, "pay_1")
    assert step is not None
    assert (step.intent.asked, step.asked_before) == ("authorise", True)
    age(db, KEEP_MS)
    step = db.run(next_step, "pay_1")
    assert step is not None
    assert (step.intent.state, step.intent.asked, step.intent.reason) == ("canceled", "cancel", "lapsed")
    assert pending_in(db) == 0
    age(db, 30 * 86_400_000)
    assert db.run(unanswered, "pay_1") is None, "asking ends"


def test_what_was_authorised_and_never_captured_is_let_go(db: Database) -> None:
    db.run(authorised)
    assert settles(db).count("payments.settle") == 2, "one comes back at the end"
    age(db, KEEP_MS)
    with pytest.raises(Conflict) as caught:
        db.run(payments.capture, "pay_1")
    assert caught.value.code == "intent_lapsed"
    step = db.run(next_step, "pay_1")
    assert step is not None
    assert step.intent.asked == "cancel"


def test_a_job_that_comes_early_comes_again(db: Database) -> None:
    """Whoever moved it on had another clock than who runs it."""
    intent = db.run(authorised)
    waiting = db.run(jobs.list_jobs, state="scheduled").items
    assert [job.at_ms for job in waiting] == [intent.expires_at_ms]
    db.run(jobs.cancel, waiting[0].id)  # It runs, and ends.
    assert db.run(next_step, "pay_1") is None
    assert [job.at_ms for job in db.run(jobs.list_jobs, state="scheduled").items] == [intent.expires_at_ms]


def test_an_authorisation_for_what_was_canceled_is_let_go(db: Database) -> None:
    db.run(pay)
    assert db.run(payments.cancel, "pay_1").asked == "cancel"
    assert db.run(observe, charge("canceled")).asked is None
    before = len(settles(db))
    again = db.run(observe, charge("authorised"))
    assert (again.state, again.asked, len(settles(db))) == ("canceled", "cancel", before + 1)


def test_old_and_repeated_answers_move_nothing(db: Database) -> None:
    db.run(captured)
    db.run(refunding)
    done = returned(("re_1", 1_500, "succeeded"))
    db.run(observe, done)
    before = written(db)
    for old in (charge("authorised"), charge("captured"), charge("canceled"), charge("declined"), done):
        db.run(observe, old)
    assert written(db) == before


def test_an_order_that_cannot_be_written_gives_the_money_back(db: Database) -> None:
    db.run(pay)
    db.run(lambda tx: tx.add("order/1", 1))  # Somebody else was quicker.
    seen = db.run(observe, charge("captured"))
    assert (seen.state, seen.late, seen.reason) == ("canceled", eur(PRICE), "refused: sold")
    assert (posted(db), pending_in(db), posted(db, UNCLAIMED)) == (0, 0, PRICE)


@pytest.mark.parametrize("error", [RuntimeError("a bug"), Retry("Later.")])
def test_any_other_error_of_the_order_leaves_everything_as_it_was(db: Database, error: Exception) -> None:
    db.run(pay)
    before = written(db)

    def torn(tx: Tx, intent: Intent) -> None:
        ship(tx, intent)
        raise error

    with pytest.raises(type(error)):
        db.options(deadline_ms=2_000).run(payments.observe, "fake", charge("captured"), on_paid=torn)
    assert written(db) == before


def test_a_charge_that_does_not_fit_is_refused(db: Database) -> None:
    db.run(captured)
    db.run(refunding)
    before = written(db)
    usd = payments.Charge("pay_1", "captured", "USD", PRICE, PRICE)
    for seen in (usd, charge("captured", minor=PRICE + 1), returned(("re_1", 1_499, "succeeded"))):
        with pytest.raises(Conflict) as caught:
            db.run(observe, seen)
        assert caught.value.code == "charge_mismatch"
    with pytest.raises(Conflict):
        db.run(payments.observe, "other", charge("captured"))
    with pytest.raises(NotFound):
        db.run(observe, charge("captured", "pay_2"))
    assert written(db) == before


BAD: dict[str, Any] = {
    "id": lambda tx: create(tx, "a b"), "long id": lambda tx: create(tx, "x" * 101), "amount": lambda tx: create(tx, minor=0),
    "much": lambda tx: create(tx, minor=10**12 + 1), "keep": lambda tx: create(tx, keep_ms=0),
    "long keep": lambda tx: create(tx, keep_ms=31 * 86_400_000 + 1), "reference": lambda tx: create(tx, reference="x" * 201),
    "line": lambda tx: create(tx, reference="a\nb"), "capture": lambda tx: create(tx, capture="never"),
    "method": lambda tx: payments.authorise(tx, "pay_1", method=""), "reason": lambda tx: payments.cancel(tx, "pay_1", reason="x" * 201),
    "more": lambda tx: payments.capture(tx, "pay_1", amount=eur(PRICE + 1)), "late": lambda tx: refunding(tx, 1, "x.late"),
    "late intent": lambda tx: create(tx, "pay_1.late"),
    "provider": lambda tx: payments.open_accounts(tx, "Fake Pay", currency="EUR"), "cursor": lambda tx: payments.list_intents(tx, after="a b"),
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD)
def test_bad_input_writes_nothing(db: Database, bad: str) -> None:
    db.run(authorised)
    before = written(db)
    with pytest.raises(Invalid):
        db.run(BAD[bad])
    assert written(db) == before


def test_intents_are_listed_page_by_page(db: Database) -> None:
    for n in range(5):
        db.run(pay, f"pay_{n}")
    first = db.run(payments.list_intents, limit=3)
    rest = db.run(payments.list_intents, after=first.after, limit=3)
    assert [one.id for one in first.items + rest.items] == [f"pay_{n}" for n in range(5)]
    with pytest.raises(NotFound):
        db.run(payments.intent_of, "pay_9")


def test_a_callback_makes_us_ask_once_and_only_when_it_may_be_news(db: Database) -> None:
    db.run(captured)
    jobs_before = len(settles(db))
    assert db.run(payments.receive, "fake", payments.Callback("evt_1", charge("captured")))
    assert len(settles(db)) == jobs_before, "it told what we knew"
    news = payments.Callback("evt_2", charge("captured", dispute=DisputeRecord(100, "open")))
    assert db.run(payments.receive, "fake", news)
    assert not db.run(payments.receive, "fake", news)
    assert len(settles(db)) == jobs_before + 1
    with pytest.raises(NotFound):
        db.run(payments.receive, "fake", payments.Callback("evt_3", charge("captured", "pay_9")))
    assert db.run(payments.receive, "fake", payments.Callback("evt_3", charge("captured"))), "a refusal forgets"


def test_callbacks_are_forgotten_in_time(db: Database) -> None:
    db.run(captured)
    db.run(payments.receive, "fake", payments.Callback("evt_1", charge("captured")))
    assert not db.run(sweep)
    assert not db.run(payments.receive, "fake", payments.Callback("evt_1", charge("captured")))
    db.run(lambda tx: tx.run("UPDATE onefold.payment_callbacks SET expires_at_ms = expires_at_ms - :ms WHERE space = :space", ms=CALLBACK_KEEP_MS))
    assert not db.run(sweep)
    assert db.run(payments.receive, "fake", payments.Callback("evt_1", charge("captured")))


def test_only_the_provider_signs(db: Database) -> None:
    provider = payments.HttpProvider("http://127.0.0.1:1", token="t", callback_secret=b"x" * 16)
    body = b'{"key":"pay_1","state":"captured","currency":"EUR","amount_minor":1}'
    def headers(secret: bytes, stamp: str = "1700000000") -> dict[str, str]:
        return {"webhook-id": "evt", "webhook-timestamp": stamp, "webhook-signature": "v1,x " + signature(secret, "evt", stamp, body)}

    now_ms = 1_700_000_000_000
    read = provider.callback(headers(b"x" * 16), body, now_ms=now_ms)
    assert (read.event_id, read.charge.key) == ("evt", "pay_1")
    for shown, sent, at_ms in (
        (headers(b"y" * 16), body, now_ms), (headers(b"x" * 16), body + b" ", now_ms), ({}, body, now_ms),
        (headers(b"x" * 16), body, now_ms + 300_001), (headers(b"x" * 16, "soon"), body, now_ms),
    ):  # fmt: skip
        with pytest.raises(Denied):
            provider.callback(shown, sent, now_ms=at_ms)


def test_a_refusal_is_one_of_ours(db: Database) -> None:
    with pytest.raises(OnefoldError) as caught:
        db.at("elsewhere").run(pay)
    assert caught.value.code == "account", "the accounts were not opened there"
