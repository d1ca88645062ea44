"""The ASGI app: finds the route, asks who calls, reads the arguments, runs the function, answers.

It is plain ASGI: a router over the tree of paths is all that an API needs, and the frameworks
measured cost as much again as the rest of a request. Mount it in any ASGI app, or `onefold serve`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Iterable, MutableMapping
from typing import Any
from urllib.parse import quote

import msgspec

from onefold.core.errors import Denied, OnefoldError
from onefold.core.route import Route
from onefold.engine.call import DEADLINE_MS_MAX
from onefold.engine.database import Database, Handle
from onefold.engine.tx import Tx
from onefold.messaging import idempotency, webhooks
from onefold.server import dashboard, logs, metrics, openapi, pages, problems, stream
from onefold.server.auth import Caller, Gatekeeper
from onefold.server.binding import PREFIX, Bound, text_of
from onefold.server.problems import Headers, Refused
from onefold.server.routes import all_routes
from onefold.server.tree import Tree, parameters_of

_log = logging.getLogger("onefold.http")
_access = logging.getLogger("onefold.access")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

BODY_BYTES_MAX = 1 << 20
BODY_S_MAX = 30.0  # From the end of the head to the end of the body.
IN_FLIGHT_MAX = 1_024  # Requests that run at once; more are told to come again.
SUBSCRIBERS_MAX = 200  # Open event streams.
READY_MS = 250  # An answer of /readyz serves all who ask within this time.
READY_DEADLINE_MS = 2_000
METRICS_MS = 1_000  # The same for /metrics.
_TAKES_KEY = frozenset({webhooks.create, webhooks.rotate})  # With the name of a key; they know no file.

_JSON: Headers = [
    (b"content-type", b"application/json"),
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
]

_encode = msgspec.json.Encoder().encode


class Answer(msgspec.Struct, frozen=True):
    """A response that is ready."""

    status: int
    headers: Headers
    body: bytes


class App:
    """Serves one database over HTTP; see `asgi`."""

    def __init__(
        self, db: Database, routes: Iterable[Route], *, keys: webhooks.Keys | None, body_bytes_max: int,
        in_flight_max: int, subscribers_max: int,
    ) -> None:
        self._db = db
        self._keys = keys
        self.routes = [Bound(route) for route in routes]
        for route in self.routes:
            route.streams = route.fn in stream.FOLLOWED
        self._tree = Tree(self.routes)
        self._gatekeeper = Gatekeeper(db)
        self._body_bytes_max = body_bytes_max
        self._in_flight_max = in_flight_max
        self._in_flight = 0
        self.streams = stream.Streams(subscribers_max)
        self._dashboard = dashboard.Dashboard(db, self._gatekeeper)
        self.draining = False
        self._ready_until = 0.0
        self._ready_lock = asyncio.Lock()
        self._started = False
        self._answered: Counter[int] = Counter()
        self._metrics = _probe(503, "never asked")
        self._metrics_until = 0.0
        self._metrics_lock = asyncio.Lock()
        self._pages: dict[str, Answer] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI 3."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def drain(self) -> None:
        """Say "not ready" from now on, and end the event streams; other requests go on."""
        self.draining = True
        self.streams.close()
        await self._gatekeeper.drained()

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.drain()
        await send({"type": "lifespan.shutdown.complete"})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter_ns()
        where = f"{scope['method']} ?"
        who = ""
        request = logs.new_request_id(_given_request_id(scope))
        try:
            segments = _segments(scope)
            if segments[0] == PREFIX[1:]:
                route = self._route(scope["method"], segments[1:])
                where = route.where
                headers = _headers(scope)
                caller = await self._gatekeeper.caller(headers.get(b"authorization"))
                who = caller.token.id
                caller.must(route.needs)
                follows = route.streams and scope["method"] == "GET"
                if follows and b"text/event-stream" in headers.get(b"accept", b""):
                    await self._stream(route, caller, segments[1:], scope, headers, receive, send)
                    self._note(where, 200, started, who)
                    return
                answer = await self._call(route, caller, segments[1:], scope, headers, receive)
            elif segments[0] == dashboard.PATH:
                where = self._dashboard.where(scope["method"], segments[1:])
                page = await self._page(segments[1:], scope, receive, send)
                if page is None:
                    self._note(where, 200, started, who)
                    return
                answer, who = page
            else:
                answer = await self._own(segments, scope)
                where = f"{scope['method']} /{segments[0]}"
        except Exception as error:
            answer = Answer(*problems.answer_to(error, where))
        await _send(scope, send, answer, request)
        self._note(where, answer.status, started, who)

    # -- routes of blocks ---------------------------------------------------------------------

    def _route(self, method: str, segments: list[str]) -> Bound:
        verbs = self._tree.find(segments)
        if not verbs:
            raise Refused(404, "no_route", "There is nothing at this path.")
        route = verbs.get("GET" if method == "HEAD" else method)
        if route is None:
            allowed = sorted({*verbs, "HEAD"} if "GET" in verbs else verbs)
            allow = ", ".join(allowed).encode()
            raise Refused(405, "method", "The path knows other methods.", headers=[(b"allow", allow)])
        return route

    async def _call(
        self, route: Bound, caller: Caller, segments: list[str], scope: Scope, headers: dict[bytes, bytes],
        receive: Receive,
    ) -> Answer:
        with self._admitted():
            body = await self._body(headers, receive) if route.has_body else b""
            arguments = route.arguments(parameters_of(route, segments), scope["query_string"], body)
            if route.caller is not None:
                arguments[route.caller] = caller.token.id
            refusal = self._refusal(route, arguments)
            handle = caller.reader if route.verb == "GET" else caller.writer
            if (deadline := headers.get(b"onefold-deadline-ms")) is not None:
                handle = handle.options(deadline_ms=_deadline(deadline))
            if route.verb == "POST" and (sent := headers.get(b"idempotency-key")) is not None:
                key = idempotency.http.key_of([sent])
                assert key is not None
                return await self._call_once(route, caller, handle, key, arguments, refusal)
            if refusal is not None:
                raise refusal
            result = await handle.arun(route.fn, **arguments)
        if result is None and route.answers_nothing:
            return Answer(204, _JSON[1:], b"")
        return Answer(200, _JSON, _encode(result))

    def _refusal(self, route: Bound, arguments: dict[str, Any]) -> OnefoldError | None:
        """What stands against the call as things are now outside the database."""
        if self._keys is not None and route.fn in _TAKES_KEY:
            try:
                self._keys.check_known(arguments["key_id"])
            except OnefoldError as error:
                return error
        return None

    async def _call_once(
        self, route: Bound, caller: Caller, handle: Handle, key: str, arguments: dict[str, Any],
        refusal: OnefoldError | None,
    ) -> Answer:
        """Do it once for this token, route and key; the note and the effects are one transaction.

        What was answered stays answered: a refusal counts only while the key is new.
        """
        answer = await handle.arun(_once, key, route, arguments, refusal, scope=f"{caller.token.id} {route.where}")
        headers = [*_JSON, (b"idempotent-replayed", b"true")] if answer.replayed else _JSON
        if route.answers_nothing:
            return Answer(204, headers[1:], b"")
        return Answer(200, headers, bytes(answer.value))

    async def _page(
        self, segments: list[str], scope: Scope, receive: Receive, send: Send
    ) -> tuple[Answer, str] | None:
        """A page of the dashboard and who asked for it; None once it was streamed."""
        headers = _headers(scope)
        asked = dashboard.Asked(scope, segments, headers)
        if asked.follows:
            if self.draining:
                raise _draining()
            await self.streams.serve(await self._dashboard.follow(asked), receive, send)
            return None
        with self._admitted():
            if scope["method"] == "POST":
                asked.form = await self._body(headers, receive, kind_wanted=b"application/x-www-form-urlencoded")
            status, fields, body, who = await self._dashboard.answer(asked)
        return Answer(status, fields, body), who

    @contextlib.contextmanager
    def _admitted(self) -> Generator[None]:
        """One of the requests that run at once."""
        if self._in_flight >= self._in_flight_max:
            raise Refused(
                503, "overloaded", "Too many requests run at once.", headers=[(b"retry-after", b"1")],
                facts={"most": self._in_flight_max},
            )
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1

    async def _body(
        self, headers: dict[bytes, bytes], receive: Receive, *, kind_wanted: bytes = b"application/json"
    ) -> bytes:
        kind, _, parameters = headers.get(b"content-type", b"").partition(b";")
        charset = parameters.strip().lower().replace(b'"', b"")
        if (kind and kind.strip().lower() != kind_wanted) or charset not in {b"", b"charset=utf-8"}:
            raise _other_type(kind_wanted)
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise Refused(415, "content_encoding", "Send the body as it is, not compressed.")
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or len(length) > 12 or int(length) > self._body_bytes_max:
            raise self._too_large()
        try:
            async with asyncio.timeout(BODY_S_MAX):
                body = await self._read(receive)
        except TimeoutError:
            raise Refused(408, "slow", "The body came too slowly.", headers=[(b"connection", b"close")]) from None
        if body and not kind:
            raise _other_type(kind_wanted)
        return body

    async def _read(self, receive: Receive) -> bytes:
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Refused(400, "disconnected", "The client went away before the end of the body.")
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > self._body_bytes_max:
                raise self._too_large()
            chunks.append(chunk)
            if not message.get("more_body", False):
                return b"".join(chunks)

    def _too_large(self) -> Refused:
        # What follows of the body is not read, so the connection cannot be used again.
        return Refused(
            413, "too_large", "The body is too large.", headers=[(b"connection", b"close")],
            facts={"most_bytes": self._body_bytes_max},
        )

    async def _stream(
        self, route: Bound, caller: Caller, segments: list[str], scope: Scope, headers: dict[bytes, bytes],
        receive: Receive, send: Send,
    ) -> None:
        if self.draining:
            raise _draining()
        arguments = route.arguments(parameters_of(route, segments), scope["query_string"], b"")
        if last := headers.get(b"last-event-id"):
            arguments["after"] = stream.last_event_id(last)
        authorization = headers[b"authorization"]
        feed = stream.Feed(caller.reader, route.fn, arguments, lambda: self._gatekeeper.caller(authorization))
        await self.streams.serve(feed, receive, send)

    # -- what is not a block's ------------------------------------------------------------------

    async def _own(self, segments: list[str], scope: Scope) -> Answer:
        name = "/".join(segments)
        if name not in {"livez", "readyz", "startupz", "metrics", "openapi.json", "docs"}:
            raise Refused(404, "no_route", "There is nothing at this path.")
        if scope["method"] not in {"GET", "HEAD"}:
            raise Refused(405, "method", "The path knows other methods.", headers=[(b"allow", b"GET, HEAD")])
        if name == "livez":
            return _probe(200, "live")
        if name in {"readyz", "startupz"}:
            return await self._probed(name)
        caller = await self._gatekeeper.caller(_headers(scope).get(b"authorization"), page=True)
        if name == "metrics":
            return await self._measured(caller)
        if name not in self._pages:
            self._pages[name] = Answer(200, *pages.render(name, self.routes, body_bytes_max=self._body_bytes_max))
        return self._pages[name]

    async def _probed(self, name: str) -> Answer:
        if name == "startupz" and self._started:
            return _probe(200, "started")
        if self.draining:
            return _probe(503, "draining")
        async with self._ready_lock:  # One look at a time; the others share its answer.
            if self._ready_until < time.monotonic():
                try:
                    await self._db.options(deadline_ms=READY_DEADLINE_MS).reader().arun(_alive)
                except OnefoldError as error:
                    _log.warning("not ready: %s", error)
                    return _probe(503, "not ready")
                self._ready_until = time.monotonic() + READY_MS / 1_000
                self._started = True
        return _probe(200, "ready")

    async def _measured(self, caller: Caller) -> Answer:
        caller.must("metrics:read")
        if caller.token.space_name:  # They speak of all spaces, which is more than a tenant may see.
            raise Denied("Metrics are for tokens of the root space.", code="space")
        async with self._metrics_lock:  # One look at a time; who asks soon after shares its answer.
            if self._metrics_until < time.monotonic():
                made = await asyncio.to_thread(
                    metrics.page, self._db, dict(self._answered), self._in_flight, self.streams.count
                )
                self._metrics = Answer(200, [(b"content-type", metrics.CONTENT_TYPE), *_JSON[1:]], made)
                self._metrics_until = time.monotonic() + METRICS_MS / 1_000
            return self._metrics

    def _note(self, where: str, status: int, started: int, who: str) -> None:
        self._answered[status] += 1
        if _access.isEnabledFor(logging.INFO):
            took_ms = round((time.perf_counter_ns() - started) / 1e6, 2)
            _access.info("%s %d", where, status, extra={"status": status, "ms": took_ms, "token": who})


def asgi(
    db: Database,
    *,
    routes: Iterable[Route] | None = None,
    keys: webhooks.Keys | None = None,
    body_bytes_max: int = BODY_BYTES_MAX,
    in_flight_max: int = IN_FLIGHT_MAX,
    subscribers_max: int = SUBSCRIBERS_MAX,
) -> App:
    """An ASGI app that serves `db` under /v1, with /dashboard, /docs, /openapi.json and the probes beside it.

    Background loops are not started: run a `Supervisor` beside it, as `onefold serve` does.

    Args:
        db: stays the caller's to close, after the server has stopped.
        routes: instead of those of all blocks.
        keys: the key file of webhooks, which endpoints made or rotated here must name a key of. Without it any
            well-formed name is taken, and the file of the dispatcher decides.
        body_bytes_max: larger bodies are refused with 413.
        in_flight_max: requests running at once; more are refused with 503.
        subscribers_max: open event streams; more are refused with 503.

    Raises:
        Invalid: a route and its function do not fit, or two functions or record types in the routes have one name.
    """
    app = App(
        db, all_routes() if routes is None else routes, keys=keys, body_bytes_max=body_bytes_max,
        in_flight_max=in_flight_max, subscribers_max=subscribers_max,
    )
    if routes is not None:  # Those of the blocks are looked at by a test, not at every start.
        openapi.check_names(app.routes)
    return app


def _once(
    tx: Tx, key: str, route: Bound, arguments: dict[str, Any], refusal: OnefoldError | None, *, scope: str
) -> idempotency.Answer[msgspec.Raw]:
    def do() -> Any:
        if refusal is not None:
            raise refusal
        return route.fn(tx, **arguments)

    return idempotency.once(tx, key, do, scope=scope, request=arguments, kind=msgspec.Raw)


def _alive(tx: Tx) -> None:
    tx.one("SELECT 1 -- all spaces")


# On PostgreSQL it has a connection of its own: a busy server is not a dead one.
_alive.onefold_reserved = True  # pyright: ignore[reportFunctionMemberAccess]


def _segments(scope: Scope) -> list[str]:
    """The path below the mount point, cut at its slashes and only then unquoted: "%2F" is text."""
    raw: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
    parts = raw.split(b"?")[0].split(b"/")[1:]
    segments = [text_of(part) if b"%" in part else part.decode("latin-1") for part in parts]
    root = scope.get("root_path", "").strip("/")
    return (segments[root.count("/") + 1 :] if root else segments) or [""]


def _headers(scope: Scope) -> dict[bytes, bytes]:
    """The headers; of one sent twice the last, but two credentials or lengths are refused."""
    found: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name in found and name in {b"authorization", b"content-type", b"idempotency-key", b"last-event-id"}:
            raise Refused(400, "header", "A header stands there twice.", facts={"header": name.decode("latin-1")})
        found[name] = value
    return found


def _other_type(wanted: bytes) -> Refused:
    name = wanted.decode()
    return Refused(
        415, "content_type", "The body is of another type than is read here.", headers=[(b"accept", wanted)],
        facts={"send": f"{name} in UTF-8"},
    )


def _draining() -> Refused:
    return Refused(503, "draining", "The server is about to end.", headers=[(b"retry-after", b"1")])


def _deadline(raw: bytes) -> int:
    if not raw.isdigit() or len(raw) > 6 or not 1 <= int(raw) <= DEADLINE_MS_MAX:
        raise Refused(400, "deadline", "Onefold-Deadline-Ms is out of range.", facts={"most": DEADLINE_MS_MAX})
    return int(raw)


def _probe(status: int, word: str) -> Answer:
    return Answer(status, _JSON, _encode({"status": word}))


def _given_request_id(scope: Scope) -> bytes | None:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            return value
    return None


async def _send(scope: Scope, send: Send, answer: Answer, request: str) -> None:
    headers = [*answer.headers, (b"x-request-id", request.encode())]
    if answer.status != 204:
        headers.append((b"content-length", str(len(answer.body)).encode()))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else answer.body})
