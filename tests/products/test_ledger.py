"""The ledger as one transaction sees it, on both engines."""

from __future__ import annotations

import ast
import re

import pytest
from ledger_bank import HOUR, WALLETS, age, audited, available, entries, eur, open_bank, posted, rows

from onefold import Conflict, Database, Doomed, Invalid, Money, NotFound, OnefoldError, Tx, ledger
from onefold.core.clock import FakeClock
from onefold.index import folder_of
from onefold.products.ledger.funds import RELEASE_MAX
from onefold.products.ledger.records import ACCOUNT_LENGTH_MAX, ID_LENGTH_MAX, MEMO_LENGTH_MAX
from onefold.products.ledger.tidy import TIDY_MAX, tidy

A, B, C, D = WALLETS


@pytest.fixture
def bank(db: Database) -> Database:
    db.run(open_bank)
    return db


def pay(db: Database, id: str, debit: str, credit: str, minor: int, memo: str = "") -> ledger.Transfer:
    return db.run(ledger.transfer, id, debit=debit, credit=credit, amount=eur(minor), memo=memo)


def pend(db: Database, id: str, debit: str, credit: str, minor: int, timeout_ms: int = HOUR) -> ledger.Transfer:
    return db.run(ledger.pend, id, debit=debit, credit=credit, amount=eur(minor), timeout_ms=timeout_ms)


def refused(code: str, call, *args, **kwargs) -> OnefoldError:
    with pytest.raises(OnefoldError) as caught:
        call(*args, **kwargs)
    assert caught.value.code == code
    return caught.value


# -- accounts -----------------------------------------------------------------------------------------


def test_an_account_is_opened_once_and_empty(db: Database) -> None:
    opened = db.run(ledger.open_account, "wallet/ana", currency="EUR", overdraft_minor=50)
    assert (opened.name, opened.currency, opened.kind, opened.overdraft_minor) == ("wallet/ana", "EUR", "limited", 50)
    assert db.run(ledger.account_of, "wallet/ana") == opened
    assert db.run(ledger.open_account, "wallet/ana", currency="EUR") == opened
    balance = db.run(ledger.balance, "wallet/ana")
    assert balance == ledger.Balance(eur(0), eur(0), eur(0), eur(50))


def test_an_account_keeps_its_terms(bank: Database) -> None:
    refused("account_mismatch", bank.run, ledger.open_account, A, currency="USD")
    refused("account_mismatch", bank.run, ledger.open_account, A, currency="EUR", kind="unlimited")
    assert bank.run(ledger.account_of, A).currency == "EUR"


def test_accounts_are_listed_by_name_page_by_page(bank: Database) -> None:
    first = bank.run(ledger.list_accounts, limit=4)
    rest = bank.run(ledger.list_accounts, after=first.after, limit=4)
    assert [a.name for a in first.items + rest.items] == ["bank", "till", *WALLETS]
    assert rest.after is None
    assert [a.name for a in bank.run(ledger.list_accounts, after="wallet/").items] == [*WALLETS]


def test_an_unknown_account_is_told(bank: Database) -> None:
    for call in (ledger.account_of, ledger.balance, ledger.history, ledger.list_pendings):
        with pytest.raises(NotFound):
            bank.run(call, "wallet/nobody")
    refused("account", pay, bank, "t", A, "wallet/nobody", 1)
    refused("account", pay, bank, "t", "wallet/nobody", A, 1)
    assert entries(bank, A)[0].transfer_id == f"gift/{A}"


def test_spaces_have_ledgers_of_their_own(bank: Database) -> None:
    other = bank.at("tenant/7")
    other.run(open_bank, each=5)
    bank.run(ledger.transfer, "t", debit=A, credit="till", amount=eur(10))
    assert (posted(other, A), posted(other, "till")) == (5, 0)
    other.run(ledger.transfer, "t", debit=A, credit="till", amount=eur(1))
    assert (posted(other, "till"), posted(bank, "till")) == (1, 10)


# -- transfers ----------------------------------------------------------------------------------------


