"""Idempotency: what was asked once is done once, and answered alike ever after. See README.md."""

from onefold.messaging.idempotency import http
from onefold.messaging.idempotency.ops import answer_of, begin, finish, once, release, renew, sweep
from onefold.messaging.idempotency.records import LEASE_MS_DEFAULT, TTL_MS_DEFAULT, Answer, Attempt

__all__ = [
    "LEASE_MS_DEFAULT", "TTL_MS_DEFAULT", "Answer", "Attempt", "answer_of", "begin", "finish", "http", "once",
    "release", "renew", "sweep",
]  # fmt: skip
