"""Calling an ASGI or a WSGI app without a server, and an app that does as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any
from urllib.parse import quote, unquote

from onefold import idempotency, idempotent_routes

KINDS = ["asgi", "wsgi"]


class Died(BaseException):
    """What a killed process looks like to those around it: nobody handles it."""


@dataclass
class Answer:
    """What the middleware or the app under it said."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


class Told:
    """An app that gives `answer`, and notes the numbers of the attempts that ran."""

    def __init__(self) -> None:
        self.answer: Answer | str | None = None
        self.numbers: list[int | None] = []
        self.bodies: list[bytes] = []

    def asked(self, attempt: idempotency.Attempt | None, body: bytes) -> Answer:
        self.numbers.append(attempt.number if attempt else None)
        self.bodies.append(body)
        if self.answer == "dies":
            raise Died
        if self.answer == "raises":
            raise ZeroDivisionError
        assert isinstance(self.answer, Answer), "the app was called"
        return self.answer

    async def asgi(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        answer = self.asked(scope.get("onefold.attempt"), body)
        headers = [(name.encode(), value.encode()) for name, value in answer.headers]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        half = len(answer.body) // 2
        await send({"type": "http.response.body", "body": answer.body[:half], "more_body": True})
        await send({"type": "http.response.body", "body": answer.body[half:]})

    def wsgi(self, environ: Any, start_response: Any) -> Any:
        answer = self.asked(environ.get("onefold.attempt"), environ["wsgi.input"].read())
        write = start_response(f"{answer.status} Said", answer.headers)
        half = len(answer.body) // 2
        write(answer.body[:half])
        return [answer.body[half:]]


def guarded(kind: str, told: Told, **rules: Any) -> Callable[..., Answer]:
    """A function that sends one request through the middleware of that kind."""
    rules.setdefault("tenant", lambda request: request["tenant"])
    if kind == "asgi":
        asgi = idempotent_routes.ASGI(told.asgi, **rules)
        return lambda **request: asyncio.run(_ask_asgi(asgi, **request))
    wsgi = idempotent_routes.WSGI(told.wsgi, **rules)
    return lambda **request: _ask_wsgi(wsgi, **request)


async def _ask_asgi(
    app: Any, *, method: str, path: str, query: str, tenant: str | None, content_type: str, key: str | None, body: bytes
) -> Answer:
    headers = [(b"content-type", content_type.encode())]
    if key is not None:
        headers.append((b"idempotency-key", key.encode("latin-1")))
    scope = {"type": "http", "method": method, "path": unquote(path), "raw_path": quote(path, safe="/%").encode(),
             "query_string": query.encode(), "headers": headers, "tenant": tenant}  # fmt: skip
    unread = [body[: len(body) // 2], body[len(body) // 2 :]]
    said: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": unread.pop(0), "more_body": bool(unread)}

    async def send(message: Any) -> None:
        said.append(message)

    await app(scope, receive, send)
    assert [message["type"] for message in said][0] == "http.response.start"
    found = [(name.decode(), value.decode()) for name, value in said[0]["headers"]]
    return Answer(said[0]["status"], found, b"".join(message["body"] for message in said[1:]))


def _ask_wsgi(
    app: Any, *, method: str, path: str, query: str, tenant: str | None, content_type: str, key: str | None, body: bytes
) -> Answer:
    environ = {"REQUEST_METHOD": method, "SCRIPT_NAME": "", "PATH_INFO": unquote(path), "QUERY_STRING": query,
               "CONTENT_TYPE": content_type, "CONTENT_LENGTH": str(len(body)), "wsgi.input": BytesIO(body),
               "tenant": tenant}  # fmt: skip
    if key is not None:
        environ["HTTP_IDEMPOTENCY_KEY"] = key
    said: list[Any] = []
    written: list[bytes] = []

    def start_response(status: str, headers: Any, _exc_info: Any = None) -> Any:
        said.append((int(status[:3]), headers))
        return written.append

    parts = app(environ, start_response)
    body = b"".join(parts)
    return Answer(said[0][0], said[0][1], b"".join(written) + body)
