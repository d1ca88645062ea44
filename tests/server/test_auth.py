"""Every route asks for a token and its right; nothing but the probes goes without."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable

import pytest
from block_tables import dump
from http_calls import Direct, bearer_for
from racing import Step
from waiting import WAIT_S, let_pass, until

import onefold
from onefold import Database, Tx, tokens
from onefold.core.clock import FakeClock
from onefold.core.route import Route
from onefold.server import asgi, auth
from onefold.server.auth import TRUST_MS
from onefold.server.routes import all_routes

PATH_PARAMETER = "x"


def targets() -> list[tuple[Route, str]]:
    """Every route with something in the place of its parameters."""
    found = []
    for route in all_routes():
        parts = [PATH_PARAMETER if part.startswith("{") else part for part in route.path.split("/")]
        found.append((route, "/v1" + "/".join(parts)))
    return found


def test_no_route_answers_without_a_token(direct: Direct) -> None:
    before = dump(direct.db)
    assert len(targets()) > 3
    for route, target in targets():
        for headers in ({}, {"authorization": "Bearer x"}, {"authorization": f"Basic {direct.token}"}, {"authorization": ""}):
            reply = direct(route.verb, target, token=None, headers=headers)
            assert reply.status == 401, (route.verb, target, headers)
            assert reply.headers["www-authenticate"].startswith("Bearer")
    assert dump(direct.db) == before


def test_no_route_answers_without_its_right(direct: Direct, db: Database) -> None:
    weak = bearer_for(db, "nothing:read")
    before = dump(db)
    for route, target in targets():
        reply = direct(route.verb, target, token=weak)
        assert (reply.status, reply.json["code"]) == (403, "right"), (route.verb, target)
        assert reply.json["facts"]["needs"] == route.needs
    assert dump(db) == before


def test_the_right_itself_is_enough(direct: Direct, db: Database) -> None:
    assert direct("GET", "/v1/tokens", token=bearer_for(db, "tokens:read")).status == 200
    assert direct("GET", "/v1/tokens", token=bearer_for(db, "tokens:*")).status == 200
    assert direct("GET", "/v1/tokens", token=bearer_for(db, "tokens:write")).status == 403


DIGEST = "ab" * 32


def grant(**changes: object) -> dict[str, object]:
    return {"name": "made", "digest": DIGEST, "rights": ["booking:read"], **changes}


def test_a_token_gives_away_only_what_it_has(direct: Direct, db: Database) -> None:
    maker = bearer_for(db, "tokens:write", "booking:read", "jobs:*")
    before = dump(db)
    for change, lacks in (
        ({"rights": ["*"]}, ["*"]),
        ({"rights": ["booking:*"]}, ["booking:*"]),
        ({"rights": ["booking:read", "ledger:write", "tokens:read"]}, ["ledger:write", "tokens:read"]),
        ({"space_name": "tenant/7"}, ["space"]),
        ({"space_name": "tenant/7", "rights": ["*"]}, ["*", "space"]),
    ):
        reply = direct("POST", "/v1/tokens", token=maker, send=grant(**change))
        assert (reply.status, reply.json["code"]) == (403, "grant"), change
        assert reply.json["facts"]["lacks"].split() == lacks
    assert dump(db) == before
    for rights in (["booking:read"], ["jobs:write", "jobs:*"], ["tokens:write"]):
        made = direct("POST", "/v1/tokens", token=maker, send=grant(rights=rights))
        assert (made.status, made.json["rights"]) == (200, rights)
    root = direct("POST", "/v1/tokens", send=grant(rights=["*"]))  # Whose own right is "*".
    assert root.status == 200
    assert direct("POST", "/v1/tokens", send=grant(space_name="tenant/7")).status == 403


def test_nobody_says_who_calls_but_the_server(direct: Direct, db: Database) -> None:
    strong = db.run(tokens.create, "strong", digest=DIGEST, rights=("*",)).id
    maker = bearer_for(db, "tokens:write")
    before = dump(db)
    for target, body in (
        ("/v1/tokens", grant(by=strong)), ("/v1/tokens", grant(by=None)), (f"/v1/tokens?by={strong}", grant()),
    ):
        assert direct("POST", target, token=maker, send=body).status == 400, target
    once = {"idempotency-key": "k1"}
    assert direct("POST", "/v1/tokens", token=maker, send=grant(), headers=once).status == 403
    assert dump(db) == before
    assert '"by"' not in direct("GET", "/openapi.json").body.decode().partition('"/v1/tokens"')[2][:6_000]


def test_a_tenant_makes_no_tokens(direct: Direct, db: Database) -> None:
    tenant = bearer_for(db, "*", space_name="tenant/7")
    before = dump(db)
    for space_name in ("", "tenant/7", "tenant/8"):
        reply = direct("POST", "/v1/tokens", token=tenant, send=grant(space_name=space_name))
        assert (reply.status, reply.json["code"]) == (403, "token")
    assert dump(db) == before


def add_one(tx: Tx) -> int:
    """Count in the caller's space."""
    tx.add("here", 1)
    return tx.total("here")


def test_a_token_opens_its_own_space_alone(direct_to: Callable[..., Direct], db: Database) -> None:
    app = direct_to(Route("POST", "/add", add_one, "test:write"))
    seventh = bearer_for(db, space_name="tenant/7")
    eighth = bearer_for(db, space_name="tenant/8")
    assert app("POST", "/v1/add", token=seventh).json == 1
    assert app("POST", "/v1/add", token=seventh).json == 2
    assert app("POST", "/v1/add", token=eighth).json == 1
    assert db.reader().run(lambda tx: tx.total("here")) == 0


