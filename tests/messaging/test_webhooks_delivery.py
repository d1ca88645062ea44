"""Deliveries to a receiver in another process, which verifies with a library that is not ours."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import auntil
from webhooks_ground import Receiver, attempts, dispatcher, endpoint, failed, hasten, pending, send

from onefold import Database, webhooks
from onefold.host.outgoing import Policy
from onefold.testing.receiver import tell


@pytest.fixture(scope="module")
def other() -> Iterator[Receiver]:
    with Receiver() as one:
        yield one


@pytest.fixture
def keys(tmp_path: Path) -> webhooks.Keys:
    return webhooks.Keys.create(tmp_path / "webhooks.key")


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """One name at the receiver per test and engine."""
    return "".join(letter if letter.isalnum() else "-" for letter in request.node.name)


def delivered(db: Database, endpoint_id: str, count: int) -> bool:
    return sum(one.outcome == "delivered" for one in attempts(db, endpoint_id)) == count


def test_messages_arrive_signed_and_are_logged(db: Database, other: Receiver, keys: webhooks.Keys, name: str) -> None:
    async def scenario() -> None:
        here = db.at("tenant/7")
        to = endpoint(here, keys, other, name, types=("order.*",), headers={"X-Api-Key": "abc"})
        sent = send(here, count=20)
        send(here, "invoice.paid")
        async with dispatcher(db, keys) as running:
            await auntil(lambda: delivered(here, to, 20), "twenty deliveries")
            more = send(here, count=5)
            await auntil(lambda: delivered(here, to, 25), "deliveries of what is sent while it runs")
            await auntil(lambda: running.numbers()["webhooks.delivered"] == 25, "the count, which follows the commit")
        assert other.ids(name) == dict.fromkeys([*sent, *more], 1)
        last = other.seen(name)["last"]
        assert last["headers"]["x-api-key"] == "abc"
        assert last["headers"]["content-type"] == "application/json"
        assert last["body"]["type"] == "order.placed"
        assert set(last["body"]) == {"type", "timestamp", "data"}
        assert pending(here, to) == []
        assert {(one.attempt, one.status) for one in attempts(here, to)} == {(1, 204)}

    asyncio.run(scenario())


def test_a_failure_is_tried_again_under_the_same_id(db: Database, other: Receiver, keys: webhooks.Keys, name: str) -> None:
    async def scenario() -> None:
        to = endpoint(db, keys, other, name, "flaky")
        (sent,) = send(db)
        async with dispatcher(db, keys):
            await auntil(lambda: attempts(db, to), "the first attempt")
            (waits,) = pending(db, to)
            assert (waits.attempt, waits.failures) == (2, 1)
            assert db.run(webhooks.get, to).failing_since_ms is not None
            hasten(db, to)
            await auntil(lambda: delivered(db, to, 1), "the second")
        assert other.ids(name) == {sent: 2}
        assert [(one.outcome, one.status, one.detail) for one in attempts(db, to)] == [
            ("refused", 500, "no luck today"), ("delivered", 204, ""),
        ]  # fmt: skip
        assert db.run(webhooks.get, to).failing_since_ms is None

    asyncio.run(scenario())


@pytest.mark.parametrize(("mode", "outcome", "status"), [
    ("redirect", "refused", 302), ("bad", "refused", 400), ("later", "refused", 429), ("stall", "unreached", None),
    ("slow", "delivered", 200), ("huge", "delivered", 200), ("heads", "unreached", None),
])  # fmt: skip
def test_what_a_receiver_may_do_to_us(
    db: Database, other: Receiver, keys: webhooks.Keys, name: str, mode: str, outcome: str, status: int | None
) -> None:
    async def scenario() -> None:
        to = endpoint(db, keys, other, name, mode)
        send(db)
        async with dispatcher(db, keys, timeout_ms=1_000):
            await auntil(lambda: attempts(db, to), "an attempt")
        (made,) = attempts(db, to)
        assert (made.outcome, made.status) == (outcome, status)
        assert len(made.detail) <= 1_000
        assert made.took_ms < 10_000
        assert sum(other.ids(name).values()) == 1, "nothing was followed"
        if mode == "later":
            assert pending(db, to)[0].at_ms - made.at_ms == 7_200_000

    asyncio.run(scenario())


def test_gone_disables_and_enable_goes_on(db: Database, other: Receiver, keys: webhooks.Keys, name: str) -> None:
    async def scenario() -> None:
        to = endpoint(db, keys, other, name, "gone")
        (first,) = send(db)
        async with dispatcher(db, keys):
            await auntil(lambda: db.run(webhooks.get, to).disabled_at_ms, "the end of it")
            assert db.run(webhooks.get, to).disabled_why == "it answered 410"
            assert failed(db, to) == [first]
            assert send(db) != []
            assert pending(db, to) == [], "nothing is kept for a disabled endpoint"
            db.run(webhooks.update, to, url=other.url(name))
            db.run(webhooks.enable, to)
            assert db.run(webhooks.replay_failed, to) == 1
            await auntil(lambda: delivered(db, to, 1), "the replay")
        assert other.ids(name) == {first: 2}
        assert failed(db, to) == []

    asyncio.run(scenario())


def test_a_rotation_has_two_signatures_for_a_while(
    db: Database, other: Receiver, keys: webhooks.Keys, name: str
) -> None:
    async def scenario() -> None:
        to = endpoint(db, keys, other, name)
        db.run(webhooks.rotate, to, key_id=keys.newest)  # The receiver has the old secret still.
        send(db)
        async with dispatcher(db, keys):
            await auntil(lambda: delivered(db, to, 1), "a delivery by the old secret")
            both = other.seen(name)["last"]["headers"]["webhook-signature"].split(" ")
            assert [one[:3] for one in both] == ["v1,", "v1,"]
            assert len(set(both)) == 2
            turned = db.run(webhooks.rotate, to, key_id=keys.newest, overlap_ms=0)
            tell(other.base, name, keys.secrets_of(turned, now_ms=2**50)[0])
            send(db)
            await auntil(lambda: delivered(db, to, 2), "a delivery by the new one")
        assert len(other.seen(name)["last"]["headers"]["webhook-signature"].split(" ")) == 1

    asyncio.run(scenario())


def test_an_address_inside_is_never_called(db: Database, other: Receiver, keys: webhooks.Keys, name: str) -> None:
    async def scenario() -> None:
        to = endpoint(db, keys, other, name)
        send(db)
        async with dispatcher(db, keys, policy=Policy(http=True, ports=None)):
            await auntil(lambda: attempts(db, to), "an attempt")
        assert [one.outcome for one in attempts(db, to)] == ["denied"]
        assert other.ids(name) == {}

    asyncio.run(scenario())


def test_a_stalled_endpoint_starves_nobody(db: Database, other: Receiver, keys: webhooks.Keys, name: str) -> None:
    """Fewer slots than the stalled one has messages; the others are delivered while it still stalls."""

    async def scenario() -> None:
        stalls = endpoint(db, keys, other, f"{name}-stalls", "stall", concurrency=4)
        good = endpoint(db, keys, other, name, concurrency=4)
        send(db, count=200)
        async with dispatcher(db, keys, concurrency=8, timeout_ms=60_000, drain_ms=0):
            await auntil(lambda: len(other.ids(f"{name}-stalls")) == 4, "the stalled one's requests")
            await auntil(lambda: not pending(db, good), "the others' deliveries")
            assert attempts(db, stalls) == []
            assert other.seen(f"{name}-stalls")["at_once"] == 4
        assert len(pending(db, stalls)) == 100, "one page of the two hundred that wait"
        assert sum(other.ids(name).values()) == 200

    asyncio.run(scenario())


def test_requests_at_once_keep_to_the_limit(db: Database, other: Receiver, keys: webhooks.Keys, name: str) -> None:
    async def scenario() -> None:
        to = endpoint(db, keys, other, name, concurrency=2)
        send(db, count=60)
        async with dispatcher(db, keys):
            await auntil(lambda: delivered(db, to, 60), "all")
        assert other.seen(name)["at_once"] <= 2

    asyncio.run(scenario())


def test_a_lane_lost_while_a_request_flies_is_noted_by_its_new_owner(
    db: Database, other: Receiver, keys: webhooks.Keys, name: str
) -> None:
    """At least once, under one id: the attempt of the old owner leaves nothing."""

    async def scenario() -> None:
        to = endpoint(db, keys, other, name, "stall")
        (sent,) = send(db)
        async with dispatcher(db, keys, timeout_ms=1_000, drain_ms=5_000) as first:
            await auntil(lambda: other.ids(name), "the request")
            db.run(webhooks.update, to, url=other.url(name))  # First: a free lane is taken again at once.
            db.run(lambda tx: tx.run(
                """UPDATE onefold.webhook_lanes SET owner = 'another', token = token + 1, expires_at_ms = 0
                   WHERE space = :space AND endpoint_id = :id""", id=to,
            ))  # fmt: skip
            await auntil(lambda: first.numbers().get("webhooks.lost"), "its refusal")
            await auntil(lambda: delivered(db, to, 1), "the second time")
        assert other.ids(name) == {sent: 2}
        assert [(one.attempt, one.outcome) for one in attempts(db, to)] == [(1, "delivered")]

    asyncio.run(scenario())
