"""Two connections to PostgreSQL, stepped by hand: what each lock of the ledger is for."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from ledger_bank import HOUR, WALLETS, age, audited, available, eur, open_bank, posted
from racing import Step, until_somebody_waits

import onefold
from onefold import Conflict, Database, Tx, ledger
from onefold.products.ledger.tidy import tidy

A, B, C, D = WALLETS
LEVELS = pytest.mark.parametrize("level", ["read_committed", "serializable"])
WAIT_S = 20


@pytest.fixture
def bank(postgres_url: str) -> Iterator[Database]:
    """Without rehearsal: the functions here are stepped, so they run once."""
    with onefold.connect(postgres_url) as database:
        database.run(open_bank)
        yield database


def pay(tx: Tx, id: str, debit: str, credit: str, minor: int, step: Step | None = None) -> None:
    ledger.transfer(tx, id, debit=debit, credit=credit, amount=eur(minor))
    if step is not None:
        step.stop()


def retries(db: Database) -> int:
    return sum(row["count"] for row in db.metrics()["retries"])


@LEVELS
def test_a_payer_waits_for_money_in_flight(bank: Database, threads: ThreadPoolExecutor, level: str) -> None:
    """What is released or paid in by a commit in flight is not overlooked: no refusal out of haste."""
    db = bank.options(isolation=level)
    db.run(ledger.pend, "p", debit=A, credit=B, amount=eur(900), timeout_ms=HOUR)
    age(bank, HOUR)
    with Step() as step:
        first = threads.submit(db.run, pay, "t1", A, "till", 200, step)  # Releases the 900 to have its 200.
        assert step.reached.wait(WAIT_S)
        second = threads.submit(db.run, pay, "t2", A, "till", 800)
        until_somebody_waits(bank)
        step.go.set()
        first.result(WAIT_S)
        second.result(WAIT_S)
    assert available(bank, A) == 0
    with Step() as step:
        first = threads.submit(db.run, pay, "t3", "bank", A, 50, step)
        assert step.reached.wait(WAIT_S)
        second = threads.submit(db.run, pay, "t4", A, "till", 50)
        until_somebody_waits(bank)
        step.go.set()
        first.result(WAIT_S)
        second.result(WAIT_S)
    bank.reader().run(audited)


@LEVELS
def test_the_loop_locks_as_everybody_does(bank: Database, threads: ThreadPoolExecutor, level: str) -> None:
    """A payer who releases and the loop that tidies meet at one wallet, and nobody is thrown out."""
    bank.run(ledger.pend, "p", debit=A, credit=B, amount=eur(900), timeout_ms=HOUR)
    age(bank, HOUR)

    def both(tx: Tx, step: Step) -> None:
        pay(tx, "t1", A, "till", 1, step)
        pay(tx, "t2", A, "till", 999)

    with Step() as step:
        payer = threads.submit(bank.options(isolation=level).run, both, step)
        assert step.reached.wait(WAIT_S)
        loop = threads.submit(bank.options(isolation="read_committed").run, tidy)
        until_somebody_waits(bank)
        step.go.set()
        payer.result(WAIT_S)
        assert loop.result(WAIT_S) is False
    assert retries(bank) == 0
    assert posted(bank, A) == 0
    bank.reader().run(audited)


def test_the_loop_locks_all_wallets_before_it_deletes(bank: Database, threads: ThreadPoolExecutor) -> None:
    """Else it would hold a reservation that the owner wants, and want a wallet that the owner holds: a ring."""
    bank.run(ledger.pend, "first", debit="till", credit=C, amount=eur(5), timeout_ms=HOUR)  # Of no wallet: no lock.
    bank.run(ledger.pend, "second", debit=B, credit=C, amount=eur(900), timeout_ms=2 * HOUR)
    age(bank, 2 * HOUR)

    def late(tx: Tx, step: Step) -> None:
        tx.now_ms -= 2 * HOUR
        pay(tx, "t", "till", B, 1, step)
        ledger.post(tx, "x", "first")

    with Step() as step:
        owner = threads.submit(bank.options(isolation="read_committed").run, late, step)
        assert step.reached.wait(WAIT_S)
        loop = threads.submit(bank.options(isolation="read_committed").run, tidy)
        until_somebody_waits(bank)
        step.go.set()
        owner.result(WAIT_S)
        assert loop.result(WAIT_S) is False
    assert retries(bank) == 0
    assert (posted(bank, C), available(bank, B)) == (1_005, 1_001)
    bank.reader().run(audited)


@LEVELS
def test_an_owner_behind_his_time_finds_it_released(bank: Database, threads: ThreadPoolExecutor, level: str) -> None:
    """He saw it pending, waits for the wallet, and must not take what another one was given meanwhile."""
    db = bank.options(isolation=level)
    for id in ("p", "q"):
        bank.run(ledger.pend, id, debit=A, credit=B, amount=eur(400), timeout_ms=HOUR)
    age(bank, HOUR)

    def late(tx: Tx) -> None:
        tx.now_ms -= HOUR
        ledger.post(tx, "x", "p")

    with Step() as step:
        payer = threads.submit(db.run, pay, "t", A, "till", 1_000, step)
        assert step.reached.wait(WAIT_S)
        owner = threads.submit(db.run, late)
        until_somebody_waits(bank)
        step.go.set()
        payer.result(WAIT_S)
        with pytest.raises(Conflict) as refused:
            owner.result(WAIT_S)
    assert refused.value.code == "pending_lapsed"
    assert (posted(bank, A), posted(bank, B)) == (0, 1_000)
    bank.reader().run(audited)


@LEVELS
def test_a_duplicate_waits_for_the_first_and_answers_it(bank: Database, threads: ThreadPoolExecutor, level: str) -> None:
    db = bank.options(isolation=level)
    with Step() as step:
        first = threads.submit(db.run, pay, "t", A, "till", 1_000, step)
        assert step.reached.wait(WAIT_S)
        second = threads.submit(db.run, ledger.transfer, "t", debit=A, credit="till", amount=eur(1_000))
        until_somebody_waits(bank)
        step.go.set()
        first.result(WAIT_S)
        assert second.result(WAIT_S) == bank.run(ledger.transfer_of, "t")
    assert (posted(bank, A), posted(bank, "till")) == (0, 1_000)


@LEVELS
def test_nobody_waits_for_an_unlimited_account(bank: Database, threads: ThreadPoolExecutor, level: str) -> None:
    db = bank.options(isolation=level)
    with Step() as step:
        first = threads.submit(db.run, pay, "t1", A, "till", 1, step)
        assert step.reached.wait(WAIT_S)
        db.run(pay, "t2", B, "till", 1)  # Would stand here for ever.
        db.run(pay, "t3", "bank", "till", 1)
        assert posted(bank, "till") == 2
        step.go.set()
        first.result(WAIT_S)
    assert posted(bank, "till") == 3