def test_tokens_made_in_a_tenants_space_are_never_accepted(direct: Direct, db: Database) -> None:
    """A program with the database may write such a row; nobody looks there."""
    secret, digest = tokens.new_secret()
    made = db.at("tenant/7").run(tokens.create, "n", digest=digest, rights=("*",))
    assert direct("GET", "/v1/tokens", token=tokens.bearer(made.id, secret)).status == 401


def test_a_revocation_holds_in_a_moment_here_and_soon_elsewhere(db_url: str, clock: FakeClock) -> None:
    with onefold.connect(db_url, clock=clock) as one, onefold.connect(db_url, clock=clock) as other:
        here, there = Direct(asgi(one), one), Direct(asgi(other), other)
        doomed = bearer_for(one)
        token_id = tokens.parse(doomed)[0]  # type: ignore[index]
        assert here("GET", "/v1/tokens", token=doomed).status == 200
        assert there("GET", "/v1/tokens", token=doomed).status == 200
        assert here("POST", f"/v1/tokens/{token_id}/revoke").status == 200
        until(lambda: here("GET", "/v1/tokens", token=doomed).status == 401, "the fact of the commit", seconds=1)
        seconds = TRUST_MS / 1_000 + 1
        until(lambda: there("GET", "/v1/tokens", token=doomed).status == 401, "the end of trust", seconds=seconds)
        here.close()
        there.close()


def test_trust_is_counted_from_the_question_not_from_a_late_answer(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer was right when it was asked for; the token is revoked before it arrives."""
    step = Step()
    verify = tokens.verify

    def late(tx: Tx, token_id: str, *, digest: str) -> tokens.Token:
        token = verify(tx, token_id, digest=digest)
        step.stop()
        return token

    async def ask() -> None:
        bearer = bearer_for(db)
        header = f"Bearer {bearer}".encode()
        gatekeeper = auth.Gatekeeper(db)
        asking = asyncio.ensure_future(gatekeeper.caller(header))
        await asyncio.to_thread(step.reached.wait, WAIT_S)
        await db.arun(tokens.revoke, tokens.parse(bearer)[0])  # type: ignore[index]
        await asyncio.to_thread(let_pass, 200)
        step.go.set()
        await asking
        with pytest.raises(auth.Refused):
            await gatekeeper.caller(header)
        await gatekeeper.drained()
        gatekeeper.close()

    monkeypatch.setattr(auth, "TRUST_MS", 200)
    monkeypatch.setattr(tokens, "verify", late)
    with step:
        asyncio.run(ask())


def test_pages_take_the_token_as_a_password_and_routes_do_not(direct: Direct, db: Database) -> None:
    basic = {"authorization": "Basic " + base64.b64encode(f"me:{bearer_for(db)}".encode()).decode()}
    for page in ("/docs", "/openapi.json"):
        refused = direct("GET", page, token=None)
        assert refused.status == 401
        assert direct("GET", page, token=None, headers=basic).status == 200
        assert direct("GET", page).status == 200
    assert direct("GET", "/v1/tokens", token=None, headers=basic).status == 401, "also when a page trusted it before"
    assert direct("GET", "/docs", token=None, headers={"authorization": "Basic %%%"}).status == 401


def test_two_credentials_are_refused(direct: Direct) -> None:
    scope = {
        "type": "http", "method": "GET", "path": "/v1/tokens", "raw_path": b"/v1/tokens", "query_string": b"",
        "headers": [(b"authorization", f"Bearer {direct.token}".encode())] * 2,
    }  # fmt: skip
    reply = direct._runner.run(direct._call(scope, b""))
    assert (reply.status, reply.json["code"]) == (400, "header")


def test_use_is_noted(db: Database) -> None:
    app = Direct(asgi(db), db)
    secret, digest = tokens.new_secret()
    token = db.run(tokens.create, "fresh", digest=digest, rights=("*",))
    assert app("GET", "/v1/tokens", token=tokens.bearer(token.id, secret)).status == 200
    app._runner.run(app.app.drain())
    used = {t.id: t.used_at_ms for t in db.reader().run(tokens.list_tokens).items}
    assert used[token.id] is not None
    app.close()


def test_many_requests_with_one_unknown_token_ask_the_database_once(direct: Direct, db: Database) -> None:
    fresh = bearer_for(db)
    asked: list[str] = []
    gatekeeper = direct.app._gatekeeper
    reader = gatekeeper._reader

    class Counting:
        async def arun(self, fn: Callable[..., object], token_id: str, **arguments: object) -> object:
            asked.append(token_id)
            return await reader.arun(fn, token_id, **arguments)  # type: ignore[arg-type]

    gatekeeper._reader = Counting()  # type: ignore[assignment]

    async def crowd() -> list[object]:
        return list(await asyncio.gather(*(gatekeeper.caller(f"Bearer {fresh}".encode()) for _ in range(50))))

    assert len(direct._runner.run(crowd())) == 50
    assert len(asked) == 1


def test_lookups_are_bounded(direct: Direct, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "LOOKUPS_MAX", 0)
    reply = direct("GET", "/v1/tokens")
    assert (reply.status, reply.json["code"]) == (503, "overloaded")
