"""Routes of the ledger."""

from __future__ import annotations

from typing import Any

from onefold.core.money import Money
from onefold.core.route import Route
from onefold.engine.tx import Tx
from onefold.products.ledger import accounts, auditing, ops, reading

_PRICE = Money(4_500, "EUR")


def _new(_tx: Tx) -> dict[str, Any]:
    return {"account": "wallet/ana", "currency": "EUR"}


def _ground(tx: Tx) -> None:
    accounts.open_account(tx, "wallet/ana", currency="EUR")
    accounts.open_account(tx, "funding", currency="EUR", kind="unlimited")
    accounts.open_account(tx, "box-office", currency="EUR", kind="unlimited")
    ops.transfer(tx, "top-up/1", debit="funding", credit="wallet/ana", amount=Money(10_000, "EUR"))
    ops.pend(tx, "hold/1", debit="wallet/ana", credit="box-office", amount=_PRICE, timeout_ms=600_000)


def _account(tx: Tx) -> dict[str, Any]:
    _ground(tx)
    return {"account": "wallet/ana"}


def _line(tx: Tx) -> dict[str, Any]:
    return {**_account(tx), "overdraft_minor": 5_000}


def _nothing(tx: Tx) -> dict[str, Any]:
    _ground(tx)
    return {}


def _move(tx: Tx) -> dict[str, Any]:
    _ground(tx)
    return {"id": "order/7", "debit": "wallet/ana", "credit": "box-office", "amount": _PRICE}


def _reserve(tx: Tx) -> dict[str, Any]:
    return {**_move(tx), "timeout_ms": 600_000}


def _resolve(tx: Tx) -> dict[str, Any]:
    _ground(tx)
    return {"id": "capture/1", "pending_id": "hold/1"}


def _one(tx: Tx) -> dict[str, Any]:
    _ground(tx)
    return {"id": "top-up/1"}


ROUTES = (
    Route("POST", "/ledger/accounts", accounts.open_account, "ledger:write", _new),
    Route("GET", "/ledger/accounts", accounts.list_accounts, "ledger:read", _nothing),
    Route("GET", "/ledger/accounts/{account}", accounts.account_of, "ledger:read", _account),
    Route("GET", "/ledger/accounts/{account}/balance", reading.balance, "ledger:read", _account),
    Route("GET", "/ledger/accounts/{account}/history", reading.history, "ledger:read", _account),
    Route("GET", "/ledger/accounts/{account}/pendings", reading.list_pendings, "ledger:read", _account),
    Route("PUT", "/ledger/accounts/{account}/overdraft", accounts.set_overdraft, "ledger:write", _line),
    Route("POST", "/ledger/transfers", ops.transfer, "ledger:write", _move),
    Route("GET", "/ledger/transfers/{id}", ops.transfer_of, "ledger:read", _one),
    Route("POST", "/ledger/pendings", ops.pend, "ledger:write", _reserve),
    Route("POST", "/ledger/pendings/{pending_id}/post", ops.post, "ledger:write", _resolve),
    Route("POST", "/ledger/pendings/{pending_id}/void", ops.void, "ledger:write", _resolve),
    Route("GET", "/ledger/audit/accounts", auditing.audit, "ledger:read", _nothing),
    Route("GET", "/ledger/audit/journal", auditing.audit_journal, "ledger:read", _nothing),
)
