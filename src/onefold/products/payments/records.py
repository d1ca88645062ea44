"""What payments speak of: intents and refunds, their events and jobs; and how much of each."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from onefold.core.errors import Invalid
from onefold.core.limits import CONTROL, NO_CONTROL, money, text, whole
from onefold.core.money import Money
from onefold.messaging import events, jobs
from onefold.products.payments.provider import DisputeState, RefundState

ID_LENGTH_MAX = 100
REFUND_ID_LENGTH_MAX = 120
TEXT_LENGTH_MAX = 200  # Of a reference, a method and a reason.
PAYEE_LENGTH_MAX = 180
PROVIDER_LENGTH_MAX = 40
AMOUNT_MINOR_MAX = 10**12
KEEP_MS_MAX = 31 * 86_400_000  # Card networks let authorisations lapse after a week to a month.
REFUND_KEEP_MS = 366 * 86_400_000  # How long a refund without answer keeps what it reserved.
GIVE_UP_MS = 30 * 86_400_000  # How long a provider that does not answer is asked after that.
ASK_AGAIN_MS_FIRST = 1_000
ASK_AGAIN_MS_MAX = 3_600_000
LOOK_BACK_MS = (3_600_000, 86_400_000)  # After a cancel: what is taken all the same is found, callback or not.
ANSWER_TIMEOUT_MS_MAX = 60_000
LATE = ".late"  # Ends the ids of automatic refunds.

State = Literal[
    "requires_payment", "processing", "unknown", "authorised", "captured", "partially_refunded", "refunded",
    "canceled", "failed", "disputed",
]  # fmt: skip
Asked = Literal["authorise", "capture", "cancel"]

_ID = re.compile(r"[A-Za-z0-9_.:\-]+")  # Goes into URLs and headers of all kinds of providers as it is.
_PROVIDER = re.compile(r"[a-z0-9_\-]+")

IntentId = Annotated[str, text(1, ID_LENGTH_MAX, _ID)]
IntentCursor = Annotated[str, text(0, ID_LENGTH_MAX, re.compile(f"(?:{_ID.pattern})?"))]
RefundId = Annotated[str, text(1, REFUND_ID_LENGTH_MAX, _ID)]
_NEW = Meta(extra_json_schema={"not": {"pattern": rf"{re.escape(LATE)}$"}})
NewIntentId = Annotated[IntentId, _NEW]
NewRefundId = Annotated[RefundId, _NEW]
ProviderName = Annotated[str, text(1, PROVIDER_LENGTH_MAX, _PROVIDER)]
Payee = Annotated[str, text(1, PAYEE_LENGTH_MAX, NO_CONTROL)]
Text = Annotated[str, text(0, TEXT_LENGTH_MAX, NO_CONTROL)]
Method = Annotated[str, text(1, TEXT_LENGTH_MAX, NO_CONTROL)]
Amount = Annotated[Money, money(1, AMOUNT_MINOR_MAX)]
PartOfIt = Annotated[Money | None, money(1, AMOUNT_MINOR_MAX)]
KeepMs = Annotated[int, whole(1, KEEP_MS_MAX)]


class Intent(msgspec.Struct, frozen=True):
    """What somebody is to pay, and how far that went.

    Attributes:
        id: 1 to 100 letters, digits and . _ : -; the key under which the provider is asked.
        provider: whom to ask.
        payee: the account of the ledger that gets the money.
        amount: what is to be paid.
        reference: what for: an order, a hold; "" for nothing in particular.
        automatic: captured as soon as it is authorised.
        created_at_ms: when it was made.
        expires_at_ms: from when on a success comes too late, and nothing is reserved any more.
        state: where it stands; see the page.
        method: what the buyer pays with: the provider's token, never a card's number.
        asked: what the provider still has to answer; None for nothing.
        asks: how often no answer came.
        to_capture: what `capture` asks for.
        captured: what was taken.
        refunding: what is on its way back.
        refunded: what went back.
        late: what was taken after it had ended; it is refunded by itself.
        disputed: what a dispute is about.
        dispute: "open", "won" (the money is ours again), "lost".
        reason: why it was canceled or failed.
        changed_at_ms: when it last changed.
    """

    id: str
    provider: str
    payee: str
    amount: Money
    reference: str
    automatic: bool
    created_at_ms: int
    expires_at_ms: int
    state: State
    method: str
    asked: Asked | None
    asks: int
    to_capture: Money
    captured: Money
    refunding: Money
    refunded: Money
    late: Money
    disputed: Money
    dispute: DisputeState | None
    reason: str
    changed_at_ms: int


class Refund(msgspec.Struct, frozen=True):
    """Money on its way back, or there.

    Attributes:
        id: 1 to 120 characters as of an intent; the provider's key.
        intent_id: which payment.
        amount: how much of it.
        automatic: it gives back what came late; nobody asked for it.
        state: "pending" until the provider has answered, then "succeeded" or "failed".
        asks: how often no answer came.
        reason: for people.
        created_at_ms: when it was asked for.
        changed_at_ms: when it last changed.
    """

    id: str
    intent_id: str
    amount: Money
    automatic: bool
    state: RefundState
    asks: int
    reason: str
    created_at_ms: int
    changed_at_ms: int


@events.kind("payment.moved")
class PaymentMoved(msgspec.Struct, frozen=True):
    """An intent went from one state to another; in the stream "payment/ID"."""

    intent: str
    was: State
    state: State
    captured: Money
    refunded: Money
    reason: str


@events.kind("payment.late")
class PaymentLate(msgspec.Struct, frozen=True):
    """Money came for an intent that had ended; `refund` gives it back."""

    intent: str
    amount: Money
    refund: str


@events.kind("payment.refund")
class RefundMoved(msgspec.Struct, frozen=True):
    """A refund was asked for, succeeded or failed; in the stream of its intent."""

    intent: str
    refund: str
    amount: Money
    automatic: bool
    state: RefundState


@jobs.kind("payments.settle", attempts=100, timeout_ms=2 * ANSWER_TIMEOUT_MS_MAX + 30_000)
class Settle(msgspec.Struct, frozen=True):
    """Ask the provider what the intent's row says is to be asked. `look`: ask where the charge stands."""

    intent: str
    look: bool = False


