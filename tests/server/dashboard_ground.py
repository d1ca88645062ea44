"""A dashboard without a network, and a database with something of everything to look at."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import msgspec
from http_calls import Direct, Reply, bearer_for

from onefold import Database, Money, Tx, booking, events, jobs, ledger, locks, tokens, webhooks
from onefold.messaging.jobs.attempts import Wanted
from onefold.messaging.jobs.leases import as_list, enlist
from onefold.messaging.jobs.moves import to_dead
from onefold.messaging.jobs.records import Body

EVIL = "<script>alert('x')</script><img src=x onerror=alert(1)>\"'&"


@jobs.kind("mail.letter", attempts=3)
class Letter(msgspec.Struct, frozen=True):
    to: str = "ana"
    api_key: str = "sk-very-secret"


@events.kind("letter.sent")
class Sent(msgspec.Struct, frozen=True):
    to: str = "ana"


def dead(tx: Tx, error: str = "ConnectionError: mail 7 is away", *, kind: str = "mail.letter", unique: str | None = None,
         args: str = '{"to":"ana","api_key":"sk-very-secret"}') -> str:  # fmt: skip
    """A job that was given up."""
    job_id = tx.new_id("job")
    to_dead(tx, Body(tx.space, tx.space_name, job_id, kind, "default", 0, args, 3, 3, 3, unique, tx.now_ms, None, error))
    return job_id


def furnish(tx: Tx) -> dict[str, str]:
    """Something on every page; answers the names that tests look for."""
    ready = jobs.put(tx, Letter(to=EVIL))
    scheduled = jobs.put(tx, Letter(), delay_ms=600_000)
    assert ready
    assert scheduled
    jobs.pause(tx, "others")
    locks.acquire(tx, "invoice/42", owner=EVIL, ttl_ms=60_000)
    ledger.open_account(tx, "wallet/ana", currency="EUR")
    ledger.open_account(tx, "bank", currency="EUR", kind="unlimited")
    ledger.transfer(tx, "t1", debit="bank", credit="wallet/ana", amount=Money(1_250, "EUR"))
    venue = booking.add_venue(tx, EVIL, sections=(booking.grid("Stalls", rows=2, seats=5),))
    booking.add_show(tx, venue.id, title=EVIL, starts_at_ms=tx.now_ms + 86_400_000, prices={"Stalls": Money(100, "EUR")})
    events.append(tx, "letter/1", Sent())
    events.subscribe(tx, "mailer", category="letter")
    endpoint = webhooks.create(tx, "https://hooks.example.com/in", key_id="k1").id
    message = webhooks.send(tx, "letter.sent", {"to": "ana"})
    return {"endpoint": endpoint, "message": message, "ready": ready, "scheduled": scheduled, "dead": dead(tx, EVIL), "other": dead(tx), "same": dead(tx, "ConnectionError: mail 8 is away")}


def hire(db: Database, worker: str) -> None:
    """A worker that knows the letters."""
    db.run(lambda tx: enlist(tx, worker, queues=("default",), kinds=("mail.letter",), lease_ms=60_000))


def claim(db: Database, worker: str = "w1") -> list[jobs.Attempt]:
    wanted = Wanted(as_list(("mail.letter",)), None, [("default", (0, 0, 0, 0, 0))])
    return db.options(isolation="read_committed").run(jobs.claim, worker, wanted, room=10)


def park(db: Database) -> None:
    """The subscription "mailer" fails on the event until it is put aside."""
    while db.options(isolation="repeatable_read").run(events.sequence):
        pass

    def refuse(_tx: Tx, _event: events.Event) -> None:
        raise ValueError(EVIL)

    db.run(lambda tx: events.consume(tx, "mailer", refuse, category="letter", attempts_max=1))


class Visitor:
    """Somebody with a browser and a token."""

    def __init__(self, direct: Direct, *rights: str, space_name: str = "") -> None:
        self._direct = direct
        self.bearer = bearer_for(direct.db, *rights, space_name=space_name)
        parsed = tokens.parse(self.bearer)
        assert parsed is not None
        self.token_id = parsed[0]
        self.cookie = ""
        self.form_token = ""

    def log_in(self) -> Visitor:
        reply = self.post("login", token=self.bearer, form_token=None)
        assert reply.status == 303, reply.body
        self.cookie = reply.headers["set-cookie"].partition(";")[0]
        self.form_token = field(self.get("").text, "form_token")
        return self

    def get(self, path: str, headers: dict[str, str] | None = None, method: str = "GET") -> Page:
        fields = {"cookie": self.cookie, **(headers or {})}
        return Page(self._direct(method, f"/dashboard/{path}" if path else "/dashboard", token=None, headers=fields))

    def post(self, path: str, headers: dict[str, str] | None = None, **form: Any) -> Page:
        sent = {"form_token": self.form_token, **form}
        body = urlencode({name: value for name, value in sent.items() if value is not None}).encode()
        return self.raw(path, body, headers)

    def raw(self, path: str, body: bytes, headers: dict[str, str] | None = None) -> Page:
        fields = {"cookie": self.cookie, "content-type": "application/x-www-form-urlencoded", **(headers or {})}
        return Page(self._direct("POST", f"/dashboard/{path}", token=None, body=body, headers=fields))


class Page:
    """What came back."""

    def __init__(self, reply: Reply) -> None:
        self.status = reply.status
        self.headers = reply.headers
        self.body = reply.body
        self.text = reply.body.decode()

    @property
    def to(self) -> str:
        """Where a redirect leads, below /dashboard."""
        assert self.status == 303, (self.status, self.text)
        return self.headers["location"].removeprefix("/dashboard").removeprefix("/")

    @property
    def words(self) -> str:
        """What the page says, without its tags."""
        return html.unescape(re.sub(r"<[^>]*>", "", self.text))


def field(page: str, name: str) -> str:
    found = re.search(rf'name="{name}" value="([^"]*)"', page)
    assert found is not None, f"the page has no field {name}"
    return html.unescape(found[1])


Visit = Callable[..., Visitor]
