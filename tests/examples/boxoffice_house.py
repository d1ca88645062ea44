"""A shop for tests: one evening on sale, what must be true of it, and a client that behaves like a browser."""

from __future__ import annotations

import http.client
import json
import re
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import urlencode

from examples.boxoffice import desk, hall, paying, wallets
from examples.boxoffice.purchase import SendReceipt
from examples.boxoffice.receipts import send_receipt
from waiting import until

from onefold import Database, Tx, booking, events, jobs, ledger

PAIR = desk.Wish(count=2)


def open_evening(tx: Tx) -> str:
    """The hall, the accounts of the house and of the provider, and one show in a month."""
    wallets.open_house_accounts(tx)
    paying.open_provider(tx)
    venue = booking.add_venue(tx, hall.NAME, sections=hall.sections(), focus_cm=hall.focus_cm())
    starts_at_ms = tx.now_ms + 30 * 86_400_000
    return booking.add_show(
        tx, venue.id, title="Hamlet", starts_at_ms=starts_at_ms, prices=hall.prices(sung=False)
    ).id


def traces(tx: Tx, show_id: str, visitor: str) -> dict[str, Any]:
    """All that a purchase writes, as far as it is there."""
    seats = booking.seat_map(tx, show_id)
    orders = booking.list_orders(tx, by=visitor, show_id=show_id).items
    return {
        "sold": seats.sold,
        "held": seats.held,
        "orders": len(orders),
        "wallet": wallets.balance(tx, visitor).minor,
        "till": ledger.balance(tx, wallets.TILL).posted.minor,
        "placed": sum(events.version_of(tx, f"order/{order.id}") for order in orders),
        "receipts": sum(events.version_of(tx, f"receipt/{order.id}") for order in orders),
        "jobs": len(jobs.list_jobs(tx, state="ready").items),
    }


def send_receipts(db: Database, *orders: str) -> None:
    """Run a worker until the receipts of these orders were sent."""
    with jobs.Worker(db, tx={SendReceipt: send_receipt}, lease_ms=1_000, poll_ms=50):
        until(lambda: all(db.run(events.version_of, f"receipt/{order}") for order in orders), "the receipts")


class Client:
    """A browser without a screen: cookies, forms, redirects."""

    def __init__(self, base: str) -> None:
        self._host = base.removeprefix("http://")
        self.cookies: dict[str, str] = {}
        self.status = 0
        self.headers: dict[str, str] = {}
        self.path = "/"

    def ask(
        self, verb: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> str:
        """One request; the answer's body."""
        connection = http.client.HTTPConnection(self._host, timeout=20)
        try:
            cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
            connection.request(verb, path, body, {**({"Cookie": cookies} if cookies else {}), **(headers or {})})
            response = connection.getresponse()
            self.status, self.path = response.status, path
            self.headers = {name.lower(): value for name, value in response.getheaders()}
            for line in response.headers.get_all("set-cookie") or []:
                for name, morsel in SimpleCookie(line).items():
                    self.cookies[name] = morsel.value
                    if morsel["max-age"] == "0":
                        del self.cookies[name]
            return response.read().decode()
        finally:
            connection.close()

    def get(self, path: str) -> str:
        """Load a page."""
        return self.ask("GET", path)

    def post(self, path: str, fields: dict[str, str], headers: dict[str, str] | None = None) -> str:
        """Send a form, and follow where it leads."""
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        page = self.ask("POST", path, urlencode(fields).encode(), {**kind, **(headers or {})})
        while self.status == 303:
            page = self.get(self.headers["location"])
        return page

    def json(self, verb: str, path: str, value: object = None, headers: dict[str, str] | None = None) -> Any:
        """Ask as a program does."""
        body = None if value is None else json.dumps(value).encode()
        kind = {"Content-Type": "application/json"} if value is not None else {}
        text = self.ask(verb, path, body, {**kind, **(headers or {})})
        return json.loads(text) if text else None


def field(page: str, name: str) -> str:
    """The value of a hidden field."""
    found = re.search(rf'name="{name}" value="([^"]*)"', page)
    assert found, f"no field {name}"
    return found[1]
