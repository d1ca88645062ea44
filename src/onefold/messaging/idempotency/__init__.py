"""Idempotency: what was asked once is done once, and answered alike ever after. See README.md."""

from onefold.messaging.idempotency.ops import Answer, answer_of, once, sweep

__all__ = ["Answer", "answer_of", "once", "sweep"]
