"""Money: every visitor has a wallet, filled by the bank with play money; sales go to the till.

The wallet is limited: nobody spends more than is in it. Bank and till are unlimited, so that no
two purchases wait for each other.
"""

from __future__ import annotations

from examples.boxoffice.hall import CURRENCY

from onefold import Money, NotFound, Tx, ledger

BANK = "bank"
TILL = "box-office"
WELCOME = Money(150_000, CURRENCY)
TOP_UP = Money(50_000, CURRENCY)
TOP_UPS_MAX_MINOR = 500_000  # Nobody gets rich by pressing a button.


def wallet(visitor: str) -> str:
    """The name of a visitor's account."""
    return f"wallet/{visitor}"


def open_house_accounts(tx: Tx) -> None:
    """Open bank and till; again and again does no harm."""
    ledger.open_account(tx, BANK, currency=CURRENCY, kind="unlimited")
    ledger.open_account(tx, TILL, currency=CURRENCY, kind="unlimited")


def open_wallet(tx: Tx, visitor: str) -> None:
    """Open the wallet with the welcome money in it, once."""
    ledger.open_account(tx, wallet(visitor), currency=CURRENCY)
    ledger.transfer(tx, f"welcome/{visitor}", debit=BANK, credit=wallet(visitor), amount=WELCOME)


def balance(tx: Tx, visitor: str) -> Money:
    """What the visitor can spend; a wallet that is not open yet will have the welcome money."""
    try:
        with tx.savepoint():
            return ledger.balance(tx, wallet(visitor)).posted
    except NotFound:
        return WELCOME


def top_up(tx: Tx, visitor: str, *, key: str) -> Money:
    """Put more play money into the wallet, once for each key; answer what is in it."""
    open_wallet(tx, visitor)
    if ledger.balance(tx, wallet(visitor)).posted.minor < TOP_UPS_MAX_MINOR:
        ledger.transfer(tx, f"top-up/{visitor}/{key}", debit=BANK, credit=wallet(visitor), amount=TOP_UP)
    return balance(tx, visitor)
