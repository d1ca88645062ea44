"""Idempotency: what was asked once is done once, and answered alike ever after. See README.md."""

from onefold.messaging.idempotency.ops import answer_of, begin, finish, once, release, renew, sweep
from onefold.messaging.idempotency.records import Answer, Attempt

__all__ = ["Answer", "Attempt", "answer_of", "begin", "finish", "once", "release", "renew", "sweep"]