def test_money_moves(bank: Database) -> None:
    made = pay(bank, "t1", A, B, 300, memo="lunch")
    assert (made.id, made.kind, made.state, made.amount, made.memo) == ("t1", "transfer", "posted", eur(300), "lunch")
    assert bank.run(ledger.transfer_of, "t1") == made
    assert (posted(bank, A), posted(bank, B)) == (700, 1_300)
    pay(bank, "t2", B, "till", 300)
    assert (posted(bank, B), posted(bank, "till"), posted(bank, "bank")) == (1_000, 300, -4_000)
    bank.reader().run(audited)


def test_nobody_overdraws(bank: Database) -> None:
    error = refused("insufficient_funds", pay, bank, "t", A, "till", 1_001)
    assert isinstance(error, Conflict)
    assert error.facts == {"account": A, "needed": 1_001, "available": 1_000}
    with pytest.raises(NotFound):
        bank.run(ledger.transfer_of, "t")
    pay(bank, "t", A, "till", 1_000)  # The id was not used up.
    assert available(bank, A) == 0


def test_a_credit_line_is_used_up_to_its_end(bank: Database) -> None:
    bank.run(ledger.set_overdraft, A, overdraft_minor=500)
    pay(bank, "t1", A, "till", 1_500)
    assert (posted(bank, A), available(bank, A)) == (-500, 0)
    refused("insufficient_funds", pay, bank, "t2", A, "till", 1)
    refused("overdraft_in_use", bank.run, ledger.set_overdraft, A, overdraft_minor=499)
    pay(bank, "t3", "bank", A, 1)
    assert bank.run(ledger.set_overdraft, A, overdraft_minor=499).overdraft_minor == 499
    with pytest.raises(NotFound):
        bank.run(ledger.set_overdraft, "till", overdraft_minor=1)


def test_an_unlimited_account_goes_below_zero(bank: Database) -> None:
    pay(bank, "t", "till", A, 12)
    balance = bank.run(ledger.balance, "till")
    assert (balance.posted, balance.available) == (eur(-12), None)


def test_a_repeated_transfer_moves_once(bank: Database) -> None:
    first = pay(bank, "t", A, "till", 10)
    assert pay(bank, "t", A, "till", 10) == first
    assert (posted(bank, A), posted(bank, "till")) == (990, 10)

    def twice(tx: Tx) -> None:
        for _ in range(2):
            ledger.transfer(tx, "u", debit=A, credit="till", amount=eur(10))

    bank.run(twice)
    assert posted(bank, A) == 980


def test_a_repeated_transfer_is_answered_though_the_money_is_gone(bank: Database) -> None:
    first = pay(bank, "t", A, "till", 1_000)
    assert pay(bank, "t", A, "till", 1_000) == first


@pytest.mark.parametrize(
    "other", [{"debit": B}, {"credit": B}, {"amount": eur(11)}, {"amount": Money(10, "USD")}, {"memo": "x"}]
)
def test_an_id_with_other_fields_is_refused(bank: Database, other: dict) -> None:
    fields = {"debit": A, "credit": "till", "amount": eur(10), "memo": ""}
    bank.run(ledger.transfer, "t", **fields)
    before = rows(bank)
    refused("transfer_mismatch", bank.run, ledger.transfer, "t", **{**fields, **other})
    assert rows(bank) == before


def test_an_id_is_used_for_one_kind(bank: Database) -> None:
    pay(bank, "t", A, "till", 10)
    pend(bank, "p", A, "till", 10)
    refused("transfer_mismatch", pend, bank, "t", A, "till", 10)
    refused("transfer_mismatch", pay, bank, "p", A, "till", 10)
    refused("transfer_mismatch", pend, bank, "p", A, "till", 10, timeout_ms=HOUR + 1)
    refused("transfer_mismatch", bank.run, ledger.post, "t", "p")
    refused("transfer_mismatch", bank.run, ledger.void, "p", "p")
    assert bank.run(ledger.transfer_of, "p").state == "pending"


def test_currencies_do_not_mix(bank: Database) -> None:
    bank.run(ledger.open_account, "dollars", currency="USD", kind="unlimited")
    error = refused("currency", pay, bank, "t", A, "dollars", 10)
    assert error.facts["account"] == "dollars"
    refused("currency", bank.run, ledger.transfer, "t", debit=A, credit="till", amount=Money(10, "USD"))
    pend(bank, "p", A, "till", 10)
    refused("currency", bank.run, ledger.post, "x", "p", amount=Money(10, "USD"))
    assert posted(bank, A) == 1_000


