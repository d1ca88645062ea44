"""The receiver of webhooks: what it takes, it has written down, whoever is killed afterwards."""

from __future__ import annotations

import base64
import http.client
import time
from pathlib import Path

import pytest

from onefold import webhooks
from onefold.testing import listening
from onefold.testing.listening import Listening
from onefold.testing.receiver import Delivery, Receiver, deliveries, tell

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
BODY = b'{"type":"order.placed","data":{"order":"order-1"}}'


def post(receiver: Receiver, id: str, secret: str, path: str = "/shop/ok") -> int:
    connection = http.client.HTTPConnection(receiver.base.removeprefix("http://"), timeout=20)
    connection.request("POST", path, BODY, webhooks.sign(id, int(time.time()), BODY, [secret]))
    status = connection.getresponse().status
    connection.close()
    return status


def test_one_that_does_not_begin_is_told_and_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "START_S", 0.01)
    hangs = Listening("-c", "import sys; sys.stdin.read()")
    with pytest.raises(TimeoutError, match=r"within 0.01 s"), hangs:
        pass
    assert hangs._process is not None
    assert hangs._process.poll() is not None
    monkeypatch.undo()
    with pytest.raises(RuntimeError, match="Listening did not start"), Listening("-c", ""):
        pass


def test_what_was_answered_is_written_down_and_outlives_the_process(tmp_path: Path) -> None:
    body = {"type": "order.placed", "data": {"order": "order-1"}}
    with Receiver(tmp_path) as receiver:
        assert post(receiver, "msg_0", SECRET) == 401, "nobody told it the secret yet"
        tell(receiver.base, "shop", SECRET)
        assert post(receiver, "msg_1", SECRET) == 204
        assert post(receiver, "msg_1", SECRET, "/shop/fail") == 500
        assert post(receiver, "msg_2", SECRET, "/shop/nothing") == 404
        seen = receiver.seen("shop")
        assert (seen["ids"], seen["unsigned"]) == ({"msg_1": 2, "msg_2": 1}, 1)
    with Receiver(tmp_path) as receiver:
        tell(receiver.base, "shop", SECRET)
        assert post(receiver, "msg_3", SECRET) == 204
    first = Delivery("shop", None, None)
    assert deliveries(tmp_path) == [first, *(Delivery("shop", f"msg_{n}", body) for n in (1, 1, 2, 3))]
