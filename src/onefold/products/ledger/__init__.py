"""Double entry: money moves between two accounts, or not at all, and only once. See README.md."""

from __future__ import annotations

from onefold.products.ledger.accounts import account_of, list_accounts, open_account, set_overdraft
from onefold.products.ledger.auditing import audit, audit_journal
from onefold.products.ledger.client import LOOPS
from onefold.products.ledger.ops import pend, post, transfer, transfer_of, try_pend, try_transfer, void
from onefold.products.ledger.reading import balance, history, list_pendings
from onefold.products.ledger.records import (
    AMOUNT_MINOR_MAX,
    BALANCE_MINOR_MAX,
    OVERDRAFT_MINOR_MAX,
    TIMEOUT_MS_MAX,
    Account,
    AccountKind,
    Audit,
    Balance,
    Entry,
    Fault,
    Transfer,
    TransferKind,
    TransferState,
)

__all__ = [
    "AMOUNT_MINOR_MAX", "BALANCE_MINOR_MAX", "LOOPS", "OVERDRAFT_MINOR_MAX", "TIMEOUT_MS_MAX", "Account",
    "AccountKind", "Audit", "Balance", "Entry", "Fault", "Transfer", "TransferKind", "TransferState", "account_of",
    "audit", "audit_journal", "balance", "history", "list_accounts", "list_pendings", "open_account", "pend",
    "post", "set_overdraft", "transfer", "transfer_of", "try_pend", "try_transfer", "void",
]  # fmt: skip
