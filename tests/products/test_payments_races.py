"""Payments when calls meet: the intent's row decides, at both isolation levels."""

from __future__ import annotations

from typing import Any

import pytest
from payments_till import CLEARING, PRICE, UNCLAIMED, charge, create, eur, observe, open_till, pay, posted, settles
from racing import at_once

import onefold
from onefold import Database, Handle, OnefoldError, payments
from onefold.products.payments import Intent


@pytest.fixture(params=["serializable", "read_committed"])
def racers(request: pytest.FixtureRequest, db_url: str) -> Any:
    with onefold.connect(db_url) as database:
        database.run(open_till)
        yield database.options(isolation=request.param)


def codes(results: list[object]) -> list[str]:
    return sorted(result.code for result in results if isinstance(result, OnefoldError))


def test_answers_that_meet_are_applied_once(racers: Handle) -> None:
    """The worker's answer, a query's and a callback's, all at the same time."""
    for n in range(10):
        id = f"pay_{n}"
        racers.run(pay, id, reference=f"order/{n}")
        results = at_once(*[lambda key=id: racers.run(observe, charge("captured", key))] * 4)
        assert all(isinstance(result, Intent) and result.state == "captured" for result in results), results
        assert racers.run(lambda tx, n=n: tx.total(f"order/{n}")) == 1
    assert (posted(racers), posted(racers, CLEARING)) == (10 * PRICE, -10 * PRICE)


def test_refunds_at_once_never_pass_what_was_taken(racers: Handle) -> None:
    racers.run(pay)
    racers.run(observe, charge("captured"))
    third = eur(PRICE // 3)
    results = at_once(*[lambda n=n: racers.run(payments.refund, f"re_{n}", "pay_1", amount=third) for n in range(6)])
    assert codes(results) == ["refund_exceeds"] * 3
    assert racers.run(payments.intent_of, "pay_1").refunding == eur(PRICE)


def test_a_cancel_that_meets_the_money_leaves_it_with_one_of_them(racers: Handle) -> None:
    for n in range(10):
        id = f"pay_{n}"
        racers.run(pay, id, reference=f"order/{n}")
        results = at_once(
            lambda key=id: racers.run(payments.cancel, key), lambda key=id: racers.run(observe, charge("captured", key))
        )
        intent = racers.run(payments.intent_of, id)
        assert codes(results) == (["intent_state"] if intent.state == "captured" else [])
        assert (intent.captured.minor, intent.late.minor) == ((PRICE, 0) if intent.state == "captured" else (0, PRICE))
    assert posted(racers) + posted(racers, UNCLAIMED) == 10 * PRICE


def test_one_id_is_made_and_asked_for_once(racers: Handle) -> None:
    results = at_once(*[lambda: racers.run(pay)] * 4)
    assert all(isinstance(result, Intent) for result in results), results
    assert settles(racers) == ["payments.settle"]


def test_an_id_that_two_want_for_different_things_goes_to_one(racers: Handle) -> None:
    results = at_once(*[lambda n=n: racers.run(create, minor=n) for n in (1, 2)])
    assert codes(results) == ["intent_mismatch"]


def test_a_callback_that_comes_twice_at_once_counts_once(racers: Handle, db_url: str) -> None:
    racers.run(pay)
    callback = payments.Callback("evt_1", charge("captured"))
    with onefold.connect(db_url) as other:
        calls = [lambda db=db: db.run(payments.receive, "fake", callback) for db in (racers, racers, other)]
        assert sorted(map(str, at_once(*calls))) == ["False", "False", "True"]
        assert isinstance(other, Database)