def test_transfers_of_one_transaction_are_linked(bank: Database) -> None:
    def order(tx: Tx, last: int) -> None:
        ledger.transfer(tx, "t1", debit=A, credit="till", amount=eur(900))
        ledger.transfer(tx, "t2", debit=B, credit="till", amount=eur(900))
        ledger.transfer(tx, "t3", debit=A, credit="till", amount=eur(last))

    before = rows(bank)
    refused("insufficient_funds", bank.run, order, 101)
    assert rows(bank) == before
    bank.run(order, 100)
    assert (posted(bank, A), posted(bank, B), posted(bank, "till")) == (0, 100, 1_900)


def test_a_swallowed_refusal_cannot_commit_half(bank: Database) -> None:
    def sly(tx: Tx) -> None:
        ledger.transfer(tx, "t1", debit=A, credit="till", amount=eur(10))
        try:
            ledger.transfer(tx, "t2", debit=B, credit="till", amount=eur(5_000))
        except Conflict:
            pass

    before = rows(bank)
    with pytest.raises(Doomed):
        bank.run(sly)
    assert rows(bank) == before


def test_try_forms_answer_none_and_leave_nothing(bank: Database) -> None:
    def order(tx: Tx) -> tuple[object, object, object]:
        first = ledger.try_transfer(tx, "t1", debit=A, credit="till", amount=eur(1_001))
        second = ledger.try_pend(tx, "t1", debit=A, credit="till", amount=eur(1_001), timeout_ms=HOUR)
        return first, second, ledger.try_transfer(tx, "t1", debit=A, credit="till", amount=eur(1_000))

    first, second, third = bank.run(order)
    assert (first, second) == (None, None)
    assert third == bank.run(ledger.transfer_of, "t1")
    refused("transfer_mismatch", bank.run, ledger.try_transfer, "t1", debit=A, credit="till", amount=eur(1))


def test_a_limited_account_cannot_overflow(bank: Database) -> None:
    def fill(tx: Tx) -> None:
        tx.run(
            "UPDATE onefold.ledger_balances SET posted = :posted WHERE space = :space AND account = :account",
            posted=ledger.BALANCE_MINOR_MAX - 5, account=A,
        )  # fmt: skip

    bank.run(fill)
    refused("balance_overflow", pay, bank, "t", "bank", A, 6)
    refused("balance_overflow", pay, bank, "t", B, A, 6)
    pay(bank, "t", "bank", A, 5)
    assert posted(bank, A) == ledger.BALANCE_MINOR_MAX
    assert posted(bank, B) == 1_000


def test_an_unlimited_account_holds_more_than_money_can_say(bank: Database) -> None:
    bank.run(lambda tx: tx.add("ledger/till", 10**15 + 1))
    error = refused("balance_range", bank.run, ledger.balance, "till")
    assert error.facts["minor"] == 10**15 + 1
    pay(bank, "t", A, "till", 1)


# -- pending ------------------------------------------------------------------------------------------


def test_what_is_pending_is_reserved_and_has_not_moved(bank: Database) -> None:
    made = pend(bank, "p", A, B, 600)
    assert (made.state, made.kind, made.expires_at_ms) == ("pending", "pending", made.at_ms + HOUR)
    assert bank.run(ledger.transfer_of, "p") == made
    assert pend(bank, "p", A, B, 600) == made
    assert bank.run(ledger.balance, A) == ledger.Balance(eur(1_000), eur(600), eur(0), eur(400))
    assert bank.run(ledger.balance, B) == ledger.Balance(eur(1_000), eur(0), eur(600), eur(1_000))
    refused("insufficient_funds", pay, bank, "t", A, "till", 401)
    refused("insufficient_funds", pend, bank, "q", A, "till", 401)
    refused("insufficient_funds", pay, bank, "t", B, "till", 1_001)  # What is promised cannot be spent.
    pay(bank, "t", A, "till", 400)
    bank.reader().run(audited)