@jobs.kind("payments.refund", attempts=100, timeout_ms=2 * ANSWER_TIMEOUT_MS_MAX + 30_000)
class SettleRefund(msgspec.Struct, frozen=True):
    """Ask the provider for a refund that is pending."""

    refund: str


def accounts_of(provider: str, currency: str) -> tuple[str, str, str]:
    """Clearing, unclaimed and disputed: the accounts of the ledger that stand for the provider."""
    base = f"payments/{provider}/{currency}"
    return f"{base}/clearing", f"{base}/unclaimed", f"{base}/disputed"


def clearing_of(intent: Intent) -> str:
    """The account that is debited by what the provider took for us: its balance is what it owes us, below zero."""
    return accounts_of(intent.provider, intent.amount.currency)[0]


def unclaimed_of(intent: Intent) -> str:
    """The account that holds what came late, until it is refunded."""
    return accounts_of(intent.provider, intent.amount.currency)[1]


def disputed_of(intent: Intent) -> str:
    """The account that bears what the provider took back for disputes, until they end."""
    return accounts_of(intent.provider, intent.amount.currency)[2]


def check_id(id: str) -> None:
    """Invalid unless an intent can be called so."""
    if not (len(id) <= ID_LENGTH_MAX and _ID.fullmatch(id)):
        raise Invalid("An intent's id is 1 to 100 letters, digits and . _ : -", code="intent_id", length=len(id))


def check_refund_id(id: str) -> None:
    """Invalid unless a refund can be called so."""
    if not (len(id) <= REFUND_ID_LENGTH_MAX and _ID.fullmatch(id)):
        raise Invalid("A refund's id is 1 to 120 letters, digits and . _ : -", code="refund_id", length=len(id))


def check_provider(name: str) -> None:
    """Invalid unless a provider can be called so."""
    if not (len(name) <= PROVIDER_LENGTH_MAX and _PROVIDER.fullmatch(name)):
        raise Invalid("A provider's name is 1 to 40 of a-z, 0-9, _ and -", code="provider", length=len(name))


def check_payee(payee: str) -> None:
    """Invalid unless it can be an account of the ledger."""
    if not 1 <= len(payee) <= PAYEE_LENGTH_MAX or CONTROL.search(payee):
        raise Invalid("A payee is an account of the ledger, 1 to 180 characters.", code="payee", length=len(payee))


def check_text(text: str, *, least: int = 0) -> None:
    """Invalid when a reference, method or reason is too long or no plain text."""
    if not least <= len(text) <= TEXT_LENGTH_MAX or CONTROL.search(text):
        raise Invalid(
            "A reference, method or reason has at most 200 characters, none of them control characters.",
            code="text", length=len(text), least=least,
        )  # fmt: skip


def check_amount(amount: Money) -> None:
    """Invalid unless it can be paid."""
    if not 1 <= amount.minor <= AMOUNT_MINOR_MAX:
        raise Invalid("An amount is 1 to 10^12 minor units.", code="amount", minor=amount.minor, most=AMOUNT_MINOR_MAX)
