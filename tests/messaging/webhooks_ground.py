"""What the tests of webhooks share: a receiver in another process, keys, and a dispatcher that may call loopback."""

from __future__ import annotations

from typing import Any

from onefold import Database, Tx, webhooks
from onefold.host.outgoing import Policy
from onefold.testing import receiver

LOOPBACK = Policy(allow=("127.0.0.0/8",), http=True, ports=None)
HOUR_MS, DAY_MS = 3_600_000, 86_400_000


class Receiver(receiver.Receiver):
    """The other end."""

    def ids(self, name: str) -> dict[str, int]:
        """How often each message came, rightly signed; nothing unsigned may have come."""
        seen = self.seen(name)
        assert seen["unsigned"] == 0
        return seen["ids"]


def endpoint(db: Any, keys: webhooks.Keys, to: Receiver, name: str, mode: str = "ok", **options: Any) -> str:
    """An endpoint that the receiver knows the secret of."""
    made = db.run(webhooks.create, to.url(name, mode), key_id=keys.newest, **options)
    receiver.tell(to.base, name, keys.secrets_of(made, now_ms=0)[0])
    return made.id


def send(db: Any, type: str = "order.placed", count: int = 1) -> list[str]:
    """Send in one transaction; answer the ids that were committed (a rehearsal makes others)."""

    def send_all(tx: Tx) -> None:
        for number in range(count):
            webhooks.send(tx, type, {"number": number})

    before = known(db)
    db.run(send_all)
    return sorted(known(db) - before)


def known(db: Any) -> set[str]:
    rows = db.run(lambda tx: tx.all("SELECT id FROM onefold.webhook_messages WHERE space = :space ORDER BY id"))
    return {row[0] for row in rows}


def pending(db: Any, endpoint_id: str) -> list[webhooks.Pending]:
    return db.run(webhooks.list_pending, endpoint_id).items


def attempts(db: Any, endpoint_id: str) -> list[webhooks.Attempt]:
    return db.run(webhooks.list_attempts, endpoint_id).items


def failed(db: Any, endpoint_id: str) -> list[str]:
    return [one.message_id for one in db.run(webhooks.list_failed, endpoint_id).items]


def hasten(db: Any, endpoint_id: str) -> None:
    """What waits for a time is due now."""
    db.run(lambda tx: tx.run(
        "UPDATE onefold.webhook_pending SET at_ms = 0 WHERE space = :space AND endpoint_id = :id", id=endpoint_id
    ))  # fmt: skip
    db.run(lambda tx: tx.wake("webhooks"))


def dispatcher(db: Database, keys: webhooks.Keys, **settings: Any) -> webhooks.Dispatcher:
    return webhooks.Dispatcher(db, keys, **{"policy": LOOPBACK, "timeout_ms": 2_000, "poll_ms": 50, **settings})