def test_a_post_moves_and_ends_the_reservation(bank: Database) -> None:
    pend(bank, "p", A, "till", 600)
    made = bank.run(ledger.post, "x", "p", memo="captured")
    assert (made.kind, made.state, made.amount, made.pending_id) == ("post", "posted", eur(600), "p")
    assert bank.run(ledger.transfer_of, "x") == made
    assert bank.run(ledger.transfer_of, "p").state == "posted"
    assert bank.run(ledger.balance, A) == ledger.Balance(eur(400), eur(0), eur(0), eur(400))
    assert bank.run(ledger.balance, "till").pending_in == eur(0)
    assert posted(bank, "till") == 600
    assert bank.run(ledger.post, "x", "p", memo="captured") == made
    assert bank.run(ledger.post, "x", "p", amount=eur(600), memo="captured") == made
    refused("transfer_mismatch", bank.run, ledger.post, "x", "p", amount=eur(599), memo="captured")
    refused("pending_posted", bank.run, ledger.post, "y", "p")
    refused("pending_posted", bank.run, ledger.void, "y", "p")
    assert posted(bank, "till") == 600


@pytest.mark.parametrize(("debit", "credit"), [(A, B), (B, A), (A, "till"), ("till", A), ("till", "bank")])
def test_part_of_it_may_be_posted(bank: Database, debit: str, credit: str) -> None:
    before = posted(bank, debit), posted(bank, credit)
    pend(bank, "p", debit, credit, 600)
    refused("exceeds_pending", bank.run, ledger.post, "x", "p", amount=eur(601))
    bank.run(ledger.post, "x", "p", amount=eur(1))
    assert (posted(bank, debit), posted(bank, credit)) == (before[0] - 1, before[1] + 1)
    assert bank.run(ledger.balance, debit).pending_out == eur(0)
    assert bank.run(ledger.balance, credit).pending_in == eur(0)
    bank.reader().run(audited)


def test_a_void_releases(bank: Database) -> None:
    pend(bank, "p", A, "till", 600)
    made = bank.run(ledger.void, "x", "p")
    assert (made.kind, made.state, made.amount) == ("void", "voided", eur(600))
    assert bank.run(ledger.void, "x", "p") == made
    assert bank.run(ledger.transfer_of, "p").state == "voided"
    assert bank.run(ledger.balance, A) == ledger.Balance(eur(1_000), eur(0), eur(0), eur(1_000))
    refused("pending_voided", bank.run, ledger.post, "y", "p")


def test_only_what_is_pending_is_resolved(bank: Database) -> None:
    pay(bank, "t", A, "till", 1)
    refused("pending", bank.run, ledger.post, "x", "nothing")
    refused("pending", bank.run, ledger.post, "x", "t")
    refused("transfer_mismatch", bank.run, ledger.post, "t", "nothing")
    pend(bank, "p", A, "till", 1)
    bank.run(ledger.post, "x", "p")
    refused("pending", bank.run, ledger.void, "y", "x")


def test_a_lapsed_reservation_counts_for_nothing_at_once(bank: Database) -> None:
    pend(bank, "p", A, B, 600)
    age(bank, HOUR)
    assert bank.run(ledger.balance, A) == ledger.Balance(eur(1_000), eur(0), eur(0), eur(1_000))
    assert bank.run(ledger.balance, B).pending_in == eur(0)
    assert bank.run(ledger.transfer_of, "p").state == "lapsed"
    refused("pending_lapsed", bank.run, ledger.post, "x", "p")
    refused("pending_lapsed", bank.run, ledger.void, "x", "p")
    pay(bank, "t", A, "till", 1_000)  # No loop has run.
    assert bank.run(ledger.transfer_of, "p").state == "lapsed"
    bank.reader().run(audited)


def test_the_last_millisecond_counts(db: Database, clock: FakeClock) -> None:
    if db.dialect != "sqlite":
        return  # PostgreSQL has a clock of its own, which no test can stop.
    db.run(open_bank)
    pend(db, "p", A, "till", 600, timeout_ms=1_000)
    clock.advance(999)
    assert available(db, A) == 400
    refused("insufficient_funds", pay, db, "t", A, "till", 401)
    clock.advance(1)
    assert available(db, A) == 1_000
    refused("pending_lapsed", db.run, ledger.post, "x", "p")
    pay(db, "t", A, "till", 401)


