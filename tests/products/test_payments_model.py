"""Payments against a model of dicts: calls, answers of any kind and age, silence and passing time, on both engines."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from payments_till import CLEARING, DISPUTED, KEEP_MS, PAYEE, UNCLAIMED, age, charge, create, eur, observe, open_till

from onefold import Database, Handle, OnefoldError, Tx, ledger, payments
from onefold.products.payments import DisputeRecord, RefundRecord
from onefold.products.payments.settling import next_step, unanswered

PRICE = 10
IDS = ("p0", "p1")
HALF = KEEP_MS // 2
_spaces = itertools.count()


class Refused(Exception):
    """What the model says instead of doing it."""


@dataclass
class One:
    """An intent as the model has it."""

    manual: bool
    age: int = 0
    state: str = "requires_payment"
    asked: str | None = None
    want: int = 0
    captured: int = 0
    late: int = 0
    dispute: str | None = None
    disputed: int = 0
    refunds: dict[str, list[Any]] = field(default_factory=dict)  # Amount, state.

    def sum(self, state: str) -> int:
        return sum(minor for id, (minor, is_) in self.refunds.items() if is_ == state and not id.endswith(".late"))

    def over(self) -> bool:
        return self.age >= KEEP_MS

    def end(self, state: str, asked: str | None) -> None:
        self.state, self.asked = state, asked

    def by_refunds(self) -> str:
        back = self.sum("succeeded")
        return "captured" if not back else "refunded" if back == self.captured else "partially_refunded"


RESERVING = {"processing", "unknown", "authorised"}


@dataclass
class Model:
    """The table of the page, as a program that does no more."""

    made: dict[str, One] = field(default_factory=dict)

    def create(self, id: str, manual: bool) -> None:
        if id not in self.made:
            self.made[id] = One(manual)
        elif self.made[id].manual != manual:
            raise Refused("intent_mismatch")

    def authorise(self, one: One) -> None:
        if one.want or one.state in RESERVING:
            if one.state in {"canceled", "failed"}:
                raise Refused("intent_state")
            return
        if one.state != "requires_payment":
            raise Refused("intent_state")
        if one.over():
            raise Refused("intent_lapsed")
        one.state, one.asked, one.want = "processing", "authorise", -1 if one.manual else PRICE

    def capture(self, one: One, minor: int) -> None:
        if one.want > 0:
            if one.state in {"canceled", "failed"}:
                raise Refused("intent_state")
            if one.want != minor:
                raise Refused("intent_mismatch")
            return
        if one.state != "authorised":
            raise Refused("intent_state")
        if one.over():
            raise Refused("intent_lapsed")
        one.state, one.asked, one.want = "processing", "capture", minor

    def cancel(self, one: One) -> None:
        if one.state == "requires_payment":
            one.state = "canceled"
        elif one.state in RESERVING:
            one.end("canceled", "cancel")
        elif one.state != "canceled":
            raise Refused("intent_state")

    def refund(self, one: One, id: str, minor: int) -> None:
        if id in one.refunds:
            if one.refunds[id][0] != minor:
                raise Refused("refund_mismatch")
            return
        if one.state not in {"captured", "partially_refunded"}:
            raise Refused("intent_state")
        if minor > one.captured - one.sum("succeeded") - one.sum("pending"):
            raise Refused("refund_exceeds")
        one.refunds[id] = [minor, "pending"]

    def silence(self, one: One) -> None:
        one.state = "unknown" if one.state == "processing" else one.state

    def step(self, one: One) -> None:
        if one.state in RESERVING and one.over():
            one.end("canceled", "cancel")

    def see(self, id: str, one: One, kind: str, taken: int, told: str, dispute: str | None) -> None:
        known = list(one.refunds.values())
        if kind == "authorised":
            self.see_authorised(one)
        elif kind == "captured":
            self.see_captured(id, one, taken)
        elif one.state in RESERVING:
            one.end("failed" if kind == "declined" else "canceled", None)
        elif one.asked == "cancel":
            one.asked = None
        if kind != "captured":
            return
        for refund in known:
            if told != "pending" and refund[1] == "pending":
                refund[1] = told
                if one.state in {"captured", "partially_refunded"}:
                    one.state = one.by_refunds()
        if dispute and one.captured and one.dispute in {None, "open"}:
            one.disputed = one.disputed or one.captured
            one.dispute = dispute
            one.state = one.by_refunds() if dispute == "won" else "disputed"

    def see_authorised(self, one: One) -> None:
        if one.state in {"processing", "unknown"} and one.asked == "authorise":
            if one.over():
                one.end("canceled", "cancel")
            elif one.manual:
                one.end("authorised", None)
            else:
                one.end("processing", "capture")
        elif one.state in {"canceled", "failed", "requires_payment"} and one.asked is None:
            one.end("failed" if one.state == "failed" else "canceled", "cancel")

    def see_captured(self, id: str, one: One, taken: int) -> None:
        if one.captured or one.late:
            one.asked = None
        elif one.state in RESERVING and not one.over():
            one.captured = taken
            one.end("captured", None)
        else:
            one.late = taken
            one.refunds[f"{id}.late"] = [taken, "pending"]
            one.end("failed" if one.state == "failed" else "canceled", None)

    def apply(self, step: tuple) -> None:
        kind, id, *rest = step
        if kind == "wait":
            for one in self.made.values():
                one.age += HALF
        elif kind == "create":
            self.create(id, *rest)
        elif id not in self.made:
            raise Refused("intent")
        elif kind == "see":
            self.see(id, self.made[id], *rest)
        else:
            getattr(self, kind)(self.made[id], *rest)

    def balances(self) -> dict[str, int]:
        ones = self.made.values()
        back = sum(one.sum("succeeded") for one in ones)
        late_back = sum(refund[0] for one in ones for id, refund in one.refunds.items() if id.endswith(".late") and refund[1] == "succeeded")
        took = sum(one.captured for one in ones)
        late = sum(one.late for one in ones)
        opened = sum(one.disputed for one in ones if one.dispute == "open")
        lost = sum(one.disputed for one in ones if one.dispute == "lost")
        return {
            PAYEE: took - back - lost, UNCLAIMED: late - late_back, DISPUTED: -opened,
            CLEARING: -(took + late - back - late_back - opened - lost),
        }  # fmt: skip

    def pending(self) -> int:
        return sum(PRICE for one in self.made.values() if one.state in RESERVING and not one.over())


def do(tx: Tx, step: tuple, refunds: dict[str, list[Any]]) -> None:
    """The same step on the block; an answer tells of the refunds that the provider was asked for."""
    kind, id, *rest = step
    if kind == "create":
        create(tx, id, minor=PRICE, capture="manual" if rest[0] else "automatic", reference=f"order/{id}")
    elif kind == "authorise":
        payments.authorise(tx, id, method="tok")
    elif kind == "capture":
        payments.capture(tx, id, amount=eur(rest[0]))
    elif kind == "cancel":
        payments.cancel(tx, id)
    elif kind == "refund":
        payments.refund(tx, rest[0], id, amount=eur(rest[1]))
    elif kind == "silence":
        unanswered(tx, id)
    elif kind == "step":
        next_step(tx, id)
    else:
        seen, taken, told, dispute = rest
        records = tuple(RefundRecord(name, minor, told) for name, (minor, _) in refunds.items())
        stands = payments.intent_of(tx, id).captured.minor or taken
        disputes = DisputeRecord(stands, dispute) if dispute else None
        if seen != "captured":
            records, disputes = (), None
        observe(tx, charge(seen, id, minor=PRICE, taken=taken, refunds=records, dispute=disputes))


def outcome(call: Any, *args: Any) -> str | None:
    try:
        call(*args)
    except Refused as refused:
        return str(refused)
    except OnefoldError as error:
        return error.code
    return None


def standing(tx: Tx, ids: list[str]) -> dict[str, tuple]:
    found = {}
    for id in ids:
        one = payments.intent_of(tx, id)
        refunds = {refund.id: [refund.amount.minor, refund.state] for refund in payments.list_refunds(tx, id)}
        found[id] = (
            one.state, one.asked, one.captured.minor, one.late.minor, one.refunding.minor, one.refunded.minor,
            one.dispute, one.disputed.minor, refunds,
        )  # fmt: skip
    return found


def expected(model: Model) -> dict[str, tuple]:
    return {
        id: (
            one.state, one.asked, one.captured, one.late, one.sum("pending"), one.sum("succeeded"), one.dispute,
            one.disputed, one.refunds,
        )
        for id, one in model.made.items()
    }  # fmt: skip


def money(tx: Tx) -> tuple[dict[str, int], int]:
    balances = {name: ledger.balance(tx, name) for name in (PAYEE, UNCLAIMED, DISPUTED, CLEARING)}
    return {name: balance.posted.minor for name, balance in balances.items()}, balances[PAYEE].pending_in.minor


ids = st.sampled_from(IDS)
amounts = st.sampled_from([PRICE, 3])
sees = st.tuples(
    st.just("see"), ids, st.sampled_from(["captured"] * 4 + ["authorised", "authorised", "canceled", "declined"]), amounts,
    st.sampled_from(["pending", "succeeded", "succeeded", "failed"]), st.sampled_from([None] * 5 + ["open", "won", "lost"]),
)  # fmt: skip
steps = st.lists(
    st.one_of(
        st.tuples(st.just("create"), ids, st.booleans()), st.tuples(st.just("authorise"), ids),
        st.tuples(st.just("authorise"), ids), st.tuples(st.just("capture"), ids, amounts), st.tuples(st.just("cancel"), ids),
        st.tuples(st.sampled_from(["silence", "step"]), ids), st.tuples(st.just("wait"), st.none()), sees, sees, sees,
        st.builds(lambda key, n, minor: ("refund", key, f"re_{key}_{n}", minor), ids, st.integers(0, 2), st.sampled_from([1, 3, 8])),
    ),
    min_size=6, max_size=25,
)  # fmt: skip


@settings(max_examples=60)
@given(steps=steps, manual=st.booleans())
def test_payments_follow_the_model(db: Database, steps: list[tuple], manual: bool) -> None:
    space: Handle = db.at(f"model/{next(_spaces)}")
    space.run(open_till)
    model = Model()
    for step in [("create", "p0", manual), ("authorise", "p0"), *steps]:
        kind, id, *_ = step
        told = dict(model.made[id].refunds) if id in model.made else {}
        if kind == "wait":
            age(space, HALF)
            model.apply(step)
        else:
            assert outcome(space.run, do, step, told) == outcome(model.apply, step), step
        assert space.run(standing, list(model.made)) == expected(model), step
        assert space.run(money) == (model.balances(), model.pending()), step


def test_the_model_can_disagree(db: Database) -> None:
    """A canary: a model that takes a cent more is told apart."""
    model = Model()
    db.run(open_till)
    for step in [("create", "p0", False), ("authorise", "p0"), ("see", "p0", "captured", PRICE, "pending", None)]:
        assert outcome(db.run, do, step, {}) is None
        model.apply(step)
    assert db.run(standing, ["p0"]) == expected(model)
    assert db.run(money) == (model.balances(), 0)
    model.made["p0"].captured += 1
    assert db.run(standing, ["p0"]) != expected(model)
    assert db.run(money) != (model.balances(), 0)
