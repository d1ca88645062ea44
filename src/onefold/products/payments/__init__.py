"""Payments: money from outside, asked for under one key and never twice, whatever happens. See README.md."""

from __future__ import annotations

from onefold.products.payments.auditing import IntentAudit, IntentFault, audit_charges, audit_intents
from onefold.products.payments.callbacks import receive
from onefold.products.payments.client import LOOPS, handlers
from onefold.products.payments.http import HttpProvider, signature
from onefold.products.payments.ops import (
    authorise,
    cancel,
    capture,
    create,
    intent_of,
    list_intents,
    list_refunds,
    open_accounts,
    refund,
    refund_of,
)
from onefold.products.payments.provider import (
    Callback,
    Charge,
    DisputeRecord,
    NoAnswer,
    Provider,
    RefundRecord,
)
from onefold.products.payments.reconciling import Report, audit
from onefold.products.payments.records import (
    Intent,
    PaymentLate,
    PaymentMoved,
    Refund,
    RefundMoved,
    Settle,
    SettleRefund,
    State,
)
from onefold.products.payments.settling import observe
from onefold.products.payments.transport import HttpTransport, Transport

__all__ = [
    "LOOPS", "Callback", "Charge", "DisputeRecord", "HttpProvider", "HttpTransport", "Intent", "IntentAudit",
    "IntentFault", "NoAnswer", "PaymentLate", "PaymentMoved", "Provider", "Refund", "RefundMoved", "RefundRecord",
    "Report", "Settle", "SettleRefund", "State", "Transport", "audit", "audit_charges", "audit_intents", "authorise",
    "cancel", "capture", "create", "handlers", "intent_of", "list_intents", "list_refunds", "observe", "open_accounts",
    "receive", "refund", "refund_of", "signature",
]  # fmt: skip