def test_only_as_much_is_released_as_is_needed_and_all_of_it_if_need_be(bank: Database) -> None:
    many = RELEASE_MAX + 50

    def crowd(tx: Tx) -> None:
        for number in range(many):
            ledger.pend(tx, f"p{number}", debit=A, credit="till", amount=eur(4), timeout_ms=HOUR)

    bank.run(crowd)
    age(bank, HOUR)
    pend(bank, "live", A, "till", 1)  # Zero were left: makes room.
    error = refused("insufficient_funds", pay, bank, "t", A, "till", 1_000)
    assert error.facts["available"] == 999
    pay(bank, "t", A, "till", 999)
    assert available(bank, A) == 0
    bank.reader().run(audited)


def test_a_credit_line_is_not_in_use_by_what_has_lapsed(bank: Database) -> None:
    bank.run(ledger.set_overdraft, A, overdraft_minor=500)
    pend(bank, "p", A, "till", 1_500)
    refused("overdraft_in_use", bank.run, ledger.set_overdraft, A, overdraft_minor=0)
    age(bank, HOUR)
    bank.run(ledger.set_overdraft, A, overdraft_minor=0)


def test_the_loop_tidies_what_has_lapsed_and_nothing_else(bank: Database) -> None:
    def crowd(tx: Tx) -> None:
        for number in range(TIDY_MAX + 10):
            debit = (A, B, "till")[number % 3]
            ledger.pend(tx, f"p{number}", debit=debit, credit=C, amount=eur(1), timeout_ms=HOUR)

    bank.run(crowd)
    bank.at("tenant/7").run(open_bank)
    bank.at("tenant/7").run(
        lambda tx: ledger.pend(tx, "p", debit=A, credit="till", amount=eur(1), timeout_ms=HOUR)
    )
    assert bank.run(tidy) is False
    age(bank, HOUR)
    pend(bank, "live", A, "till", 7)
    assert bank.run(tidy) is True
    assert bank.run(tidy) is False
    counts = bank.run(lambda tx: tx.all("SELECT id FROM onefold.ledger_pendings WHERE space = :space ORDER BY id"))
    assert counts == [("live",)]
    reserved = bank.run(lambda tx: tx.all("SELECT reserved FROM onefold.ledger_balances WHERE space = :space AND account = :a", a=A))
    assert reserved == [(7,)]
    assert available(bank.at("tenant/7"), A) == 999
    bank.reader().run(audited)
    bank.at("tenant/7").reader().run(audited)


# -- history ------------------------------------------------------------------------------------------


def test_history_tells_every_change_with_the_balance_after_it(bank: Database) -> None:
    pay(bank, "t1", A, B, 300, memo="lunch")
    pay(bank, "t2", B, A, 100)
    pend(bank, "p1", A, "till", 50)
    pend(bank, "p2", A, "till", 60)
    bank.run(ledger.post, "x1", "p1", amount=eur(20))
    bank.run(ledger.void, "x2", "p2")
    found = entries(bank, A, limit=2)
    assert [(e.number, e.transfer_id, e.change.minor, e.balance) for e in found] == [
        (4, "x1", -20, eur(780)), (3, "t2", 100, eur(800)), (2, "t1", -300, eur(700)), (1, f"gift/{A}", 1_000, eur(1_000)),
    ]  # fmt: skip
    assert (found[2].other, found[2].memo, found[1].other, found[3].other) == (B, "lunch", B, "bank")
    assert (found[0].kind, found[0].pending_id, found[2].kind) == ("post", "p1", "transfer")
    assert [(e.change.minor, e.balance, e.number) for e in entries(bank, "till")] == [(20, None, None)]
    assert [e.change.minor for e in entries(bank, "bank", limit=1)] == [-1_000] * 4
    times = [(e.at_ms, e.transfer_id) for e in entries(bank, "bank", limit=3)]
    assert times == sorted(times, reverse=True)


