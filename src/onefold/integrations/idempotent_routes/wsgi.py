"""The middleware for WSGI: Flask, Django, and apps without a framework."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from http import HTTPStatus
from io import BytesIO
from typing import Any, Unpack
from urllib.parse import quote

from onefold.core.errors import Invalid, OnefoldError
from onefold.engine.database import Handle
from onefold.integrations.idempotent_routes.exchange import (
    Headers,
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
from onefold.integrations.idempotent_routes.renewing import log
from onefold.messaging import idempotency
from onefold.messaging.idempotency import http
from onefold.server.problems import Refused

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
App = Callable[[Environ, StartResponse], Iterable[bytes]]


class WSGI:
    """Runs the app once for each key, and answers alike ever after.

    See `ASGI`, whose arguments are the same; `tenant` is asked with the WSGI environ, and the app finds
    its attempt as `environ["onefold.attempt"]`. A request without its whole body is refused.

    Raises:
        Invalid: an argument is out of range.
    """

    def __init__(
        self, app: App, db: Handle, *, tenant: Callable[[Environ], str | None], **options: Unpack[Options]
    ) -> None:
        self._app = app
        self._rules = Rules(db, tenant=tenant, **options)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """PEP 3333."""
        begun: idempotency.Attempt | idempotency.Answer[http.Head] | None = None
        body = b""
        try:
            sent = environ.get("HTTP_IDEMPOTENCY_KEY")
            keys = [] if sent is None else [sent.encode("latin-1")]
            asked = self._rules.asked(environ, environ["REQUEST_METHOD"], _path(environ), keys)
            if asked is not None:
                body = self._body(environ)
                query = environ.get("QUERY_STRING", "").encode("latin-1")
                begun = self._rules.db.run(
                    idempotency.begin, asked[0], scope=asked[1], kind=http.Head, **self._rules.times,
                    request=http.request_of(query, environ.get("CONTENT_TYPE", ""), body),
                )
        except (OnefoldError, Refused) as error:
            return _say(start_response, problem(error))
        if begun is None:
            return self._app(environ, start_response)
        reply = replay(begun) if isinstance(begun, idempotency.Answer) else self._run(begun, body, environ)
        return _say(start_response, reply)

    def _body(self, environ: Environ) -> bytes:
        most = self._rules.request_bytes_max
        length = environ.get("CONTENT_LENGTH") or ""
        if not length and not environ.get("wsgi.input_terminated"):
            return b""
        if length and not (length.isascii() and length.isdigit()):
            raise Refused(400, "content_length", "Content-Length is no number.")
        wanted = int(length.lstrip("0")[:20] or "0") if length else most + 1
        if length and wanted > most:
            raise too_large(most)
        parts: list[bytes] = []
        while wanted and (part := environ["wsgi.input"].read(wanted)):
            parts.append(part)
            wanted -= len(part)
        body = b"".join(parts)
        if len(body) > most:
            raise too_large(most)
        if length and wanted:
            raise Refused(400, "body_short", "The body ended before its length.")
        return body

    def _run(self, attempt: idempotency.Attempt, body: bytes, environ: Environ) -> Reply:
        inner = {
            **environ, "onefold.attempt": attempt, "wsgi.input": BytesIO(body), "CONTENT_LENGTH": str(len(body)),
        }  # fmt: skip
        for name in ("wsgi.file_wrapper", "HTTP_TRANSFER_ENCODING"):
            inner.pop(name, None)  # A file would pass by what is stored; the body is whole by now.
        held = _Held()
        self._rules.renewals.add(attempt)
        try:
            reply = held.read(self._app(inner, held.start_response))
            final = http.is_final(reply.status)
        except Invalid as error:
            if not held.withheld:
                self._release(attempt)
                raise
            reply, final = unstorable(error), True
        except Exception:
            self._release(attempt)
            raise
        finally:
            self._rules.renewals.drop(attempt)
        if not final:
            self._release(attempt)
            return reply
        try:
            try:
                self._finish(attempt, reply)
            except Invalid as error:  # Its headers have no form that is kept.
                reply = unstorable(error)
                self._finish(attempt, reply)
        except OnefoldError as error:
            return problem(error)
        return reply

    def _finish(self, attempt: idempotency.Attempt, reply: Reply) -> None:
        self._rules.db.run(idempotency.finish, attempt, self._rules.head(reply), body=reply.body)

    def _release(self, attempt: idempotency.Attempt) -> None:
        self._rules.renewals.drop(attempt)
        try:
            self._rules.db.run(idempotency.release, attempt)
        except OnefoldError as error:
            note_unreleased(error)


class _Held:
    """A response on its way, held back until it is whole and stored."""

    def __init__(self) -> None:
        self.withheld = False
        self._status = 0
        self._headers: Headers = []
        self._parts: list[bytes] = []
        self._size = 0

    def start_response(self, status: str, headers: Headers, _exc_info: Any = None) -> Callable[[bytes], None]:
        self._status = int(status.split(" ", 1)[0])
        self._headers = list(headers)
        return self._add

    def read(self, response: Iterable[bytes]) -> Reply:
        close = getattr(response, "close", _nothing)
        try:
            for part in response:
                self._add(part)
            self._check()
        except BaseException:
            close()
            raise
        try:
            close()
        except Exception:  # The client would have the whole answer by now, and what it tells of is done.
            log.exception("closing the response of an idempotent route failed")
        return Reply(self._status, self._headers, b"".join(self._parts))

    def _add(self, part: bytes) -> None:
        self._parts.append(part)
        self._size += len(part)
        self._check()

    def _check(self) -> None:
        try:
            http.check_size(self._headers, self._size)
        except Invalid:
            self.withheld = True
            raise


def _nothing() -> None:
    """What closes a response that need not be closed."""


def _path(environ: Environ) -> str:
    return quote((environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")).encode("latin-1"))


def _say(start_response: StartResponse, reply: Reply) -> list[bytes]:
    try:
        phrase = HTTPStatus(reply.status).phrase
    except ValueError:
        phrase = "Unknown"
    start_response(f"{reply.status} {phrase}", sendable(reply))
    return [reply.body]
