"""What a client over HTTP makes of each answer, and of none: asked again only where that cannot do it twice."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from onefold import Conflict, Denied, Invalid, NotFound, OnefoldError, Retry, Unknown
from onefold.testing.workload.servers import Servers

NOTHING = 0  # The connection ends without an answer.
DONE = (200, "")
BUSY = (409, "in_flight")


class Node(BaseHTTPRequestHandler):
    """Answers what it is told to, one after the other; the last for ever."""

    protocol_version = "HTTP/1.1"
    script: list[tuple[int, str]]
    keys: list[str | None]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.keys.append(self.headers.get("idempotency-key"))
        status, code = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if status == NOTHING:
            self.close_connection = True
            return
        body = json.dumps({"code": code} if code else {"n": len(self.keys)}).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def node() -> Iterator[tuple[type[Node], int]]:
    made = type("Made", (Node,), {"script": [DONE], "keys": []})
    with HTTPServer(("127.0.0.1", 0), made) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield made, server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def ask(node: tuple[type[Node], int], *script: tuple[int, str], method: str = "POST", key: str = "k", deadline_ms: int = 10_000):
    made, port = node
    made.script[:] = script
    servers = Servers([port], "token")
    try:
        return servers.ask(method, "/v1/x", None, key=key, deadline_ms=deadline_ms)
    finally:
        servers.close()


@pytest.mark.parametrize("before", [[], [(503, "")], [(NOTHING, "")], [(504, "unknown")], [(NOTHING, ""), BUSY, (429, "")]])
def test_who_has_a_key_asks_until_somebody_answers(node, before) -> None:
    assert ask(node, *before, DONE) == {"n": len(before) + 1}
    assert node[0].keys == ["k"] * (len(before) + 1)


@pytest.mark.parametrize(("status", "kind"), [(400, Invalid), (403, Denied), (404, NotFound), (409, Conflict), (422, Invalid)])
def test_a_refusal_is_what_it_would_be_here(node, status: int, kind: type[OnefoldError]) -> None:
    with pytest.raises(kind) as refused:
        ask(node, (503, ""), (status, "because"))
    assert refused.value.code == "because"


def test_a_refusal_after_a_try_without_answer_says_nothing_of_that_try(node) -> None:
    with pytest.raises(Unknown):
        ask(node, (NOTHING, ""), (409, "held"))
    with pytest.raises(Conflict):
        ask(node, (NOTHING, ""), (409, "held"), method="GET", key="")


def test_without_a_key_a_request_that_may_have_been_heard_is_not_sent_again(node) -> None:
    with pytest.raises(Unknown):
        ask(node, (NOTHING, ""), DONE, key="")
    assert ask(node, (503, ""), DONE, key="") == {"n": 3}
    with pytest.raises(Conflict):
        ask(node, BUSY, key="")


def test_at_the_deadline_it_says_what_is_known(node) -> None:
    with pytest.raises(Retry):
        ask(node, (503, ""), deadline_ms=50)
    with pytest.raises(Unknown):
        ask(node, (NOTHING, ""), (503, ""), deadline_ms=50)
    with pytest.raises(Retry):
        ask(node, (NOTHING, ""), method="GET", key="", deadline_ms=50)
    with pytest.raises(Retry):
        Servers([1], "token").ask("POST", "/v1/x", None, key="", deadline_ms=50)  # Nobody listens there.


def test_a_server_that_fails_is_a_fault_of_ours(node) -> None:
    with pytest.raises(RuntimeError, match="500"):
        ask(node, (500, "error"))
