"""Idempotency-Key on POST: done once, answered alike, in the transaction of the effects."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from http_calls import Direct, Served, bearer_for, serving

import onefold
from onefold import Conflict, Database, Tx
from onefold.core.route import Route


def count(tx: Tx, *, by: int) -> int:
    """Add to a counter and answer the sum."""
    tx.add("hits", by)
    return tx.total("hits")


def refuse(tx: Tx) -> None:
    """Write, then refuse."""
    tx.add("hits", 1)
    raise Conflict("No.", code="no")


def quiet(tx: Tx) -> None:
    """Write, and answer nothing."""
    tx.add("hits", 1)


ROUTES = (
    Route("POST", "/count", count, "test:write"),
    Route("POST", "/refuse", refuse, "test:write"),
    Route("POST", "/quiet", quiet, "test:write"),
)


def hits(db: Database) -> int:
    return db.reader().run(lambda tx: tx.total("hits"))


def test_the_same_key_gets_the_first_answer_again(direct_to: Callable[..., Direct], db: Database) -> None:
    app = direct_to(*ROUTES)
    first = app("POST", "/v1/count", send={"by": 2}, headers={"Idempotency-Key": "k"})
    again = app("POST", "/v1/count", send={"by": 2}, headers={"Idempotency-Key": '"k"'})
    assert (first.status, first.body, again.status, again.body) == (200, b"2", 200, b"2")
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert hits(db) == 2


def test_another_request_under_the_key_is_422(direct_to: Callable[..., Direct], db: Database) -> None:
    app = direct_to(*ROUTES)
    app("POST", "/v1/count", send={"by": 2}, headers={"Idempotency-Key": "k"})
    reply = app("POST", "/v1/count", send={"by": 3}, headers={"Idempotency-Key": "k"})
    assert (reply.status, reply.json["code"]) == (422, "idempotency_mismatch")
    assert hits(db) == 2


def test_keys_of_other_tokens_routes_and_spaces_are_other_keys(direct_to: Callable[..., Direct], db: Database) -> None:
    app = direct_to(*ROUTES)
    other = bearer_for(db)
    tenant = bearer_for(db, space_name="tenant/7")
    for token in (app.token, other, tenant):
        reply = app("POST", "/v1/count", send={"by": 1}, headers={"Idempotency-Key": "k"}, token=token)
        assert "idempotent-replayed" not in reply.headers
    assert app("POST", "/v1/quiet", headers={"Idempotency-Key": "k"}).status == 204
    assert hits(db) == 3
    assert hits(db.at("tenant/7")) == 1  # type: ignore[arg-type]


def test_a_refusal_takes_no_key(direct_to: Callable[..., Direct], db: Database) -> None:
    app = direct_to(*ROUTES)
    for _ in range(2):
        assert app("POST", "/v1/refuse", headers={"Idempotency-Key": "k"}).json["code"] == "no"
    assert hits(db) == 0


def test_an_answer_of_nothing_is_replayed_as_nothing(direct_to: Callable[..., Direct], db: Database) -> None:
    app = direct_to(*ROUTES)
    replies = [app("POST", "/v1/quiet", headers={"Idempotency-Key": "k"}) for _ in range(3)]
    assert [(reply.status, reply.body) for reply in replies] == [(204, b"")] * 3
    assert hits(db) == 1


def test_a_storm_of_duplicates_is_done_once(db_url: str) -> None:
    # Not rehearsed: undoing the first run gives the claim back, so another may have it in the second.
    with onefold.connect(db_url) as db, serving(db, *ROUTES) as server:
        start = threading.Barrier(8)

        def send(number: int, server: Served = server) -> list[int]:
            start.wait(20)
            return [
                server.request("POST", "/v1/count", send={"by": 1}, headers={"Idempotency-Key": f"k{key}"}).status
                for key in range(10)
            ]

        with ThreadPoolExecutor(8) as threads:
            statuses = [status for found in threads.map(send, range(8)) for status in found]
        assert set(statuses) <= {200, 409}
        for key in range(10):  # Whoever met one in flight asks again, as told.
            reply = server.request("POST", "/v1/count", send={"by": 1}, headers={"Idempotency-Key": f"k{key}"})
            assert reply.headers["idempotent-replayed"] == "true"
        assert hits(db) == 10