@pytest.mark.parametrize("account", [A, "till"])
def test_history_pages_are_the_same_however_large(bank: Database, account: str) -> None:
    for number in range(10):
        pay(bank, f"t{number}", *((A, "till") if number % 3 else ("till", A)), 1)
    whole = entries(bank, account, limit=1_000)
    assert len(whole) == (11 if account == A else 10)
    for limit in (1, 2, 5, 10, 11):
        assert entries(bank, account, limit=limit) == whole


def test_an_empty_account_has_an_empty_history(db: Database) -> None:
    db.run(open_bank, each=0)
    assert (entries(db, A), entries(db, "till")) == ([], [])


def test_a_forged_cursor_is_refused(bank: Database) -> None:
    pay(bank, "t", A, "till", 1)
    for bad in ("", "x", ".", "12", "1.", "-1.t", "9" * 40 + ".t", "1." + "x" * 300, "x" * 100_000):
        refused("cursor", bank.run, ledger.history, "till", after=bad)
        refused("cursor", bank.run, ledger.list_pendings, A, after=bad)
        refused("cursor", bank.run, ledger.history, A, after=bad)
    refused("cursor", bank.run, ledger.history, B, after="t")  # Another account's.
    for limit in (0, -1, 1_001):
        for call in (ledger.history, ledger.list_pendings):
            with pytest.raises(Invalid):
                bank.run(call, A, limit=limit)


def test_what_reserves_an_account_is_listed(bank: Database) -> None:
    made = [pend(bank, f"p{n}", A, "till", n + 1, timeout_ms=HOUR * (5 - n)) for n in range(5)]
    first = bank.run(ledger.list_pendings, A, limit=2)
    rest = bank.run(ledger.list_pendings, A, after=first.after, limit=3)
    assert first.items + rest.items == made[::-1]
    assert rest.after is None
    bank.run(ledger.post, "x", "p4")
    age(bank, 2 * HOUR)
    assert [t.id for t in bank.run(ledger.list_pendings, A).items] == ["p2", "p1", "p0"]
    assert bank.run(ledger.list_pendings, "till").items == []


# -- audit --------------------------------------------------------------------------------------------

TAMPERED = [
    ("UPDATE onefold.ledger_balances SET posted = posted + 1 WHERE space = :space AND account = 'wallet/a'", A, "posted"),
    ("UPDATE onefold.ledger_balances SET entries = 7 WHERE space = :space AND account = 'wallet/a'", A, "entry"),
    ("UPDATE onefold.ledger_balances SET last_id = 'bye' WHERE space = :space AND account = 'wallet/a'", A, "posted"),
    ("UPDATE onefold.ledger_balances SET reserved = 9 WHERE space = :space AND account = 'wallet/b'", B, "reserved"),
    ("DELETE FROM onefold.ledger_balances WHERE space = :space AND account = 'wallet/b'", B, "account"),
    ("DELETE FROM onefold.ledger_transfers WHERE space = :space AND id = 't'", "till", "posted"),
]
FORGED = [
    ("UPDATE onefold.ledger_transfers SET amount = 1 WHERE space = :space AND id = 't'", A, "entry", "t"),
    ("DELETE FROM onefold.ledger_transfers WHERE space = :space AND id = 'gift/wallet/d'", D, "entry", f"gift/{D}"),
    ("DELETE FROM onefold.ledger_entries WHERE space = :space AND transfer_id = 't'", A, "entry", "t"),
    ("UPDATE onefold.ledger_entries SET balance = 5 WHERE space = :space AND transfer_id = 't'", A, "entry", "t"),
    ("UPDATE onefold.ledger_entries SET number = 9 WHERE space = :space AND transfer_id = 't'", A, "entry", "t"),
    ("UPDATE onefold.ledger_accounts SET currency = 'USD' WHERE space = :space AND name = 'till'", "till", "account", "t"),
    ("DELETE FROM onefold.ledger_accounts WHERE space = :space AND name = 'wallet/a'", A, "account", "t"),
    ("UPDATE onefold.ledger_transfers SET amount = 11 WHERE space = :space AND id = 'x'", B, "resolution", "x"),
    ("DELETE FROM onefold.ledger_transfers WHERE space = :space AND id = 'p'", B, "resolution", "x"),
]


