"""The ledger against a model of dicts, over all operations and passing time, on both engines."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_bank import HOUR, age, audited, entries, eur

from onefold import Database, Handle, Money, OnefoldError, Tx, ledger

LIMITED = {"a": 0, "b": 40, "c": 0}  # Name: credit line.
UNLIMITED = ("bank", "till")
GIFT = 50
_spaces = itertools.count()


class Refused(Exception):
    """What the model says instead of doing it."""


@dataclass
class Made:
    """A transfer as the model remembers it."""

    terms: tuple
    kind: str
    debit: str
    credit: str
    minor: int
    until: int = 0
    state: str = "posted"


@dataclass
class Model:
    """Twenty lines of bookkeeping that cannot be wrong."""

    now: int = 0
    posted: dict[str, int] = field(
        default_factory=lambda: {**dict.fromkeys(LIMITED, GIFT), "bank": -GIFT * len(LIMITED), "till": 0}
    )
    lines: dict[str, int] = field(default_factory=lambda: dict(LIMITED))
    made: dict[str, Made] = field(default_factory=dict)

    def state(self, id: str) -> str:
        found = self.made[id]
        return "lapsed" if found.state == "pending" and found.until <= self.now else found.state

    def pending(self, side: str, account: str) -> int:
        return sum(m.minor for id, m in self.made.items() if self.state(id) == "pending" and getattr(m, side) == account)

    def available(self, account: str) -> int:
        return self.posted[account] - self.pending("debit", account) + self.lines[account]

    def make(self, kind: str, id: str, debit: str, credit: str, minor: int, hours: int = 0) -> None:
        if debit == credit:
            raise Refused("same_account")
        terms = (kind, debit, credit, minor, hours)
        if self.replayed(id, terms):
            return
        for name in (debit, credit):
            if name == "ghost":
                raise Refused("account")
            if name == "usd":
                raise Refused("currency")
        if debit in self.lines and self.available(debit) < minor:
            raise Refused("insufficient_funds")
        pends = kind == "pend"
        self.made[id] = Made(terms, kind, debit, credit, minor, self.now + hours, "pending" if pends else "posted")
        if not pends:
            self.posted[debit] -= minor
            self.posted[credit] += minor

    def resolve(self, kind: str, id: str, pending_id: str, minor: int | None) -> None:
        pending = self.made.get(pending_id)
        if pending is None or pending.kind != "pend":
            raise Refused("transfer_mismatch" if id in self.made else "pending")
        live = self.state(pending_id) == "pending"
        if live and (minor or 0) > pending.minor:
            raise Refused("exceeds_pending")
        terms = (kind, pending_id, minor or pending.minor)
        if self.replayed(id, terms):
            return
        if (minor or 0) > pending.minor:
            raise Refused("exceeds_pending")
        if not live:
            raise Refused(f"pending_{self.state(pending_id)}")
        final = minor or pending.minor
        pending.state = "posted" if kind == "post" else "voided"
        self.made[id] = Made(terms, kind, pending.debit, pending.credit, final, state=pending.state)
        if kind == "post":
            self.posted[pending.debit] -= final
            self.posted[pending.credit] += final

    def line(self, account: str, minor: int) -> None:
        if account not in self.lines:
            raise Refused("account")
        if self.available(account) - self.lines[account] + minor < 0:
            raise Refused("overdraft_in_use")
        self.lines[account] = minor

    def replayed(self, id: str, terms: tuple) -> bool:
        if id in self.made and self.made[id].terms != terms:
            raise Refused("transfer_mismatch")
        return id in self.made

    def apply(self, step: tuple) -> None:
        """One step, whole or not at all."""
        kind, *rest = step
        if kind == "linked":
            trial = copy.deepcopy(self)
            for part in rest[0]:
                trial.apply(part)
            self.__dict__.update(trial.__dict__)
        elif kind in {"transfer", "pend"}:
            self.make(kind, *rest)
        elif kind in {"post", "void"}:
            self.resolve(kind, *rest)
        elif kind == "line":
            self.line(*rest)
        else:
            self.now += rest[0]


def do(tx: Tx, step: tuple) -> None:
    """The same step on the ledger."""
    kind, *rest = step
    if kind == "linked":
        for part in rest[0]:
            do(tx, part)
    elif kind == "transfer":
        id, debit, credit, minor = rest
        ledger.transfer(tx, id, debit=debit, credit=credit, amount=eur(minor))
    elif kind == "pend":
        id, debit, credit, minor, hours = rest
        ledger.pend(tx, id, debit=debit, credit=credit, amount=eur(minor), timeout_ms=hours * HOUR)
    elif kind == "post":
        ledger.post(tx, rest[0], rest[1], amount=None if rest[2] is None else eur(rest[2]))
    elif kind == "void":
        ledger.void(tx, rest[0], rest[1])
    else:
        ledger.set_overdraft(tx, rest[0], overdraft_minor=rest[1])


def of(prefix: str, many: int) -> st.SearchStrategy[str]:
    """Ids that meet each other often, and now and then one of another kind."""
    return st.sampled_from([f"{prefix}{n}" for n in range(many)] * 3 + ["t0", "p0", "x0"])


limited, unlimited = st.sampled_from(sorted(LIMITED)), st.sampled_from(UNLIMITED)
sides = st.one_of(
    st.sampled_from([(d, c) for d in LIMITED for c in (*LIMITED, *UNLIMITED) if d != c]),
    st.sampled_from([(d, c) for d in UNLIMITED for c in (*LIMITED, *UNLIMITED) if d != c]),
    st.tuples(st.sampled_from(["a", "till", "ghost", "usd"]), st.sampled_from(["b", "till", "ghost", "usd"])),
)
amounts = st.integers(1, 60)
hours = st.integers(1, 3)
transfers = st.builds(lambda key, s, minor: ("transfer", key, *s, minor), of("t", 12), sides, amounts)
pends = st.builds(lambda key, s, minor, h: ("pend", key, *s, minor, h), of("p", 4), sides, amounts, hours)
posts = st.tuples(st.just("post"), of("x", 6), of("p", 4), st.one_of(st.none(), st.none(), amounts))
voids = st.tuples(st.just("void"), of("x", 6), of("p", 4), st.none())
lines = st.tuples(st.just("line"), st.one_of(limited, st.sampled_from(["till", "ghost"])), st.integers(0, 60))
waits = st.tuples(st.just("wait"), hours)
single = st.one_of(transfers, pends, posts, voids)
linked = st.tuples(st.just("linked"), st.lists(single, min_size=2, max_size=4))
steps = st.lists(
    st.one_of(transfers, pends, pends, pends, posts, posts, posts, voids, lines, waits, linked), min_size=8, max_size=30
)


def open_all(tx: Tx) -> None:
    for name, line in LIMITED.items():
        ledger.open_account(tx, name, currency="EUR", overdraft_minor=line)
    for name in UNLIMITED:
        ledger.open_account(tx, name, currency="EUR", kind="unlimited")
    ledger.open_account(tx, "usd", currency="USD")
    for name in LIMITED:
        ledger.transfer(tx, f"gift/{name}", debit="bank", credit=name, amount=eur(GIFT))


def outcome(step: tuple, call: Any, *args: Any) -> str | None:
    try:
        call(*args, step)
    except Refused as refused:
        return str(refused)
    except OnefoldError as error:
        return error.code
    return None


def balances(tx: Tx) -> dict[str, tuple[int, int, int, int | None]]:
    found = {}
    for name in (*LIMITED, *UNLIMITED):
        b = ledger.balance(tx, name)
        found[name] = (b.posted.minor, b.pending_out.minor, b.pending_in.minor, b.available and b.available.minor)
    return found


def expected(model: Model) -> dict[str, tuple[int, int, int, int | None]]:
    found = {}
    for name in (*LIMITED, *UNLIMITED):
        left = model.available(name) if name in LIMITED else None
        found[name] = (model.posted[name], model.pending("debit", name), model.pending("credit", name), left)
    return found


def states(tx: Tx, model: Model) -> dict[str, tuple[str, Money]]:
    return {id: (made.state, made.amount) for id in model.made for made in [ledger.transfer_of(tx, id)]}


@settings(max_examples=80)
@given(steps=steps)
def test_the_ledger_follows_the_model(db: Database, steps: list[tuple]) -> None:
    space: Handle = db.at(f"model/{next(_spaces)}")
    model = Model()
    space.run(open_all)
    for step in steps:
        if step[0] == "wait":
            age(space, step[1] * HOUR)
            model.apply(step)
        else:
            assert outcome(step, space.run, do) == outcome(step, model.apply), step
        assert space.run(balances) == expected(model)
    assert space.run(states, model) == {id: (model.state(id), eur(made.minor)) for id, made in model.made.items()}
    assert space.reader().run(audited) == {**model.posted, "usd": 0}
    for name in (*LIMITED, *UNLIMITED):
        changes = [entry.change.minor for entry in entries(space, name, limit=3)]
        assert sum(changes) == model.posted[name]


def test_the_model_can_disagree(db: Database) -> None:
    """A canary: a model with a cent too many is told apart."""
    db.run(open_all)
    model = Model()
    assert db.run(balances) == expected(model)
    model.posted["a"] += 1
    assert db.run(balances) != expected(model)
    step = ("transfer", "t0", "a", "till", GIFT + 1)
    assert outcome(step, db.run, do) == "insufficient_funds"
    assert outcome(step, model.apply) is None


@pytest.mark.parametrize("debit", ["a", "till"])
def test_the_model_knows_time(debit: str) -> None:
    model = Model()
    model.apply(("pend", "t0", debit, "b", 10, 2))
    assert model.pending("credit", "b") == 10
    model.apply(("wait", 2))
    assert (model.pending("credit", "b"), model.state("t0")) == (0, "lapsed")
