"""The middleware for ASGI 3: FastAPI, Starlette, Django's ASGI handler, and apps without a framework."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Unpack
from urllib.parse import quote

from onefold.core.errors import Invalid, OnefoldError
from onefold.engine.database import Handle
from onefold.integrations.idempotent_routes.exchange import (
    Options,
    Reply,
    Rules,
    note_unreleased,
    problem,
    replay,
    sendable,
    too_large,
    unstorable,
)
from onefold.messaging import idempotency
from onefold.messaging.idempotency import http
from onefold.server.problems import Refused

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

BODY_S_MAX = 30.0  # For a whole body, as long as `onefold serve` gives it; servers of ASGI do not count.


class ASGI:
    """Runs the app once for each key, and answers alike ever after.

    The app finds its `idempotency.Attempt` as `scope["onefold.attempt"]`: a `number` of 2 or more says
    that an earlier attempt ended without an answer. The whole response is held back until it is stored.

    Args:
        app: what is behind.
        db: where the keys live; `db.at(...)` for a space of their own.
        tenant: who calls, from the ASGI scope, 1 to 100 characters: keys of different tenants never meet.
            None for nobody known: the request goes to the app without a key, and the app refuses it.
        keys: from method and path, whether a route takes a key: "off", "optional", "required".
        lease_ms: how long after its process died a request is taken over by a duplicate, 1 ms to one hour. It is
            renewed after a third of it for as long as the app runs.
        run_ms_max: how long a request is renewed at most, up to one day: one that hangs is taken over then. 0 for
            no renewal: then the app must end within its lease.
        ttl_ms: how long an answer is kept, 1 ms to 31 days.
        request_bytes_max: of a body under a key. It is read whole, for 30 s at most, before the app
            runs.
        keep_headers: more response headers that replays repeat, besides `http.KEPT_HEADERS`.

    Raises:
        Invalid: an argument is out of range.
    """

    def __init__(
        self, app: App, db: Handle, *, tenant: Callable[[Scope], str | None], **options: Unpack[Options]
    ) -> None:
        self._app = app
        self._rules = Rules(db, tenant=tenant, **options)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI 3."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun: idempotency.Attempt | idempotency.Answer[http.Head] | None = None
        body = b""
        try:
            sent = [value for name, value in scope["headers"] if name == b"idempotency-key"]
            asked = self._rules.asked(scope, scope["method"], _path(scope), sent)
            if asked is not None:
                body = await self._body(receive)
                begun = await self._rules.db.arun(
                    idempotency.begin, asked[0], scope=asked[1], kind=http.Head, **self._rules.times,
                    request=http.request_of(scope["query_string"], _content_type(scope), body),
                )
        except _Gone:
            return  # Before it had asked anything.
        except (OnefoldError, Refused) as error:
            await _say(send, problem(error))
            return
        if begun is None:
            await self._app(scope, receive, send)
        elif isinstance(begun, idempotency.Answer):
            await _say(send, replay(begun))
        else:
            await self._run(begun, body, scope, receive, send)

    async def _body(self, receive: Receive) -> bytes:
        try:
            async with asyncio.timeout(BODY_S_MAX):
                return await self._whole(receive)
        except TimeoutError:
            raise Refused(408, "slow", "The body came too slowly.") from None

    async def _whole(self, receive: Receive) -> bytes:
        most = self._rules.request_bytes_max
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Gone
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > most:
                raise too_large(most)
            if not message.get("more_body", False):
                return b"".join(parts)

    async def _run(
        self, attempt: idempotency.Attempt, body: bytes, scope: Scope, receive: Receive, send: Send
    ) -> None:
        held = _Held(self._rules, attempt, send)
        unread = [body]

        async def receive_again() -> Message:
            if unread:
                return {"type": "http.request", "body": unread.pop(), "more_body": False}
            return await receive()

        # Without extensions: a path to send, or trailers, would pass by what is stored.
        inner = {**scope, "onefold.attempt": attempt, "extensions": {}}
        self._rules.renewals.add(attempt)
        try:
            await self._app(inner, receive_again, held.send)
        except _Withheld:
            return
        except Exception:
            if held.withheld:
                return  # A framework's name for it.
            if not held.over:
                await self._release(attempt)
            raise
        finally:
            self._rules.renewals.drop(attempt)  # A task that is cancelled comes by here too, and keeps its lease.
        if not held.over:
            await self._release(attempt)  # No response: the client is gone, or the app is at fault.

    async def _release(self, attempt: idempotency.Attempt) -> None:
        self._rules.renewals.drop(attempt)
        try:
            await self._rules.db.arun(idempotency.release, attempt)
        except OnefoldError as error:
            note_unreleased(error)


class _Gone(Exception):  # noqa: N818  No error of ours.
    """The client went away."""


class _Withheld(OSError):  # noqa: N818
    """Raised into an app whose response was refused, as a server does when the client has gone."""


class _Held:
    """A response on its way, held back until it is whole and stored."""

    def __init__(self, rules: Rules, attempt: idempotency.Attempt, send: Send) -> None:
        self.over = False
        self.withheld = False
        self._rules = rules
        self._attempt = attempt
        self._send = send
        self._status = 0
        self._headers: list[tuple[str, str]] = []
        self._parts: list[bytes] = []
        self._size = 0

    async def send(self, message: Message) -> None:
        if self.withheld:
            raise _Withheld
        if message["type"] == "http.response.start":
            if message["status"] < 200:
                await self._send(message)  # Not a response yet.
                return
            self._status = message["status"]
            self._headers = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in message.get("headers", ())]
        elif message["type"] == "http.response.body":
            self._parts.append(message.get("body", b""))
            self._size += len(self._parts[-1])
        try:
            http.check_size(self._headers, self._size)
        except Invalid as error:
            self.withheld = True
            await self._end(unstorable(error), final=True)
            raise _Withheld from None
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            reply = Reply(self._status, self._headers, b"".join(self._parts))
            await self._end(reply, final=http.is_final(reply.status))

    async def _end(self, reply: Reply, *, final: bool) -> None:
        self.over = True
        self._rules.renewals.drop(self._attempt)  # What the app does after its answer needs no key.
        try:
            if final:
                try:
                    await self._finish(reply)
                except Invalid as error:  # Its headers have no form that is kept.
                    reply = unstorable(error)
                    await self._finish(reply)
            else:
                await self._rules.db.arun(idempotency.release, self._attempt)
        except OnefoldError as error:
            if final:
                reply = problem(error)
            else:
                note_unreleased(error)
        await _say(self._send, reply)

    async def _finish(self, reply: Reply) -> None:
        await self._rules.db.arun(idempotency.finish, self._attempt, self._rules.head(reply), body=reply.body)


def _path(scope: Scope) -> str:
    raw: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
    return raw.partition(b"?")[0].decode("latin-1")


def _content_type(scope: Scope) -> str:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == b"content-type"), "")


async def _say(send: Send, reply: Reply) -> None:
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in sendable(reply)]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body, "more_body": False})
