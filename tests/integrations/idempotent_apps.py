"""One payment route in four frameworks, behind the middleware; as servers in this process, or a process to kill.

`python idempotent_apps.py FRAMEWORK URL EFFECTS [LEASE_MS]` prints its port, serves, and prints "effect" when it has paid.
"""

from __future__ import annotations

import http.client
import itertools
import json
import logging
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from fastapi import Request

import onefold
from onefold import Database, idempotency, idempotent_routes

FRAMEWORKS = ["fastapi", "starlette", "flask", "django"]
TENANT = "x-tenant"
WAIT_S = 20.0
REQUEST_BYTES_MAX = 4_096

Result = tuple[int, dict[str, str], bytes | Iterator[bytes]]


@dataclass
class House:
    """What the route does, and what it did."""

    numbers: list[int | None] = field(default_factory=list)  # Of the attempts that ran; None without a key.
    middle: Callable[[], object] = lambda: None  # Called after the effect, before the answer.

    def pay(self, attempt: idempotency.Attempt | None, body: bytes) -> Result:
        """The effect outside the database is one more number."""
        asked = json.loads(body or b"{}")
        self.numbers.append(attempt.number if attempt else None)
        paid = len(self.numbers)
        self.middle()
        head = {"content-type": "application/json", "location": f"/payments/{paid}", "x-trace": f"t{paid}",
                "set-cookie": f"seen={paid}"}  # fmt: skip
        how = asked.get("how", "pay")
        if how == "pay":
            return 201, head, json.dumps({"paid": paid}).encode()
        if how == "empty":
            return 204, {"etag": f'"{paid}"'}, b""
        if how == "refuse":
            return 402, head, b'{"why":"no money"}'
        if how == "busy":
            return 503, head, b"{}"
        if how == "large":
            return 200, head, b"x" * 65_537
        if how == "chunks":
            return 200, head, iter([b"one,", b"two,", str(paid).encode()])
        if how == "events":
            return 200, head | {"content-type": "text/event-stream"}, (b"data: %d\n\n" % n for n in itertools.count())
        raise RuntimeError(how)


def fastapi(house: House, middleware: dict[str, Any]) -> Any:
    from fastapi import FastAPI
    from fastapi.concurrency import run_in_threadpool

    app = FastAPI()
    app.add_middleware(idempotent_routes.ASGI, **middleware)

    @app.post("/payments")
    async def pay(request: Request) -> Any:
        body = await request.body()
        return _starlette_response(await run_in_threadpool(house.pay, request.scope.get("onefold.attempt"), body))

    return app


def starlette(house: House, middleware: dict[str, Any]) -> Any:
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.middleware import Middleware
    from starlette.routing import Route

    async def pay(request: Any) -> Any:
        body = b"".join([part async for part in request.stream()])
        return _starlette_response(await run_in_threadpool(house.pay, request.scope.get("onefold.attempt"), body))

    return Starlette(
        routes=[Route("/payments", pay, methods=["POST"])], middleware=[Middleware(idempotent_routes.ASGI, **middleware)]
    )


def _starlette_response(result: Result) -> Any:
    from starlette.responses import Response, StreamingResponse

    status, headers, body = result
    return (Response if isinstance(body, bytes) else StreamingResponse)(body, status, headers)


def flask(house: House, middleware: dict[str, Any]) -> Any:
    from flask import Flask, Response, request

    app = Flask(__name__)
    app.logger.setLevel(logging.CRITICAL)

    @app.post("/payments")
    def pay() -> Any:
        status, headers, body = house.pay(request.environ.get("onefold.attempt"), request.get_data())
        return Response(body, status, headers)

    app.wsgi_app = idempotent_routes.WSGI(app.wsgi_app, **middleware)
    return app


def django(house: House, middleware: dict[str, Any]) -> Any:
    inner = _django_app()

    def with_house(environ: dict[str, Any], start_response: Any) -> Any:
        return inner({**environ, "house": house}, start_response)

    return idempotent_routes.WSGI(with_house, **middleware)


