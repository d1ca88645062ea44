"""The fake provider over HTTP, with faults that are switched on over HTTP as well.

The protocol stands in `onefold.products.payments.http`. Besides:

    PUT  /faults                       a `Faults` record; what is left out is off
    PUT  /callbacks                    {url}: where to tell; "" for nowhere
    POST /charges/KEY/dispute          {amount_minor}; .../dispute/won and .../dispute/lost
    GET  /totals                       by its journal: taken less what went back, by currency
    GET  /state                        how many callbacks and late successes are still to come

The card "tok_declined" is declined whatever is switched on.
"""

from __future__ import annotations

import random
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from onefold.products.payments import Charge
from onefold.testing.provider import DECLINED
from onefold.testing.provider.later import Callbacks, Later
from onefold.testing.provider.record import Record

BODY_BYTES_MAX = 65_536
HANG_S_MAX = 60.0


class Faults(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How often what goes wrong: each a share of the calls, 0.0 to 1.0.

    Attributes:
        decline: an authorisation is refused for good.
        slow: a call is answered `slow_ms` late.
        timeout: a call is received, never worked on and never answered.
        unknown: a call is worked on, and never answered.
        duplicate: a callback comes twice.
        reorder: a callback comes up to `reorder_ms` late, behind younger ones.
        late: what is canceled is taken `late_ms` afterwards all the same.
    """

    decline: float = 0.0
    slow: float = 0.0
    timeout: float = 0.0
    unknown: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    late: float = 0.0
    slow_ms: int = 100
    reorder_ms: int = 300
    late_ms: int = 200
    seed: int = 0


class FakeServer(ThreadingHTTPServer):
    """The provider as a server; `file` is its record."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, port: int, file: Path, *, token: str, secret: bytes) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.token = token
        self.faults = Faults()
        self.later = Later()
        self.callbacks = Callbacks(self.later, secret)
        self.record = Record(file, self._changed)
        self._dice = random.Random(0)  # noqa: S311
        self._lock = threading.Lock()
        self._told = 0

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is no news here."""

    def set_faults(self, faults: Faults) -> None:
        """From now on."""
        with self._lock:
            self.faults, self._dice = faults, random.Random(faults.seed)  # noqa: S311

    def happens(self, share: float) -> bool:
        """Throw the dice."""
        with self._lock:
            return self._dice.random() < share

    def _changed(self, charge: Charge) -> None:
        with self._lock:
            self._told += 1
            event_id = f"evt_{self._told:012d}_{charge.key}"
            delay_s = self._dice.random() * self.faults.reorder_ms / 1_000
        body = msgspec.json.encode(charge)
        self.callbacks.tell(event_id, body, after_s=delay_s if self.happens(self.faults.reorder) else 0.0)
        if self.happens(self.faults.duplicate):
            self.callbacks.tell(event_id, body, after_s=delay_s)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # Head and body in one packet.
    disable_nagle_algorithm = True
    timeout = 120
    server: FakeServer  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        """Look."""
        self._serve(self._look)

    def do_POST(self) -> None:
        """Do, with faults."""
        self._serve(self._do)

    def do_PUT(self) -> None:
        """Switch."""
        self._serve(self._switch)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the record is the log."""

    def _serve(self, work: Any) -> None:
        length = int(self.headers.get("content-length") or 0)
        if length > BODY_BYTES_MAX:
            self.close_connection = True
            return self._answer(413, None)
        body = self.rfile.read(length)
        if self.headers.get("authorization") != f"Bearer {self.server.token}":
            return self._answer(401, None)
        try:
            work(urlsplit(self.path), msgspec.json.decode(body) if body else {})
        except (msgspec.DecodeError, KeyError, TypeError, ValueError):
            self._answer(400, None)

    def _look(self, url: Any, _body: Any) -> None:
        record = self.server.record
        if url.path == "/charges":
            return self._answer(200, record.page(parse_qs(url.query).get("after", [""])[0]))
        if url.path == "/totals":
            return self._answer(200, record.totals())
        if url.path == "/state":
            callbacks = self.server.callbacks
            return self._answer(
                200, {"waiting": self.server.later.waiting(), "told": callbacks.told, "given_up": callbacks.given_up}
            )
        charge = record.find(unquote(url.path.removeprefix("/charges/")))
        return self._answer(404 if charge is None else 200, charge)

    def _switch(self, url: Any, body: Any) -> None:
        if url.path == "/faults":
            self.server.set_faults(msgspec.convert(body, Faults))
        else:
            self.server.callbacks.url = body["url"]
        self._answer(200, None)

    def _do(self, url: Any, body: Any) -> None:
        faults, happens = self.server.faults, self.server.happens
        _, _, key, *verb = [unquote(part) for part in url.path.split("/")] if url.path != "/charges" else ["", "", ""]
        asked = None if key else _asked(body)
        if happens(faults.slow):
            threading.Event().wait(faults.slow_ms / 1_000)
        if happens(faults.timeout):
            if asked is not None:
                self.server.record.queue(asked)
            return self._keep_silent()
        charge = self._authorise(asked, body) if asked is not None else self._work(key, "/".join(verb), body)
        if happens(faults.unknown):
            return self._keep_silent()
        return self._answer(404 if charge is None else 200, charge)

    def _authorise(self, asked: Charge, body: Any) -> Charge:
        decline = body["method"] == DECLINED or self.server.happens(self.server.faults.decline)
        return self.server.record.authorise(asked, capture=bool(body["capture"]), decline=decline)

    def _work(self, key: str, verb: str, body: Any) -> Charge | None:
        record, faults = self.server.record, self.server.faults
        if verb == "capture":
            return record.capture(key, int(body["amount_minor"]))
        if verb == "refunds":
            return record.refund(key, str(body["id"]), int(body["amount_minor"]))
        if verb == "dispute":
            return record.dispute(key, int(body["amount_minor"]), "open")
        if verb in {"dispute/won", "dispute/lost"}:
            found = record.find(key)
            minor = found.dispute.amount_minor if found and found.dispute else 0
            return record.dispute(key, minor, verb.rpartition("/")[2])
        if verb != "cancel":
            raise ValueError(verb)
        charge, let_go = record.cancel(key)
        if let_go and self.server.happens(faults.late):
            self.server.later.put(lambda: record.take_late(key), after_s=faults.late_ms / 1_000)
        return charge

    def _keep_silent(self) -> None:
        """Until the other side hangs up."""
        self.close_connection = True
        self.connection.settimeout(HANG_S_MAX)
        try:
            self.rfile.read(1)
        except OSError:
            return

    def _answer(self, status: int, value: object) -> None:
        body = msgspec.json.encode(value)
        self.send_response_only(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()


def _asked(body: Any) -> Charge:
    return Charge(
        str(body["key"]), "authorised", str(body["currency"]), int(body["amount_minor"]),
        reference=str(body["reference"]),
    )  # fmt: skip