@pytest.fixture
def busy(bank: Database) -> Database:
    pay(bank, "t", A, "till", 10)
    pend(bank, "p", B, "till", 10)
    bank.run(ledger.post, "x", "p")
    pend(bank, "q", B, C, 10)
    bank.reader().run(audited)
    return bank


@pytest.mark.parametrize(("sql", "account", "what"), TAMPERED)
def test_an_audit_finds_a_balance_that_was_tampered_with(busy: Database, sql: str, account: str, what: str) -> None:
    busy.run(lambda tx: tx.run(sql))  # type: ignore[arg-type]
    assert (account, what) in {(fault.account, fault.what) for fault in busy.run(ledger.audit).faults}


@pytest.mark.parametrize(("sql", "account", "what", "id"), FORGED)
def test_an_audit_finds_a_journal_that_was_tampered_with(
    busy: Database, sql: str, account: str, what: str, id: str
) -> None:
    busy.run(lambda tx: tx.run(sql))  # type: ignore[arg-type]
    faults = busy.run(ledger.audit_journal).faults
    assert (account, what, id) in {(fault.account, fault.what, fault.transfer_id) for fault in faults}


def test_an_audit_sees_a_counter_that_is_off(bank: Database) -> None:
    bank.run(lambda tx: tx.add("ledger/till", 3))
    page = bank.run(ledger.audit)
    assert page.faults == [ledger.Fault("till", "posted", 3, 0)]
    assert page.sums == {"EUR": 3}


def test_an_audit_goes_on_where_it_was(busy: Database) -> None:
    pages = [busy.run(ledger.audit_journal, limit=3)]
    while (after := pages[-1].after) is not None:
        pages.append(busy.run(ledger.audit_journal, after=after, limit=3))
    assert [page.checked for page in pages] == [3, 3, 2]
    assert sum(page.sums.get("EUR", 0) for page in pages) == 4_020
    assert busy.run(ledger.audit_journal, after="zzz").checked == 0


def test_the_tables_refuse_what_the_code_should_never_do(bank: Database) -> None:
    pend(bank, "p", A, "till", 10)
    for sql in (
        "UPDATE onefold.ledger_balances SET posted = posted - 991 WHERE space = :space AND account = 'wallet/a'",
        "UPDATE onefold.ledger_balances SET reserved = -1 WHERE space = :space AND account = 'wallet/a'",
        "UPDATE onefold.ledger_transfers SET credit = debit WHERE space = :space AND id = 'gift/wallet/a'",
        "UPDATE onefold.ledger_transfers SET amount = 0 WHERE space = :space AND id = 'gift/wallet/a'",
        "UPDATE onefold.ledger_entries SET number = 2 WHERE space = :space AND transfer_id = 'gift/wallet/a'",
        "UPDATE onefold.ledger_transfers SET pending_id = 'p' WHERE space = :space AND id = 'gift/wallet/a'",
    ):
        with pytest.raises(Invalid):
            bank.run(lambda tx, sql=sql: tx.run(sql))


def test_the_journal_is_written_once() -> None:
    """No text of the block changes or deletes a row of the journal."""
    for path in folder_of("ledger").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(UPDATE|DELETE\s+FROM)\s+onefold\.ledger_(transfers|entries)", text), path.name


