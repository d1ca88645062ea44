"""What the ledger speaks of: accounts, transfers, balances, entries; and how much of each."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from onefold.core.errors import Invalid
from onefold.core.limits import money, text, whole
from onefold.core.money import Money

AMOUNT_MINOR_MAX = 10**12  # Of one transfer.
BALANCE_MINOR_MAX = 10**15  # Of a limited account.
OVERDRAFT_MINOR_MAX = 10**12
ACCOUNT_LENGTH_MAX = 180  # With its prefix it is the key of a counter.
ID_LENGTH_MAX = 200
MEMO_LENGTH_MAX = 500
TIMEOUT_MS_MAX = 366 * 86_400_000  # A year.

AccountName = Annotated[str, text(1, ACCOUNT_LENGTH_MAX)]
AccountCursor = Annotated[str, text(0, ACCOUNT_LENGTH_MAX)]
TransferId = Annotated[str, text(1, ID_LENGTH_MAX)]
TransferCursor = Annotated[str, text(0, ID_LENGTH_MAX)]
Memo = Annotated[str, text(0, MEMO_LENGTH_MAX)]
Amount = Annotated[Money, money(1, AMOUNT_MINOR_MAX)]
PartOfIt = Annotated[Money | None, money(1, AMOUNT_MINOR_MAX)]
OverdraftMinor = Annotated[int, whole(0, OVERDRAFT_MINOR_MAX)]
TimeoutMs = Annotated[int, whole(1, TIMEOUT_MS_MAX)]

AccountKind = Literal["limited", "unlimited"]
TransferKind = Literal["transfer", "pending", "post", "void"]
What = Literal["posted", "reserved", "entry", "account", "resolution"]
TransferState = Literal["posted", "pending", "voided", "lapsed"]


class Account(msgspec.Struct, frozen=True):
    """An account. Its balance is what was credited less what was debited.

    Attributes:
        name: 1 to 180 characters; "/" separates levels by custom ("wallet/ana").
        currency: three capital letters; the only one that it holds.
        kind: "limited" may not be overdrawn; "unlimited" is never locked and may go below zero.
        overdraft_minor: how far below zero a limited one may go; 0 for unlimited ones.
        opened_at_ms: when it was opened.
    """

    name: str
    currency: str
    kind: AccountKind
    overdraft_minor: int
    opened_at_ms: int


class Balance(msgspec.Struct, frozen=True):
    """An account's money at one moment.

    Attributes:
        posted: what was credited less what was debited, for good.
        pending_out: reserved by pending transfers from it, those that have lapsed not counted.
        pending_in: promised by pending transfers to it; does not count until it is posted.
        available: what a transfer may take: posted - pending_out + overdraft. None: without limit.
    """

    posted: Money
    pending_out: Money
    pending_in: Money
    available: Money | None


class Transfer(msgspec.Struct, frozen=True):
    """Money that moved from one account to another, or is reserved to.

    Attributes:
        id: the caller's idempotency key, 1 to 200 characters.
        kind: "transfer" moves at once; "pending" reserves; "post" and "void" resolve a pending one.
        debit: the account that gives.
        credit: the account that takes.
        amount: what was moved, reserved or (void) released.
        state: "posted" for what moved money; a pending one is "pending" until it is posted, voided or
            past its time ("lapsed"); a void is "voided".
        at_ms: time of its transaction.
        memo: for people.
        pending_id: of a post or void: what it resolves.
        expires_at_ms: of a pending one: from when on it reserves nothing.
    """

    id: str
    kind: TransferKind
    debit: str
    credit: str
    amount: Money
    state: TransferState
    at_ms: int
    memo: str = ""
    pending_id: str | None = None
    expires_at_ms: int | None = None


class Entry(msgspec.Struct, frozen=True):
    """One line of an account's history: a change of its posted balance.

    Attributes:
        transfer_id: the transfer or post that it is one side of.
        kind: that transfer's.
        change: below zero for money that left.
        balance: what was posted after it; None for unlimited accounts, which have no order.
        number: 1, 2, 3, ... in the order of the changes; None for unlimited accounts.
        other: the account on the other side.
        at_ms: time of its transaction.
        memo: for people.
        pending_id: of a post: what it resolved.
    """

    transfer_id: str
    kind: TransferKind
    change: Money
    balance: Money | None
    number: int | None
    other: str
    at_ms: int
    memo: str
    pending_id: str | None


class Fault(msgspec.Struct, frozen=True):
    """Something that an audit found wrong. There is no way to make one through the ledger.

    Attributes:
        account: where.
        what: "posted", "reserved": the balance is not what the rows behind it add up to; "entry": a line
            of the history is missing, off or too much; "account": an account is unknown, or of another
            currency or kind than a transfer of it; "resolution": a post or void that does not fit.
        stored: what is stored, in minor units (or a count).
        expected: what it should be.
        transfer_id: the transfer at fault; None when it is the balance.
    """

    account: str
    what: What
    stored: int
    expected: int
    transfer_id: str | None = None


class Audit(msgspec.Struct, frozen=True):
    """One page of an audit; add the pages up.

    Attributes:
        checked: how many accounts or transfers were looked at.
        sums: by currency, in minor units. `audit`: the posted balances, which over all pages add up to 0,
            as debits equal credits. `audit_journal`: what was moved.
        faults: what is wrong; empty when all is well.
        after: what to pass as `after=` for the next page; None on the last one.
    """

    checked: int
    sums: dict[str, int]
    faults: list[Fault]
    after: str | None


def counter_of(account: str) -> str:
    """The counter that holds the posted balance of an unlimited account."""
    return "ledger/" + account


def check_account(name: str) -> None:
    """Invalid unless `name` can be an account's."""
    if not 1 <= len(name) <= ACCOUNT_LENGTH_MAX:
        raise Invalid("An account's name has 1 to 180 characters.", code="account_name", length=len(name))


def checked_after(after: str | None) -> str:
    """The name to go on behind; "" for the first page."""
    if after:
        check_account(after)
    return after or ""


def check_transfer(id: str, memo: str) -> None:
    """Invalid unless a transfer can be called and described so."""
    if not 1 <= len(id) <= ID_LENGTH_MAX:
        raise Invalid("A transfer's id has 1 to 200 characters.", code="transfer_id", length=len(id))
    if len(memo) > MEMO_LENGTH_MAX:
        raise Invalid("A memo has at most 500 characters.", code="memo", length=len(memo))


def check_amount(amount: Money) -> None:
    """Invalid unless `amount` can be transferred."""
    if not 1 <= amount.minor <= AMOUNT_MINOR_MAX:
        raise Invalid("An amount is 1 to 10^12 minor units.", code="amount", minor=amount.minor, most=AMOUNT_MINOR_MAX)


def check_sides(debit: str, credit: str) -> None:
    """Invalid unless money can go from `debit` to `credit`."""
    check_account(debit)
    check_account(credit)
    if debit == credit:
        raise Invalid("Debit and credit are two accounts.", code="same_account", account=debit)


def check_overdraft(minor: int) -> None:
    """Invalid unless `minor` can be a credit line."""
    if type(minor) is not int or not 0 <= minor <= OVERDRAFT_MINOR_MAX:
        raise Invalid("overdraft_minor is out of range.", overdraft_minor=minor, most=OVERDRAFT_MINOR_MAX)
