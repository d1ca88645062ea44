"""An ASGI app called in this process, as a server would call it: no port, no thread, no wait.

with Caller(onefold.asgi(db), token=bearer_for(db)) as call:
assert call("GET", "/v1/jobs/stats").status == 200
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import quote, unquote

from onefold.engine.database import Database
from onefold.identity import tokens

ANSWER_S_MAX = 30.0

App = Callable[[Any, Any, Any], Awaitable[None]]


@dataclass(frozen=True)
class Reply:
    """What came back; the names of headers are in small letters, and what came of one name has ", " between."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, read."""
        return json.loads(self.body)


def bearer_for(db: Database, *rights: str, space_name: str = "") -> str:
    """A new token of the database, with all rights unless some are named, as its holder sends it."""
    secret, digest = tokens.new_secret()
    token = db.run(tokens.create, "test", digest=digest, rights=rights or ("*",), space_name=space_name)
    db.run(tokens.touch, token.id)  # So that its first use writes nothing.
    return tokens.bearer(token.id, secret)


class Caller:
    """Calls an app, of any framework. Its lifespan is not run.

    Args:
        app: what takes `scope, receive, send`.
        token: goes along as "Authorization: Bearer" unless a request says otherwise; "" for none.
    """

    def __init__(self, app: App, *, token: str = "") -> None:
        self.app = app
        self.token = token
        self._runner = asyncio.Runner()

    def __call__(
        self, method: str, target: str, *, body: bytes | None = None, send: Any = None,
        headers: Mapping[str, str] | None = None, token: str | None = "", root_path: str = "",
    ) -> Reply:  # fmt: skip
        """One request.

        Args:
            method: "GET", "POST" and so on.
            target: path and query.
            body: as it is; or
            send: what becomes JSON.
            headers: over those that this adds.
            token: another one; None sends none.
            root_path: where the app is mounted.

        Raises:
            TimeoutError: the answer was not whole within 30 s.
            RuntimeError: the app ended without an answer.
        """
        fields = {"host": "localhost"} | {name.lower(): value for name, value in (headers or {}).items()}
        if send is not None:
            body = json.dumps(send).encode()
        if body is not None:
            fields.setdefault("content-type", "application/json")
            fields.setdefault("content-length", str(len(body)))
        if token is not None and (token or self.token):
            fields.setdefault("authorization", f"Bearer {token or self.token}")
        path, _, query = target.partition("?")
        scope: dict[str, Any] = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "method": method,
            "path": root_path + unquote(path), "root_path": root_path,
            "raw_path": (root_path + quote(path, safe="/%")).encode(), "query_string": query.encode("latin-1"),
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in fields.items()],
        }  # fmt: skip
        return self._runner.run(self._call(scope, body or b""))

    def close(self) -> None:
        """End its loop."""
        self._runner.close()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End its loop."""
        self.close()

    async def _call(self, scope: dict[str, Any], body: bytes) -> Reply:
        messages: list[Any] = []
        asked, answered = [{"type": "http.request", "body": body, "more_body": False}], asyncio.Event()

        async def receive() -> dict[str, Any]:
            if asked:
                return asked.pop()
            await answered.wait()  # A client that has what it wants goes away.
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            messages.append(message)
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                answered.set()

        async with asyncio.timeout(ANSWER_S_MAX):
            await self.app(scope, receive, send)
        if not answered.is_set():
            raise RuntimeError("The app ended before its answer was whole.")
        head = dict[str, str]()
        for name, value in messages[0].get("headers", ()):  # ASGI lets them be left out.
            field, text = name.decode("latin-1").lower(), value.decode("latin-1")
            head[field] = f"{head[field]}, {text}" if field in head else text
        return Reply(messages[0]["status"], head, b"".join(m.get("body", b"") for m in messages[1:]))
