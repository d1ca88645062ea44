"""Scenarios of who comes in and what goes out: tokens, sessions, the audit trail, webhooks."""

from __future__ import annotations

from collections import Counter
from hashlib import sha256

from registers import count_up, get
from scenarios import LEASE_MS, until_answered

from onefold import Conflict, Denied, NotFound, Retry, Tx, Unknown, audit, sessions, tokens, webhooks
from onefold.messaging.webhooks import delivering
from onefold.messaging.webhooks.delivering import Made
from onefold.testing.simulation import Client, Simulation


def digest_of(name: str) -> str:
    return sha256(name.encode()).hexdigest()


def admitted(client: Client, fn, *args, **kwargs) -> bool:
    """Whether it is let in; asked until somebody answers."""
    try:
        until_answered(client, fn, *args, **kwargs)
    except Denied:
        return False
    return True


def revoked_is_over(sim: Simulation) -> None:
    """Once a token is known to be revoked it opens nothing and makes no other; until somebody asked for it, it does."""
    parent = sim.setup(tokens.create, "parent", digest=digest_of("parent"), rights=("*",)).id
    asked: list[str] = []  # To revoke, perhaps done.
    over: list[str] = []

    def maker(client: Client) -> None:
        for number in client.rounds(6):
            was_asked, was_over = bool(asked), bool(over)
            digest = digest_of(f"{client.name}/{client.incarnation}/{number}")
            try:
                child = client.run(tokens.create, "child", digest=digest, rights=("jobs:read",), by=parent)
            except Denied:
                assert was_asked or asked, "a token that nobody revoked is refused"
            else:
                assert not was_over, "a revoked token made another one"
                assert admitted(client, tokens.verify, child.id, digest=digest), "what was acknowledged is not there"
            was_asked, was_over = bool(asked), bool(over)
            if admitted(client, tokens.verify, parent, digest=digest_of("parent")):
                assert not was_over, "a revoked token opens"
            else:
                assert asked, "a token that nobody revoked is refused"
            client.sleep_ms(client.random.randrange(1_000))

    def revoker(client: Client) -> None:
        client.sleep_ms(client.random.randrange(4_000))
        asked.append(client.name)
        until_answered(client, tokens.revoke, parent)
        over.append(client.name)

    sim.clients(maker, 2)
    sim.clients(revoker)


def ended_is_over(sim: Simulation) -> None:
    """A session opens from its acknowledgement to its end, and no longer than its token."""
    token = sim.setup(tokens.create, "person", digest=digest_of("person"), rights=("*",)).id
    asked: list[str] = []
    over: list[str] = []

    def person(client: Client) -> None:
        for number in client.rounds(4):
            digest = digest_of(f"{client.name}/{client.incarnation}/{number}")
            was_over = bool(over)
            try:
                session = client.run(sessions.begin, token, digest=digest).id
            except Denied:
                assert asked, "a token that nobody revoked begins no session"
                continue
            assert not was_over, "a revoked token began a session"
            client.sleep_ms(client.random.randrange(1_000))
            was_over = bool(over)
            inside = admitted(client, sessions.verify, session, digest=digest)
            assert inside or asked, "an acknowledged session is not there"
            assert not (inside and was_over), "a session outlives its token"
            try:
                until_answered(client, sessions.end, session)
            except NotFound:
                pass  # It was ended by a commit that nobody answered.
            assert not admitted(client, sessions.verify, session, digest=digest), "an ended session opens"

    def revoker(client: Client) -> None:
        client.sleep_ms(client.random.randrange(2_000))
        asked.append(client.name)
        until_answered(client, tokens.revoke, token)
        over.append(client.name)

    sim.clients(person, 2)
    sim.clients(revoker)


def nothing_is_done_unseen(sim: Simulation) -> None:
    """An action and its entry are there together or not at all, and no acknowledged one is lost."""
    told: Counter[str] = Counter()

    def act(tx: Tx, who: str) -> None:
        count_up(tx, f"done by {who}")
        audit.record(tx, "counter.up", who, actor=who, reason="simulated")

    def actor(client: Client) -> None:
        for _ in client.rounds(6):
            client.run(act, client.name)
            told[client.name] += 1

    def as_many_entries_as_actions(tx: Tx) -> None:
        written = Counter(entry.actor for entry in audit.list_entries(tx, limit=1_000).items)
        for who in ("actor-1", "actor-2"):
            assert written[who] == get(tx, f"done by {who}") >= told[who]

    sim.clients(actor, 2)
    sim.always(as_many_entries_as_actions)


def told_at_least_once(sim: Simulation) -> None:
    """Every acknowledged message is delivered; only the holder of the lane says so, and once."""
    endpoint = sim.setup(webhooks.create, "https://a.example/", key_id="k1").id
    received: Counter[str] = Counter()
    acknowledged: list[str] = []

    def sender(client: Client) -> None:
        for number in client.rounds(4):
            acknowledged.append(client.run(webhooks.send, "order.placed", {"number": number}))
            client.sleep_ms(client.random.randrange(LEASE_MS))

    def dispatcher(client: Client) -> None:
        loops = client.options(isolation="read_committed")
        while True:
            owner = f"{client.name}/{client.incarnation}"
            for lane in loops.run(delivering.acquire, owner, [endpoint], lease_ms=LEASE_MS):
                _, ((_, items),) = loops.run(delivering.due, [(lane, 2)])
                made: list[Made] = []
                for item in items:
                    works = client.random.random() < 0.8
                    received[item.message_id] += works  # The other end has it, whatever becomes of us.
                    made.append(Made(lane, item, "delivered" if works else "refused", 200 if works else 500, 1, ""))
                client.sleep_ms(client.random.randrange(100))
                try:
                    loops.run(delivering.note, made)
                except (Unknown, Retry, Conflict):
                    continue
            client.sleep_ms(client.random.randrange(1_000, 3_000))

    def said_once_and_of_what_was_received(tx: Tx) -> None:
        rows = tx.all(
            """SELECT message_id, count(*) FROM onefold.webhook_attempts
                WHERE space = :space AND outcome = 'delivered' GROUP BY message_id ORDER BY message_id"""
        )
        for message, times in rows:
            assert times == 1, "two holders of one lane"
            assert received[message], "it is said to be delivered, and was not"

    def all_is_told(tx: Tx) -> None:
        waiting = {one.message_id for one in webhooks.list_pending(tx, endpoint, limit=1_000).items}
        assert [one for one in acknowledged if not received[one] and one not in waiting] == []
        assert not [one for one in waiting if one in delivered(tx)], "delivered, and waiting still"

    def delivered(tx: Tx) -> set[str]:
        rows = tx.all(
            """SELECT message_id FROM onefold.webhook_attempts
                WHERE space = :space AND outcome = 'delivered' ORDER BY message_id"""
        )
        return {row[0] for row in rows}

    sim.clients(sender, 2)
    sim.background(dispatcher, 2)
    sim.always(said_once_and_of_what_was_received)
    sim.at_end(all_is_told)
