"""What a dispatcher is told."""

from __future__ import annotations

from typing import Any

from onefold.core.errors import Invalid
from onefold.host.outgoing import TIMEOUT_MS_MAX, Policy
from onefold.messaging.webhooks.delivering import LEASE_MS_MAX, LEASE_MS_MIN

CONCURRENCY_MAX = 1_000
POLL_MS_MAX = 60_000
DRAIN_MS_MAX = 600_000


class Settings:
    """Checked arguments of `Dispatcher`, which explains them."""

    def __init__(
        self, *, policy: Policy, timeout_ms: int, concurrency: int, lease_ms: int, poll_ms: int, drain_ms: int,
        resolver: Any,
    ) -> None:  # fmt: skip
        for value, least, most, what in (
            (timeout_ms, 100, TIMEOUT_MS_MAX, "timeout_ms"), (concurrency, 1, CONCURRENCY_MAX, "concurrency"),
            (lease_ms, LEASE_MS_MIN, LEASE_MS_MAX, "lease_ms"), (poll_ms, 10, POLL_MS_MAX, "poll_ms"),
            (drain_ms, 0, DRAIN_MS_MAX, "drain_ms"),
        ):  # fmt: skip
            if not least <= value <= most:
                raise Invalid("A dispatcher's setting is out of range.", what=what, value=value, least=least, most=most)
        self.policy = policy
        self.timeout_ms = timeout_ms
        self.concurrency = concurrency
        self.lease_ms = lease_ms
        self.poll_ms = poll_ms
        self.drain_ms = drain_ms
        self.resolver = resolver
