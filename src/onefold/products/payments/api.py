"""Routes of payments. Callbacks are no route: they show a signature instead of a token (see the page)."""

from __future__ import annotations

from typing import Any

from onefold.core.money import Money
from onefold.core.route import Route
from onefold.engine.tx import Tx
from onefold.products import ledger
from onefold.products.payments import auditing, ops, settling
from onefold.products.payments.provider import Charge

_PRICE = Money(4_500, "EUR")


def _new(tx: Tx) -> dict[str, Any]:
    ops.open_accounts(tx, "fake", currency="EUR")
    ledger.open_account(tx, "box-office", currency="EUR", kind="unlimited")
    return {
        "id": "pay_7", "provider": "fake", "amount": _PRICE, "payee": "box-office", "keep_ms": 600_000,
        "reference": "order/7", "capture": "manual",
    }  # fmt: skip


def _created(tx: Tx) -> dict[str, Any]:
    return {"id": ops.create(tx, **_new(tx)).id}


def _asked(tx: Tx) -> dict[str, Any]:
    return {**_created(tx), "method": "tok_visa"}


def _authorised(tx: Tx) -> dict[str, Any]:
    ops.authorise(tx, **_asked(tx))
    settling.observe(tx, "fake", Charge("pay_7", "authorised", "EUR", 4_500))
    return {"id": "pay_7"}


def _captured(tx: Tx) -> dict[str, Any]:
    _authorised(tx)
    settling.observe(tx, "fake", Charge("pay_7", "captured", "EUR", 4_500, 4_500))
    return {"id": "refund_1", "intent_id": "pay_7", "amount": Money(1_000, "EUR"), "reason": "late train"}


def _refunding(tx: Tx) -> dict[str, Any]:
    ops.refund(tx, **_captured(tx))
    return {"id": "refund_1"}


def _refunds(tx: Tx) -> dict[str, Any]:
    _refunding(tx)
    return {"intent_id": "pay_7"}


def _listed(tx: Tx) -> dict[str, Any]:
    _created(tx)
    return {"limit": 10}


def _audited(tx: Tx) -> dict[str, Any]:
    _captured(tx)
    return {"provider": "fake", "limit": 10}


ROUTES = (
    Route("POST", "/payments/accounts", ops.open_accounts, "payments:write",
          lambda _tx: {"provider": "fake", "currency": "EUR"}),
    Route("POST", "/payments/intents", ops.create, "payments:write", _new),
    Route("GET", "/payments/intents", ops.list_intents, "payments:read", _listed),
    Route("GET", "/payments/intents/{id}", ops.intent_of, "payments:read", _created),
    Route("POST", "/payments/intents/{id}/authorise", ops.authorise, "payments:write", _asked),
    Route("POST", "/payments/intents/{id}/capture", ops.capture, "payments:write", _authorised),
    Route("POST", "/payments/intents/{id}/cancel", ops.cancel, "payments:write",
          lambda tx: {**_authorised(tx), "reason": "changed their mind"}),
    Route("GET", "/payments/intents/{intent_id}/refunds", ops.list_refunds, "payments:read", _refunds),
    Route("POST", "/payments/intents/{intent_id}/refunds", ops.refund, "payments:write", _captured),
    Route("GET", "/payments/refunds/{id}", ops.refund_of, "payments:read", _refunding),
    Route("GET", "/payments/audit", auditing.audit_intents, "payments:read", _audited),
)  # fmt: skip