def _django_pay(request: Any) -> Any:
    from django.http import HttpResponse, StreamingHttpResponse

    environ = request.environ
    status, headers, body = environ["house"].pay(environ.get("onefold.attempt"), request.body)
    kind = HttpResponse if isinstance(body, bytes) else StreamingHttpResponse
    return kind(body, status=status, headers=headers)


def _django_app() -> Any:
    import django as package
    from django.conf import settings
    from django.core.wsgi import get_wsgi_application
    from django.urls import path

    if not settings.configured:
        settings.configure(INSTALLED_APPS=[], DATABASES={}, USE_TZ=True)  # As `django_users`: one process has one.
        package.setup()
    settings.ROOT_URLCONF, settings.ALLOWED_HOSTS = (path("payments", _django_pay),), ["127.0.0.1"]
    settings.SECRET_KEY = "for tests"
    logging.getLogger("django").setLevel(logging.CRITICAL)
    return get_wsgi_application()


def tenant_of(request: dict[str, Any]) -> str | None:
    """From an ASGI scope or a WSGI environ."""
    if "headers" in request:
        return dict(request["headers"]).get(TENANT.encode(), b"").decode() or None
    return request.get("HTTP_X_TENANT")


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


class _Threaded(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = True

    def handle_error(self, *_: object) -> None:
        pass  # Clients of these tests go away on purpose.


@contextmanager
def serving(framework: str, house: House, db: Database, **options: Any) -> Iterator[int]:
    """Serve on a loopback port, in a thread, until the block ends; gives the port."""
    rules = {"db": db, "tenant": tenant_of, "request_bytes_max": REQUEST_BYTES_MAX, **options}
    app = globals()[framework](house, rules)
    if framework in {"flask", "django"}:
        server = _Threaded(("127.0.0.1", 0), _Quiet)
        server.set_app(app)
        port = server.server_port
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        stop = server.shutdown
    else:
        import uvicorn

        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        asgi = uvicorn.Server(uvicorn.Config(app, log_level=100, lifespan="off", access_log=False))
        thread = threading.Thread(target=asgi.run, kwargs={"sockets": [listener]})

        def stop() -> None:
            asgi.should_exit = True

    thread.start()
    try:
        yield port
    finally:
        stop()
        thread.join(WAIT_S)
        if framework in {"flask", "django"}:
            server.server_close()
        assert not thread.is_alive()


@dataclass
class Reply:
    """What came over the wire."""

    line: tuple[int, str]
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def status(self) -> int:
        return self.line[0]

    @property
    def replayed(self) -> bool:
        return self.header("idempotent-replayed") == "true"

    @property
    def code(self) -> str:
        return json.loads(self.body)["code"]

    def header(self, name: str) -> str | None:
        return dict(self.headers).get(name)


def post(port: int, body: Any = None, *, key: str | None = "k1", tenant: str | None = "ana", raw: bytes = b"") -> Reply:
    """One request on a connection of its own."""
    headers = {"content-type": "application/json"}
    if key is not None:
        headers["idempotency-key"] = key
    if tenant is not None:
        headers[TENANT] = tenant
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    try:
        connection.request("POST", "/payments", raw or json.dumps(body or {}).encode(), headers)
        answer = connection.getresponse()
        found = [(name.lower(), value) for name, value in answer.getheaders()]
        return Reply((answer.status, answer.reason), found, answer.read())
    finally:
        connection.close()


class Victim:
    """A server process to kill."""

    def __init__(self, *arguments: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__, *map(str, arguments)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.port = int(self.process.stdout.readline())

    def __enter__(self) -> Victim:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(WAIT_S)
        self.process.stdout.close()
        self.process.stdin.close()


def main(framework: str, url: str, effects: str, lease_ms: str = "60000") -> None:
    """Pay into a file, tell, and wait for the end."""

    def middle() -> None:
        with Path(effects).open("ab", 0) as file:
            file.write(b"paid\n")
        print("effect", flush=True)
        sys.stdin.readline()

    with onefold.connect(url) as db, serving(framework, House(middle=middle), db, lease_ms=int(lease_ms)) as port:
        print(port, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
