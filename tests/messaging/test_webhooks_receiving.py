"""The receiving end: messages signed by a library that is not ours, verified and handled once."""

from __future__ import annotations

import base64
import datetime as dt
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook

import onefold
from onefold import Conflict, Database, Denied, Invalid, Tx, webhooks

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
OTHER = "whsec_" + base64.b64encode(b"f" * 32).decode()
BODY = json.dumps({"type": "order.placed", "data": {"order": "order-1"}}).encode()


def signed(body: bytes = BODY, *, message: str = "msg_1", secret: str = SECRET, late_s: int = 0) -> dict[str, str]:
    at = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=late_s)
    return {
        "Webhook-Id": message, "Webhook-Timestamp": str(int(at.timestamp())),
        "Webhook-Signature": Webhook(secret).sign(message, at, body.decode()),
    }  # fmt: skip


def ship(tx: Tx, body: bytes, headers: Mapping[str, str], *, fails: bool = False) -> Any:
    def handle(said: Any) -> str:
        tx.add("shipped", 1)
        if fails:
            raise Conflict("Not today.")
        return str(said["data"]["order"])

    return webhooks.receive(tx, body, headers, handle, sender="shop", secrets=[SECRET, OTHER])


def shipped(db: Database) -> int:
    return db.run(lambda tx: tx.total("shipped"))


def test_a_message_is_handled_once_with_what_its_handler_wrote(db: Database) -> None:
    headers = signed()
    first, again = db.run(ship, BODY, headers), db.run(ship, BODY, headers)
    assert (first.value, first.replayed, again.value, again.replayed) == ("order-1", False, "order-1", True)
    assert shipped(db) == 1
    assert not db.run(ship, BODY, signed(message="msg_2")).replayed
    assert shipped(db) == 2


def test_what_failed_is_handled_when_it_comes_again(db: Database) -> None:
    with pytest.raises(Conflict, match="Not today"):
        db.run(ship, BODY, signed(), fails=True)
    assert shipped(db) == 0
    assert not db.run(ship, BODY, signed(secret=OTHER)).replayed
    assert shipped(db) == 1


@pytest.mark.parametrize(("sign", "body", "code"), [
    (dict, BODY, "signature"), (signed, BODY + b" ", "signature"), (lambda: signed(late_s=600), BODY, "timestamp"),
    (lambda: signed(secret="whsec_" + "A" * 40), BODY, "signature"), (lambda: signed(b"{"), b"{", "json"),
    (lambda: signed(b"[" * 100_000), b"[" * 100_000, "json"),
], ids=["unsigned", "changed", "late", "stranger", "no-json", "deep"])  # fmt: skip
def test_what_is_refused_writes_nothing(db: Database, sign: Callable[[], dict[str, str]], body: bytes, code: str) -> None:
    headers = sign()  # Now: what was signed five minutes ago is refused for that.
    with pytest.raises(Invalid if code == "json" else Denied) as refused:
        db.run(ship, body, headers)
    assert refused.value.code == code
    assert shipped(db) == 0


def test_a_sender_is_named(db: Database) -> None:
    for sender in ("", "s" * 101):
        with pytest.raises(Invalid):
            db.run(webhooks.receive, BODY, signed(), str, sender=sender, secrets=[SECRET])
    with pytest.raises(Invalid):
        db.run(webhooks.receive, b"x" * (1 << 20) + b"y", signed(), str, sender="shop", secrets=[SECRET])


def test_of_two_at_once_one_is_handled(db_url: str, threads: ThreadPoolExecutor) -> None:
    headers = signed()

    def come(db: Database) -> bool | None:
        try:
            return bool(db.run(ship, BODY, headers).replayed)
        except Conflict as error:
            assert error.code == "in_flight"  # Answered 409; the sender sends it again.
            return None

    with onefold.connect(db_url) as db:
        answers = list(threads.map(come, [db] * 8))
        assert answers.count(False) == 1
        assert shipped(db) == 1
