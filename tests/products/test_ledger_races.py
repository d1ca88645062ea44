"""Crowds of real threads at both isolation levels, and a real process killed: no cent is made or lost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from random import Random

import pytest
from ledger_bank import HOUR, WALLETS, audited, available, entries, eur, open_bank, posted
from racing import at_once, kill_after

import onefold
from onefold import Conflict, Database, Handle, OnefoldError, Retry, Tx, ledger
from onefold.engine.loops import fold_counters
from onefold.products.ledger.tidy import tidy

A, B, C, D = WALLETS
ISOLATIONS = pytest.mark.parametrize("isolation", ["serializable", "read_committed"])
CROWD = 8
EACH = 40


def insist(handle: Handle, fn: Callable, *args: object, **kwargs: object) -> object:
    """Repeat what lost against others too often, as callers do who are told `Retry`."""
    for _ in range(50):
        try:
            return handle.run(fn, *args, **kwargs)
        except Retry:
            continue
    raise AssertionError("no end of conflicts")


def busy(handle: Handle, name: str) -> int:
    """One customer of the bank: random transfers, reservations and resolutions; answers how many succeeded."""
    dice = Random(name)  # noqa: S311  Repeatable on purpose.
    open_: list[str] = []
    done = 0
    for turn in range(EACH):
        id = f"{turn:04d}/{name}"
        debit, credit = dice.sample([*WALLETS, *WALLETS, "bank", "till"], 2)
        if debit == credit:
            continue
        amount = eur(dice.randint(1, 400))
        try:
            match dice.randrange(5):
                case 0 | 1:
                    handle.run(ledger.transfer, id, debit=debit, credit=credit, amount=amount)
                case 2:  # Half of them lapse at once, so that others find room to make.
                    timeout_ms = dice.choice((1, HOUR))
                    handle.run(ledger.pend, id, debit=debit, credit=credit, amount=amount, timeout_ms=timeout_ms)
                    open_.append(id)
                case 3:
                    handle.run(ledger.post, id, dice.choice(open_)) if open_ else None
                case _:
                    handle.run(ledger.void, id, dice.choice(open_)) if open_ else None
        except (Conflict, Retry):
            continue
        done += 1
    return done


@pytest.mark.slow
@ISOLATIONS
def test_a_crowd_makes_and_loses_nothing(real: Database, isolation: str) -> None:
    db = real.options(isolation=isolation, deadline_ms=60_000)  # type: ignore[arg-type]
    db.run(open_bank)
    over = threading.Event()

    def watch() -> int:
        """Audit one moment after the other: debits equal credits at every commit."""
        looks = 0
        while not over.is_set():
            real.reader().run(audited)
            real.options(isolation="read_committed").run(tidy)
            real.options(isolation="read_committed").run(fold_counters)
            looks += 1
        return looks

    def crowd() -> list[object]:
        try:
            return at_once(*(lambda n=n: busy(db, f"c{n}") for n in range(CROWD)))
        finally:
            over.set()

    looks, results = at_once(watch, crowd)
    assert isinstance(looks, int), looks
    assert isinstance(results, list), results
    assert all(isinstance(done, int) and done > 0 for done in results), results
    assert looks > 1
    final = real.reader().run(audited)
    for name in WALLETS:
        assert sum(entry.change.minor for entry in entries(db, name, limit=100)) == final[name] >= 0


@ISOLATIONS
def test_the_last_cent_is_spent_once(real: Database, isolation: str) -> None:
    db = real.options(isolation=isolation)  # type: ignore[arg-type]
    db.run(open_bank, each=10)
    results = at_once(*(
        lambda n=n: insist(db, ledger.transfer, f"t{n}", debit=A, credit=(B, C, D, "till")[n % 4], amount=eur(4))
        for n in range(12)
    ))  # fmt: skip
    assert sum(isinstance(result, ledger.Transfer) for result in results) == 2
    assert {e.code for e in results if isinstance(e, OnefoldError)} == {"insufficient_funds"}
    assert posted(db, A) == 2
    real.reader().run(audited)


@ISOLATIONS
def test_a_duplicate_in_flight_moves_once(real: Database, isolation: str) -> None:
    db = real.options(isolation=isolation)  # type: ignore[arg-type]
    db.run(open_bank)
    for turn in range(5):
        results = at_once(*[
            lambda: insist(db, ledger.transfer, f"t{turn}", debit=A, credit="till", amount=eur(7))
        ] * 6)  # fmt: skip
        assert [r for r in results if not isinstance(r, ledger.Transfer)] == []
        assert len({(r.id, r.at_ms) for r in results if isinstance(r, ledger.Transfer)}) == 1
    assert (posted(db, A), posted(db, "till")) == (965, 35)


@ISOLATIONS
def test_a_reservation_is_resolved_once(real: Database, isolation: str) -> None:
    db = real.options(isolation=isolation)  # type: ignore[arg-type]
    db.run(open_bank)
    codes = {"pending_posted", "pending_voided", "pending_lapsed"}
    for turn, (debit, credit) in enumerate([(A, "till"), (B, A), ("till", A), ("bank", "till"), (A, B)]):
        db.run(ledger.pend, f"p{turn}", debit=debit, credit=credit, amount=eur(10), timeout_ms=HOUR)
        results = at_once(
            *(lambda n=n: insist(db, ledger.post, f"x{turn}/{n}", f"p{turn}") for n in range(3)),
            *(lambda n=n: insist(db, ledger.void, f"y{turn}/{n}", f"p{turn}") for n in range(3)),
        )
        assert sum(isinstance(result, ledger.Transfer) for result in results) == 1, results
        assert {e.code for e in results if isinstance(e, OnefoldError)} <= codes, results
        real.reader().run(audited)


@ISOLATIONS
def test_what_lapses_is_released_once(real: Database, isolation: str) -> None:
    """Those who need the funds, the loop, and an owner whose clock is behind: all at the same rows."""
    db = real.options(isolation=isolation)  # type: ignore[arg-type]
    db.run(open_bank, each=100)

    def late_post(tx: Tx, turn: int) -> ledger.Transfer:
        tx.now_ms -= HOUR
        return ledger.post(tx, f"x{turn}", f"p{turn}/0")

    for turn in range(6):
        for part in range(2):
            db.run(ledger.pend, f"p{turn}/{part}", debit=A, credit=B, amount=eur(50), timeout_ms=1)
        real.run(lapse_now)
        results = at_once(
            lambda: insist(db, ledger.transfer, f"t{turn}", debit=A, credit="till", amount=eur(100)),
            lambda: real.options(isolation="read_committed").run(tidy),
            lambda: insist(db, late_post, turn),
            lambda: insist(db, ledger.try_transfer, f"u{turn}", debit=A, credit="till", amount=eur(60)),
        )
        codes = {e.code for e in results if isinstance(e, OnefoldError)}
        assert codes <= {"insufficient_funds", "pending_lapsed"}, results
        real.reader().run(audited)
        left = available(db, A)
        assert left >= 0
        if left < 100:
            db.run(ledger.transfer, f"again{turn}", debit="bank", credit=A, amount=eur(100 - left))


def lapse_now(tx: Tx) -> None:
    """Whatever is pending lapses, one millisecond before this transaction."""
    tx.run("UPDATE onefold.ledger_pendings SET expires_at_ms = :now_ms - 1 WHERE space = :space")


def test_opposite_payments_do_not_wait_in_a_ring(real: Database) -> None:
    """Locks are taken in one order: at READ COMMITTED not one attempt is lost."""
    db = real.options(isolation="read_committed")
    db.run(open_bank, each=100_000)

    def pairs(n: int) -> None:
        debit, credit = (A, B) if n % 2 else (B, A)
        for turn in range(25):
            id = f"{turn:03d}/{n}"
            db.run(ledger.transfer, id, debit=debit, credit=credit, amount=eur(1))
            db.run(ledger.pend, f"{id}/p", debit=debit, credit=credit, amount=eur(2), timeout_ms=HOUR)
            db.run(ledger.post, f"{id}/x", f"{id}/p")

    assert at_once(*(lambda n=n: pairs(n) for n in range(6))) == [None] * 6
    assert (posted(db, A), posted(db, B)) == (100_000, 100_000)
    assert retries(real) == 0


def test_a_crowd_at_one_wallet_queues_by_name(real: Database) -> None:
    """One limited account is one payment at a time; `hot` lets callers queue instead of colliding."""
    real.run(open_bank)
    db = real.options(hot=A)

    def spend(n: int) -> None:
        for turn in range(10):
            db.run(ledger.transfer, f"{turn:03d}/{n}", debit=A, credit="till", amount=eur(1))

    assert at_once(*(lambda n=n: spend(n) for n in range(CROWD))) == [None] * CROWD
    assert (posted(db, A), posted(db, "till")) == (1_000 - 10 * CROWD, 10 * CROWD)
    assert retries(real) == 0


def retries(db: Database) -> int:
    return sum(row["count"] for row in db.metrics()["retries"])


def test_disjoint_wallets_do_not_abort_each_other(real: Database) -> None:
    """Everybody pays into one till: it is no hot row."""

    def open_many(tx: Tx) -> None:
        open_bank(tx)
        for n in range(CROWD):
            ledger.open_account(tx, f"w/{n}", currency="EUR")
            ledger.transfer(tx, f"g/{n}", debit="bank", credit=f"w/{n}", amount=eur(10_000))

    real.run(open_many)
    before = retries(real)

    def spend(n: int) -> None:
        for turn in range(EACH):
            real.run(ledger.transfer, f"{turn:04d}/{n}", debit=f"w/{n}", credit="till", amount=eur(1))

    assert at_once(*(lambda n=n: spend(n) for n in range(CROWD))) == [None] * CROWD
    lost = retries(real) - before
    print(f"{real.dialect}: {lost} of {CROWD * EACH} attempts lost")
    assert lost <= 0.05 * CROWD * EACH
    assert posted(real, "till") == CROWD * EACH


# -- kill -9 ------------------------------------------------------------------------------------------

VICTIM = """
import sys, threading
import onefold
from onefold import Money, ledger

