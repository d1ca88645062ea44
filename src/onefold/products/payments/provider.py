"""What a payment provider is to us: five calls under our keys, each answered with the charge as it stands.

An adapter keeps three promises. Every call carries the key that it was given, so that the provider does it
once however often it is asked. A call whose outcome the adapter cannot tell raises `NoAnswer`, at the latest
after `timeout_s`. A callback is read only after its signature was verified.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

import msgspec

from onefold.core.money import Money

ChargeState = Literal["authorised", "captured", "canceled", "declined"]
RefundState = Literal["pending", "succeeded", "failed"]
DisputeState = Literal["open", "won", "lost"]

REFUNDS_MAX = 100  # Of one charge: what is answered has to end somewhere.


class NoAnswer(Exception):  # noqa: N818  Not an error of ours: the world outside kept silent.
    """The call may or may not have had its effect. It is resolved by `query`, never by a new key."""


class RefundRecord(msgspec.Struct, frozen=True):
    """A refund as the provider has it."""

    id: str
    amount_minor: int
    state: RefundState


class DisputeRecord(msgspec.Struct, frozen=True):
    """A dispute as the provider has it; while it is open or lost the provider has taken the money back."""

    amount_minor: int
    state: DisputeState


class Charge(msgspec.Struct, frozen=True):
    """The charge of one intent, as the provider has it.

    Attributes:
        key: the intent's id.
        state: "authorised", "captured", "canceled", "declined".
        currency: of all its amounts.
        amount_minor: what was authorised.
        captured_minor: what was taken.
        reference: what it is for, as the intent said.
        refunds: at most 100.
        dispute: the buyer's bank wants it back.
    """

    key: str
    state: ChargeState
    currency: str
    amount_minor: int
    captured_minor: int = 0
    reference: str = ""
    refunds: tuple[RefundRecord, ...] = ()
    dispute: DisputeRecord | None = None

    @property
    def refunded_minor(self) -> int:
        """What went back by refunds."""
        return sum(refund.amount_minor for refund in self.refunds if refund.state == "succeeded")

    @property
    def disputed_minor(self) -> int:
        """What the provider took back for a dispute."""
        return self.dispute.amount_minor if self.dispute and self.dispute.state != "won" else 0


class Callback(msgspec.Struct, frozen=True):
    """What a provider told by itself: `event_id` is the same however often it is told."""

    event_id: str
    charge: Charge


class Provider(Protocol):
    """A payment provider. Calls are made from threads, outside of transactions.

    Raises:
        NoAnswer: from each call, when its outcome cannot be told.
        Any other error: the provider refuses the request itself; people have to look.
    """

    def authorise(
        self, key: str, amount: Money, *, method: str, capture: bool, reference: str, timeout_s: float
    ) -> Charge:
        """Reserve `amount` from the buyer's `method`; with `capture` take it as well, if the provider can."""
        ...

    def capture(self, key: str, amount: Money, *, timeout_s: float) -> Charge:
        """Take `amount`, at most what was authorised; the rest is free again."""
        ...

    def cancel(self, key: str, *, timeout_s: float) -> Charge:
        """Let go of what was authorised, or see to it that nothing will be. What was taken stays "captured"."""
        ...

    def refund(self, key: str, refund_id: str, amount: Money, *, timeout_s: float) -> Charge:
        """Give `amount` of what was taken back, under the key `refund_id`."""
        ...

    def query(self, key: str, *, timeout_s: float) -> Charge | None:
        """The charge as it stands, or None when the provider has never heard of it."""
        ...

    def charges(self, *, after: str | None, timeout_s: float) -> list[Charge]:
        """The provider's own record, in the order of the keys, from behind `after` on; empty at its end."""
        ...

    def callback(self, headers: Mapping[str, str], body: bytes, *, now_ms: int) -> Callback:
        """Read a callback, whose headers have names in small letters.

        Raises:
            Denied: its signature is wrong, or older than five minutes.
        """
        ...
