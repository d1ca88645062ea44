"""Idempotency on both engines; what needs two connections stands in test_idempotency_races.py."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onefold import Conflict, Database, Doomed, Handle, Invalid, Tx, idempotency
from onefold.messaging.idempotency.ops import SWEEP_ROWS
from onefold.messaging.idempotency.records import TTL_MS_MAX

SCOPE = "POST /orders ana"
DAY = 86_400_000


class Order(msgspec.Struct, frozen=True, tag="order"):
    id: str
    seats: int


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    code: str


def age(db: Handle, ms: int) -> None:
    """Let `ms` pass for the keys of this space; the same on both engines, whoever has the clock."""
    db.run(
        lambda tx: tx.run(
            "UPDATE onefold.idempotency_keys SET expires_at_ms = expires_at_ms - :ms WHERE space = :space", ms=ms
        )
    )


def order(tx: Tx, key: str = "k1", seats: int = 2, *, scope: str = SCOPE, **options: Any) -> idempotency.Answer[Order]:
    """The function under test as a user writes it: its effect is one added to a counter."""

    def do() -> Order:
        tx.add("orders", 1)
        return Order(f"order {tx.total('orders')}", seats)

    return idempotency.once(tx, key, do, scope=scope, request={"seats": seats}, kind=Order, **options)


def orders(db: Handle) -> int:
    return db.run(lambda tx: tx.total("orders"))


def keys(db: Handle) -> int:
    return db.run(lambda tx: tx.one("SELECT count(*) FROM onefold.idempotency_keys WHERE space = :space"))[0]


def test_once_does_it_and_then_answers_alike(db: Database) -> None:
    first = db.run(order)
    assert (first.value, first.replayed) == (Order("order 1", 2), False)
    for _ in range(3):
        again = db.run(order)
        assert (again.value, again.replayed, again.at_ms) == (first.value, True, first.at_ms)
    assert orders(db) == 1


def test_another_request_under_the_same_key_is_refused(db: Database) -> None:
    db.run(order, seats=2)
    with pytest.raises(Invalid) as refused:
        db.run(order, seats=3)
    assert refused.value.code == "idempotency_mismatch"
    assert orders(db) == 1
    assert db.run(order, seats=2).replayed


def test_keys_of_different_scopes_and_spaces_do_not_meet(db: Database) -> None:
    assert not db.run(order, scope="POST /orders ana").replayed
    assert not db.run(order, scope="POST /orders bob").replayed
    assert not db.run(order, "b/c", scope="a").replayed
    assert not db.run(order, "c", scope="a/b").replayed
    assert not db.at("tenant").run(order).replayed
    assert (orders(db), orders(db.at("tenant"))) == (4, 1)


def test_an_error_undoes_all_with_the_key_and_the_retry_runs_afresh(db: Database) -> None:
    def fails(tx: Tx) -> None:
        def do() -> Order:
            tx.add("orders", 1)
            raise Conflict("Sold out.", code="sold_out")

        idempotency.once(tx, "k1", do, scope=SCOPE, request={"seats": 2}, kind=Order)

    with pytest.raises(Conflict, match="Sold out"):
        db.run(fails)
    assert (orders(db), keys(db)) == (0, 0)
    assert not db.run(order).replayed


def test_a_swallowed_error_cannot_commit_the_key_alone(db: Database) -> None:
    def swallows(tx: Tx) -> str:
        def do() -> Order:
            raise ZeroDivisionError

        try:
            idempotency.once(tx, "k1", do, scope=SCOPE, request={}, kind=Order)
        except ZeroDivisionError:
            return "fine"
        return "not reached"

    with pytest.raises(Doomed):
        db.run(swallows)
    assert keys(db) == 0


def test_a_savepoint_around_it_undoes_the_key_too(db: Database) -> None:
    def tries(tx: Tx) -> str:
        try:
            with tx.savepoint():
                order(tx)
                raise ZeroDivisionError
        except ZeroDivisionError:
            return order(tx).value.id

    assert db.run(tries) == "order 1"
    assert orders(db) == 1


def test_a_refusal_that_is_a_value_is_final(db: Database) -> None:
    def buy(tx: Tx, left: int) -> idempotency.Answer[Order | Refused]:
        def do() -> Order | Refused:
            try:
                with tx.savepoint():
                    tx.add("orders", 1)
                    if not left:
                        raise Conflict("Sold out.", code="sold_out")
                    return Order("o1", 1)
            except Conflict as error:
                return Refused(error.code)

        return idempotency.once(tx, "k1", do, scope=SCOPE, request=1, kind=Order | Refused)

    assert db.run(buy, 0).value == Refused("sold_out")
    again = db.run(buy, 100)
    assert (again.value, again.replayed) == (Refused("sold_out"), True)
    assert orders(db) == 0


def test_twice_in_one_transaction_is_a_replay(db: Database) -> None:
    def both(tx: Tx) -> tuple[bool, bool]:
        return order(tx).replayed, order(tx).replayed

    assert db.run(both) == (False, True)
    assert orders(db) == 1


def test_a_key_used_inside_its_own_work_is_in_flight(db: Database) -> None:
    def nested(tx: Tx) -> object:
        return idempotency.once(tx, "k1", lambda: nested(tx), scope=SCOPE, request=1)

    with pytest.raises(Conflict) as refused:
        db.run(nested)
    assert refused.value.code == "in_flight"
    assert keys(db) == 0
    db.run(order)
    age(db, DAY)
    with pytest.raises(Conflict) as refused:
        db.run(nested)  # What had expired is not given out either.
    assert refused.value.code == "in_flight"


def test_an_expired_key_is_new(db: Database) -> None:
    assert not db.run(order, ttl_ms=DAY).replayed
    age(db, DAY)
    taken = db.run(order, seats=5, ttl_ms=DAY)
    assert (taken.replayed, taken.value.seats) == (False, 5)
    assert db.run(order, seats=5).replayed
    with pytest.raises(Invalid):
        db.run(order, seats=2)
    assert (orders(db), keys(db)) == (2, 1)


def test_answer_of_looks_without_asking_again(db: Database) -> None:
    assert db.run(idempotency.answer_of, "k1", scope=SCOPE) is None
    first = db.run(order, ttl_ms=DAY)
    found = db.reader().run(idempotency.answer_of, "k1", scope=SCOPE)
    assert found is not None
    assert (found.value, found.replayed, found.at_ms) == ({"type": "order", "id": "order 1", "seats": 2}, True, first.at_ms)
    age(db, DAY)
    assert db.run(idempotency.answer_of, "k1", scope=SCOPE) is None


def test_the_first_answer_is_read_back_like_every_other(db: Database) -> None:
    """So that a type that does not survive JSON fails the first time, not at the first retry."""

    def answers(tx: Tx, value: Any, kind: Any) -> Any:
        return idempotency.once(tx, "k1", lambda: value, scope=SCOPE, request=1, kind=kind).value

    assert db.at("a").run(answers, (1, 2), Any) == [1, 2]
    assert db.at("a").run(answers, (1, 2), Any) == [1, 2]
    assert db.at("b").run(answers, None, Any) is None
    assert db.at("b").run(answers, None, Any) is None
    assert db.at("c").run(answers, {"n": 1}, dict[str, int]) == {"n": 1}
    for value, kind in ((Order("o", 1), Refused), (Order("o", 1), Refused | None), ("x", int), (float("nan"), float)):
        with pytest.raises(Invalid):
            db.run(answers, value, kind)
    for value in (object(), lambda: 1, "x" * 65_535, {1: {2: object()}}, "\ud800"):
        with pytest.raises(Invalid):
            db.run(answers, value, Any)
    assert db.run(answers, "x" * 65_534, str) == "x" * 65_534
    assert keys(db) == 1


@pytest.mark.parametrize("key", ["", "x" * 256, "a\n", "\n", "a\0", "\x7f", "\u00e9", "\ud800", "\t"])
def test_a_key_is_printable_ascii(db: Database, key: str) -> None:
    with pytest.raises(Invalid):
        db.run(order, key)
    with pytest.raises(Invalid):
        db.run(idempotency.answer_of, key, scope=SCOPE)
    assert keys(db) == 0


@pytest.mark.parametrize("key", [" ", "~", "x" * 255, '"8e03978e-40d5-43dd-bc93-6894a57f9324"', "%s :key {slot}", "'; --"])
def test_any_printable_ascii_is_a_key(db: Database, key: str) -> None:
    assert not db.run(order, key).replayed
    assert db.run(order, key).replayed


@pytest.mark.parametrize("options", [{"scope": ""}, {"scope": "x" * 201}, {"scope": "a\nb"}, {"ttl_ms": 0},
                                     {"ttl_ms": TTL_MS_MAX + 1}, {"ttl_ms": 2**63}, {"ttl_ms": True}])  # fmt: skip
def test_other_arguments_have_limits(db: Database, options: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        db.run(order, **options)
    assert keys(db) == 0


def test_scopes_may_be_in_any_script(db: Database) -> None:
    for scope in ("\u00e9", "e\u0301", "\U0001f512", "\u202e", " "):
        assert not db.run(order, scope=scope).replayed
        assert db.run(order, scope=scope).replayed


VECTORS = [  # One request each line, in ways that must or must not be the same.
    ({"a": 1, "b": [1, 2]}, {"b": [1, 2], "a": 1}, True),
    ({"a": 1}, {"a": 1, "b": None}, False),
    ([1, 2], [2, 1], False),
    ((1, 2), [1, 2], True),
    ({"a": "1"}, {"a": 1}, False),
    ({"a": 1.0}, {"a": 1}, False),
    ({"a": "\u00e9"}, {"a": "e\u0301"}, False),
    (Order("o", 1), {"type": "order", "id": "o", "seats": 1}, True),
    (b"raw body", b"raw body", True),
    (b"raw body", b"raw  body", False),
    ({"x": {"b": 1, "a": {"d": 1, "c": 2}}}, {"x": {"a": {"c": 2, "d": 1}, "b": 1}}, True),
    ("", None, False),
]


@pytest.mark.parametrize(("first", "second", "same"), VECTORS)
def test_which_requests_are_the_same(db: Database, first: object, second: object, same: bool) -> None:
    def ask(tx: Tx, request: object) -> bool:
        return idempotency.once(tx, "k1", lambda: 1, scope=SCOPE, request=request).replayed

    assert not db.run(ask, first)
    if same:
        assert db.run(ask, second)
    else:
        with pytest.raises(Invalid):
            db.run(ask, second)


def test_a_request_without_a_json_form_is_refused(db: Database) -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    for request in (object(), "\ud800", deep, {(1, 2): {3}}, 2**70 * 1j):
        with pytest.raises(Invalid):
            db.run(lambda tx, request=request: idempotency.once(tx, "k", lambda: 1, scope=SCOPE, request=request))
    assert keys(db) == 0


def test_the_sweep_takes_what_expired_and_no_more(db: Database) -> None:
    def fill(tx: Tx, prefix: str) -> None:
        for number in range(SWEEP_ROWS // 2 + 1):
            idempotency.once(tx, f"{prefix}{number}", lambda: 1, scope=SCOPE, request=1, ttl_ms=DAY)

    db.at("one").run(fill, "a")
    db.at("two").run(fill, "b")
    assert db.run(idempotency.sweep) is False
    assert keys(db.at("one")) == SWEEP_ROWS // 2 + 1
    age(db.at("one"), DAY)
    age(db.at("two"), DAY)
    db.at("two").run(lambda tx: idempotency.once(tx, "live", lambda: 1, scope=SCOPE, request=1))
    assert db.run(idempotency.sweep) is True
    assert db.run(idempotency.sweep) is False
    assert (keys(db.at("one")), keys(db.at("two"))) == (0, 1)


STEPS = st.one_of(
    st.tuples(st.just("ask"), st.sampled_from(["k1", "k2"]), st.integers(1, 2), st.booleans()),
    st.tuples(st.just("pass"), st.sampled_from([DAY // 2, DAY])),
    st.tuples(st.just("sweep")),
)
_spaces = iter(range(10**9))


@settings(max_examples=60)
@given(steps=st.lists(STEPS, max_size=20))
def test_once_follows_the_model(db: Database, steps: list[tuple]) -> None:
    handle, now, done = db.at(f"model/{next(_spaces)}"), 0, 0
    known: dict[str, tuple[int, str, int]] = {}  # Key: what was asked, what was answered, until when.

    class Boom(Exception):
        pass

    def ask(tx: Tx, key: str, seats: int, fails: bool) -> idempotency.Answer[Order]:
        def do() -> Order:
            tx.add("orders", 1)
            if fails:
                raise Boom
            return Order(f"order {tx.total('orders')}", seats)

        return idempotency.once(tx, key, do, scope=SCOPE, request=seats, kind=Order)

    for step in steps:
        if step[0] == "pass":
            age(handle, step[1])
            now += step[1]
            continue
        if step[0] == "sweep":
            db.run(idempotency.sweep)
            continue
        _, key, seats, fails = step
        held = known.get(key)
        if held and held[2] > now:
            if held[0] == seats:
                answer = handle.run(ask, key, seats, fails)
                assert (answer.value.id, answer.replayed) == (held[1], True)
            else:
                with pytest.raises(Invalid):
                    handle.run(ask, key, seats, fails)
        elif fails:
            with pytest.raises(Boom):
                handle.run(ask, key, seats, fails)
        else:
            done += 1
            answer = handle.run(ask, key, seats, fails)
            assert (answer.value.id, answer.replayed) == (f"order {done}", False)
            known[key] = (seats, answer.value.id, now + DAY)
        assert orders(handle) == done
