"""Where a provider's callbacks arrive in tests: an HTTP server that hands them to `payments.receive`."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from onefold import Handle, OnefoldError, payments


class Endpoint:
    """A shop's `POST /callbacks/fake`; what it received stands in `received`, True for the first time."""

    def __init__(self, db: Handle, provider: payments.HttpProvider) -> None:
        self.received: list[bool] = []
        received = self.received

        class Handler(BaseHTTPRequestHandler):
            timeout = 20

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                try:
                    callback = provider.callback(headers, body, now_ms=time.time_ns() // 1_000_000)
                    received.append(db.run(payments.receive, "fake", callback))
                    self.send_response(204)
                except OnefoldError:
                    self.send_response(400)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/callbacks/fake"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