def texts() -> list[str]:
    """All SQL texts of the block."""
    found = []
    for path in sorted(folder_of("ledger").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                if re.match(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)\b", node.value):
                    found.append(node.value)
    return found


def test_every_statement_finds_its_rows_by_key(db: Database) -> None:
    """SQLite's planner, without statistics, is content with `space` alone now and then: a walk through it all."""
    if db.dialect != "sqlite":
        return
    assert len(texts()) > 20
    for text in texts():
        values: dict = dict.fromkeys(set(re.findall(r":([a-z_]+)", text)) - {"space", "now_ms"}, "1")
        plan = [row[-1] for row in db.run(lambda tx, t=text, v=values: tx.all(f"EXPLAIN QUERY PLAN {t}", **v))]
        for line in plan:
            walks = "(space=?)" in line or re.match(r"SCAN (onefold_|[abdeprtv] |[abdeprtv]$)", line)
            assert not walks or "-- all spaces" in text, (text, plan)


# -- bad input ----------------------------------------------------------------------------------------

_MOVE = {"debit": A, "credit": "till", "amount": eur(1)}
BAD = [
    (ledger.transfer, ("",), _MOVE),
    (ledger.transfer, ("x" * (ID_LENGTH_MAX + 1),), _MOVE),
    (ledger.transfer, ("a\0b",), _MOVE),
    (ledger.transfer, ("\ud800",), _MOVE),
    (ledger.transfer, ("t",), {**_MOVE, "amount": eur(0)}),
    (ledger.transfer, ("t",), {**_MOVE, "amount": eur(-1)}),
    (ledger.transfer, ("t",), {**_MOVE, "amount": eur(ledger.AMOUNT_MINOR_MAX + 1)}),
    (ledger.transfer, ("t",), {**_MOVE, "credit": A}),
    (ledger.transfer, ("t",), {**_MOVE, "debit": ""}),
    (ledger.transfer, ("t",), {**_MOVE, "credit": "x" * (ACCOUNT_LENGTH_MAX + 1)}),
    (ledger.transfer, ("t",), {**_MOVE, "memo": "x" * (MEMO_LENGTH_MAX + 1)}),
    (ledger.transfer, ("t",), {**_MOVE, "memo": "\0"}),
    (ledger.pend, ("t",), {**_MOVE, "timeout_ms": 0}),
    (ledger.pend, ("t",), {**_MOVE, "timeout_ms": ledger.TIMEOUT_MS_MAX + 1}),
    (ledger.pend, ("t",), {**_MOVE, "timeout_ms": 1_000.5}),
    (ledger.pend, ("t",), {**_MOVE, "amount": eur(0), "timeout_ms": HOUR}),
    (ledger.post, ("", "p"), {}),
    (ledger.post, ("x", "p"), {"amount": eur(0)}),
    (ledger.post, ("x", "p"), {"amount": eur(11)}),
    (ledger.void, ("x" * (ID_LENGTH_MAX + 1), "p"), {}),
    (ledger.open_account, ("",), {"currency": "EUR"}),
    (ledger.open_account, ("x" * (ACCOUNT_LENGTH_MAX + 1),), {"currency": "EUR"}),
    (ledger.open_account, ("new",), {"currency": "euro"}),
    (ledger.open_account, ("new",), {"currency": "EUR", "kind": "free"}),
    (ledger.open_account, ("new",), {"currency": "EUR", "overdraft_minor": -1}),
    (ledger.open_account, ("new",), {"currency": "EUR", "overdraft_minor": ledger.OVERDRAFT_MINOR_MAX + 1}),
    (ledger.open_account, ("new",), {"currency": "EUR", "overdraft_minor": 0.5}),
    (ledger.open_account, ("new",), {"currency": "EUR", "kind": "unlimited", "overdraft_minor": 1}),
    (ledger.set_overdraft, (A,), {"overdraft_minor": -1}),
    (ledger.list_accounts, (), {"limit": 0}),
    (ledger.audit, (), {"limit": 1_001}),
    (ledger.audit, (), {"after": "x" * 1_000}),
    (ledger.audit_journal, (), {"after": "x" * 1_000}),
    (ledger.audit_journal, (), {"limit": 0}),
    (ledger.list_accounts, (), {"after": "x" * 1_000}),
]


def test_bad_input_writes_nothing(bank: Database) -> None:
    pend(bank, "p", A, "till", 10)
    before = rows(bank)
    for call, subject, options in BAD:
        with pytest.raises(Invalid):
            bank.run(call, *subject, **options)
    assert rows(bank) == before


def test_any_text_may_be_an_id(bank: Database) -> None:
    for id in ("x" * ID_LENGTH_MAX, "order/7", "Ünïcode 🎭", "%s :name {slot}", "'; --", ".", "1.2"):
        assert pay(bank, id, A, "till", 1) == bank.run(ledger.transfer_of, id)
    assert len(entries(bank, A, limit=1)) == 8