db, run = onefold.connect(sys.argv[1]), sys.argv[2]
said = threading.Lock()
WALLETS = ["wallet/a", "wallet/b", "wallet/c", "wallet/d"]

def buy(tx, id, name, turn):
    a, b = WALLETS[name], WALLETS[turn % 4]
    ledger.pend(tx, id + "/p", debit=a, credit="till", amount=Money(2, "EUR"), timeout_ms=3_600_000)
    if a != b:
        ledger.transfer(tx, id + "/t", debit=a, credit=b, amount=Money(1, "EUR"))
    ledger.post(tx, id, id + "/p")

def spend(name):
    for turn in range(100_000):
        id = f"{run}/{turn:06d}/{name}"
        db.run(buy, id, name, turn)
        with said:  # Said only once it is committed: from here on it must not be lost.
            print(id, flush=True)

for name in range(4):
    threading.Thread(target=spend, args=(name,)).start()
"""


@pytest.mark.slow
def test_a_killed_bank_loses_nothing_acknowledged(db_url: str) -> None:
    with onefold.connect(db_url) as db:
        db.run(open_bank, each=10**9)
        acknowledged: set[str] = set()
        for run, many in enumerate((1, 23, 71)):
            acknowledged |= kill_after(many, VICTIM, db_url, str(run))
            db.reader().run(audited)
            whole = [entry for entry in entries(db, "till", limit=1_000) if entry.kind == "post"]
            stored = [entry.transfer_id for entry in whole]
            assert len(stored) == len(set(stored))
            assert acknowledged <= set(stored), "an acknowledged payment is lost"
            # What was in flight is whole or not there: four threads, one payment each at most.
            assert len(stored) <= len(acknowledged) + 4 * (run + 1)
            assert posted(db, "till") == 2 * len(stored)
            assert db.run(ledger.balance, "till").pending_in == eur(0)
            for id in sorted(acknowledged)[:5]:  # A client that repeats what was answered moves nothing.
                db.run(ledger.post, id, f"{id}/p")
            assert posted(db, "till") == 2 * len(stored)
