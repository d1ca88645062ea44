"""An app without a network, and a server with one."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

from onefold import Database, tokens
from onefold.core.route import Route
from onefold.server import App, asgi
from onefold.server.run import CONNECTIONS_MAX, Limits, Server, listen, run_server


@dataclass(frozen=True)
class Reply:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, read."""
        return json.loads(self.body)


def bearer_for(db: Database, *rights: str, space_name: str = "") -> str:
    """A new token as its holder sends it."""
    secret, digest = tokens.new_secret()
    token = db.run(tokens.create, "test", digest=digest, rights=rights or ("*",), space_name=space_name)
    db.run(tokens.touch, token.id)  # So that its first use writes nothing.
    return tokens.bearer(token.id, secret)


class Direct:
    """Calls the ASGI app as a server would, without one; `token` goes along unless told otherwise."""

    def __init__(self, app: App, db: Database) -> None:
        self.app = app
        self.db = db
        self.token = bearer_for(db)
        self._runner = asyncio.Runner()

    def __call__(
        self, method: str, target: str, *, body: bytes | None = None, send: Any = None,
        headers: Mapping[str, str] | None = None, token: str | None = "", root_path: str = "",
    ) -> Reply:
        """One request; `send` becomes JSON, `token=None` sends none."""
        fields = {name.lower(): value for name, value in (headers or {}).items()}
        if send is not None:
            body = json.dumps(send).encode()
        if body is not None:
            fields.setdefault("content-type", "application/json")
            fields.setdefault("content-length", str(len(body)))
        if token is not None:
            fields.setdefault("authorization", f"Bearer {token or self.token}")
        path, _, query = target.partition("?")
        scope = {
            "type": "http", "method": method, "path": root_path + unquote(path), "root_path": root_path,
            "raw_path": (root_path + quote(path, safe="/%")).encode(), "query_string": query.encode("latin-1"),
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in fields.items()],
        }  # fmt: skip
        return self._runner.run(self._call(scope, body or b""))

    def close(self) -> None:
        """End the loop."""
        self._runner.close()

    async def _call(self, scope: dict[str, Any], body: bytes) -> Reply:
        messages: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            messages.append(message)

        await self.app(scope, receive, send)
        head = {name.decode(): value.decode("latin-1") for name, value in messages[0]["headers"]}
        return Reply(messages[0]["status"], head, b"".join(m.get("body", b"") for m in messages[1:]))


class Served:
    """A server on a loopback port, in a thread."""

    def __init__(self, app: App, port: int, token: str, stop: Callable[[], None]) -> None:
        self.app = app
        self.port = port
        self.token = token
        self.stop = stop

    def request(
        self, method: str, target: str, *, send: Any = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """One request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        fields = {"authorization": f"Bearer {self.token}", **(headers or {})}
        body = None
        if send is not None:
            body = json.dumps(send).encode()
            fields["content-type"] = "application/json"
        try:
            connection.request(method, target, body=body, headers=fields)
            answer = connection.getresponse()
            return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()


@contextmanager
def serving(db: Database, *routes: Route, connections_max: int = CONNECTIONS_MAX, **limits: int) -> Iterator[Served]:
    """Serve `db`, with the routes of all blocks unless some are given."""
    app = asgi(db, routes=routes or None, **limits)
    ready = threading.Event()
    server = Server(app, Limits(lame_duck_ms=0, drain_ms=5_000, connections_max=connections_max), ready=ready.set)
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(target=run_server, args=(server, listener))
        thread.start()
        try:
            assert ready.wait(20)
            yield Served(app, port, bearer_for(db), server.end_from_thread)
        finally:
            server.end_from_thread()
            thread.join(30)
            assert not thread.is_alive()
