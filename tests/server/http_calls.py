"""An app without a network, and a server with one."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from onefold import Database
from onefold.core.route import Route
from onefold.server import App, asgi
from onefold.server.run import CONNECTIONS_MAX, Limits, Server, listen, run_server
from onefold.testing.http import Caller, Reply, bearer_for


class Direct(Caller):
    """Calls the app of a database with a token of all rights."""

    def __init__(self, app: App, db: Database) -> None:
        super().__init__(app, token=bearer_for(db))
        self.db = db


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
