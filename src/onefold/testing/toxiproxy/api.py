"""The HTTP API of toxiproxy 2, so that its clients in any language work with this one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec

from onefold.core.errors import Conflict, Invalid, NotFound, OnefoldError
from onefold.testing.toxiproxy.proxies import Proxies
from onefold.testing.toxiproxy.toxics import toxic_of

BODY_BYTES_MAX = 65_536
ANSWER_S = 30.0
VERSION = "2.9.0"  # Whose API this is.

Answer = tuple[int, Any]
NOTHING: Answer = (404, {"error": "there is nothing here", "status": 404})


class Api:
    """What each request does; on the proxies' loop."""

    def __init__(self, proxies: Proxies) -> None:
        self._proxies = proxies

    async def answer(self, verb: str, path: str, body: bytes) -> Answer:
        """Status and JSON; errors are said as toxiproxy says them."""
        try:
            return await self._route(verb, [unquote(part) for part in path.strip("/").split("/")], body)
        except OnefoldError as error:
            status = 404 if isinstance(error, NotFound) else 409 if isinstance(error, Conflict) else 400
            return status, {"error": error.text, "status": status, "facts": error.facts}

    async def _route(self, verb: str, parts: list[str], body: bytes) -> Answer:
        changing = {"PATCH": "POST"}.get(verb, verb)
        match (changing, *parts):
            case ("GET", "version"):
                return 200, {"version": VERSION}
            case ("POST", "reset"):
                await self._proxies.reset()
                return 204, None
            case ("POST", "populate"):
                return 201, {"proxies": [proxy.described() for proxy in await self._proxies.populate(_list(body))]}
            case ("GET", "proxies"):
                return 200, {proxy.name: proxy.described() for proxy in self._proxies.every()}
            case ("POST", "proxies"):
                return 201, (await self._proxies.create(_object(body))).described()
            case ("GET", "proxies", name):
                return 200, self._proxies.get(name).described()
            case ("POST", "proxies", name):
                return 200, (await self._proxies.update(name, _object(body))).described()
            case ("DELETE", "proxies", name):
                await self._proxies.remove(name)
                return 204, None
            case (_, "proxies", name, "toxics", *rest):
                return self._toxics(changing, name, rest, body)
            case _:
                return NOTHING

    def _toxics(self, verb: str, name: str, rest: list[str], body: bytes) -> Answer:
        proxy = self._proxies.get(name)
        match (verb, *rest):
            case ("GET",):
                return 200, proxy.described()["toxics"]
            case ("POST",):
                toxic = toxic_of(_object(body))
                proxy.add(toxic)
                return 200, msgspec.to_builtins(toxic)
            case ("GET", which):
                return 200, msgspec.to_builtins(proxy.toxic(which))
            case ("POST", which):
                toxic = toxic_of(_object(body), present=proxy.toxic(which))
                proxy.put(toxic)
                return 200, msgspec.to_builtins(toxic)
            case ("DELETE", which):
                proxy.remove(which)
                return 204, None
            case _:
                return NOTHING


def _object(body: bytes) -> dict[str, Any]:
    return _decoded(body, dict[str, Any])


def _list(body: bytes) -> list[Any]:
    return list(_decoded(body, list[dict[str, Any]]))


def _decoded(body: bytes, kind: Any) -> Any:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Invalid("bad request body", code="body", why=str(error)) from None


class ApiServer(ThreadingHTTPServer):
    """Hands each request to the loop; on loopback only."""

    daemon_threads = True

    def __init__(self, port: int, api: Api, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.api = api
        self.run = run


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = ANSWER_S

    def do_GET(self) -> None:
        """Every verb is answered alike."""
        length = self.headers.get("content-length") or "0"
        if self.headers.get("transfer-encoding") or not length.isdigit() or int(length) > BODY_BYTES_MAX:
            self.close_connection = True
            self._send(413, {"error": "a body has at most 64 KiB, and says so", "status": 413})
            return
        # A page in a browser must not steer it: no browser of today sends a request without saying what it is.
        if self.headers.get("user-agent", "").startswith("Mozilla/"):
            self._send(403, {"error": "User agent not allowed", "status": 403})
            return
        body = self.rfile.read(int(length))
        server = self.server
        assert isinstance(server, ApiServer)
        self._send(*server.run(server.api.answer(self.command, urlsplit(self.path).path, body)))

    do_POST = do_PATCH = do_DELETE = do_GET  # noqa: N815  As the base class wants them.

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Nothing."""

    def _send(self, status: int, value: Any) -> None:
        body = b"" if value is None else msgspec.json.encode(value)
        self.send_response(status)
        if status != 204:
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def runner(loop: asyncio.AbstractEventLoop) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Something that runs coroutines on `loop` from other threads and waits for them."""
    return lambda coroutine: asyncio.run_coroutine_threadsafe(coroutine, loop).result(ANSWER_S)
