"""Tokens, sessions and the audit trail as lists: what was done to somebody, once as the door tells it, once as the trail.

Each action appends to both in one transaction, and whoever looks reads both in one. So a revoked token that opens, a
session that outlives its end or its token, an action without its entry or with two, and an acknowledged one that is lost
are histories that no order of transactions explains. What is over is swept meanwhile, and only that.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import msgspec

from onefold import Denied, Tx, audit, sessions, tokens
from onefold.identity.audit import ops as audit_ops
from onefold.identity.sessions import ops as sessions_ops
from onefold.identity.sessions.ops import TTL_MS_MAX
from onefold.identity.tokens import ops as tokens_ops
from onefold.testing.workload import Client, Workload

BEGUN, OVER = 1, 2  # What a list of somebody can hold, in this order.
STEPS = {"tokens.create": BEGUN, "tokens.revoke": OVER, "sessions.begin": BEGUN, "sessions.end": OVER}
DUST = "dust"
NEWEST = 20  # Entries among which somebody to look at is found.
LONG_AGO_MS = 500 * 86_400_000  # Longer than anything is kept.
LOOKED_AT = 50  # At once, at the end.
THINK_MS_MAX = 5


def prepare(tx: Tx) -> None:
    """Find entries by their subject, as no reader of the trail needs to."""
    tx.run("CREATE INDEX workload_trail ON onefold.audit (space, subject)")


# -- what is done: each with its entry ------------------------------------------------------------


def digest_of(who: str) -> str:
    return sha256(who.encode()).hexdigest()


def written(tx: Tx, action: str, who: str, id: str) -> None:
    """The entry of an action."""
    audit.record(tx, action, who, actor="workload", reason="It is done.", facts={"id": id})


def create(tx: Tx, who: str) -> str:
    """A token of this name; answers its id."""
    token = tokens.create(tx, who, digest=digest_of(who), rights=("*",))
    written(tx, "tokens.create", who, token.id)
    return token.id


def revoke(tx: Tx, who: str, id: str) -> None:
    tokens.revoke(tx, id)
    written(tx, "tokens.revoke", who, id)


def touch(tx: Tx, id: str) -> None:
    tokens.touch(tx, id)


def begin(tx: Tx, who: str, token_id: str) -> str:
    """A session for the token; answers its id."""
    session = sessions.begin(tx, token_id, digest=digest_of(who), ttl_ms=TTL_MS_MAX)  # No run ends it by its age.
    written(tx, "sessions.begin", who, session.id)
    return session.id


def end(tx: Tx, who: str, id: str) -> None:
    sessions.end(tx, id)
    written(tx, "sessions.end", who, id)


def leave_dust(tx: Tx) -> None:
    """A token, a session and an entry of long ago."""
    token = tokens.create(tx, DUST, digest=digest_of(DUST), rights=("*",))
    sessions.begin(tx, token.id, digest=digest_of(DUST))
    tokens.revoke(tx, token.id)
    written(tx, "tokens.revoke", DUST, token.id)
    tx.run("UPDATE onefold.tokens SET revoked_at_ms = revoked_at_ms - :ms WHERE space = :space AND id = :id",
           ms=LONG_AGO_MS, id=token.id)  # fmt: skip
    tx.run(
        """UPDATE onefold.sessions SET created_at_ms = created_at_ms - :ms, expires_at_ms = expires_at_ms - :ms
           WHERE space = :space AND token_id = :id""", ms=LONG_AGO_MS, id=token.id)  # fmt: skip
    tx.run("UPDATE onefold.audit SET at_ms = :now_ms - :ms WHERE space = :space AND subject = :who AND at_ms > :now_ms - :ms",
           ms=LONG_AGO_MS, who=DUST)  # fmt: skip


BLOCKS = {"tokens": tokens_ops, "sessions": sessions_ops, "audit": audit_ops}
_COUNTS = {
    "tokens": "SELECT count(*) FROM onefold.tokens WHERE space = :space AND name = :who",
    "sessions": "SELECT count(*) FROM onefold.sessions WHERE space = :space AND digest = :digest",
    "audit": "SELECT count(*) FROM onefold.audit WHERE space = :space AND subject = :who",
}  # fmt: skip


def dust_in(tx: Tx, block: str) -> int:
    """How many rows of long ago are left."""
    given = {"digest": digest_of(DUST)} if block == "sessions" else {"who": DUST}
    row = tx.one(_COUNTS[block], **given)
    assert row is not None
    return row[0]


# -- what is seen ---------------------------------------------------------------------------------


def seen(tx: Tx, somebody: list[tuple[str, str]]) -> list[list[Any]]:
    """The lists of tokens and sessions."""
    found: list[list[Any]] = []
    for who, id in somebody:
        found += of_token(tx, who, id) if id.startswith("token_") else [["r", f"door/{who}", of_session(tx, who, id)]]
        found.append(["r", f"trail/{who}", in_trail(tx, who)])
    return found


def of_token(tx: Tx, who: str, id: str) -> list[list[Any]]:
    """Whether it opens, and whether its use was noted."""
    row = tx.one("SELECT revoked_at_ms, used_at_ms FROM onefold.tokens WHERE space = :space AND id = :id", id=id)
    if is_admitted(tx, tokens.verify, who, id):
        door = [BEGUN]
    else:
        assert row is None or row[0] is not None, "a token that nobody revoked is refused"
        door = [BEGUN, OVER] if row else []
    return [["r", f"door/{who}", door], ["r", f"use/{who}", [BEGUN] if row and row[1] is not None else []]]


def of_session(tx: Tx, who: str, id: str) -> list[int]:
    """What its door tells, of a session that was begun."""
    row = tx.one(
        """SELECT t.revoked_at_ms FROM onefold.sessions AS s JOIN onefold.tokens AS t ON t.space = s.space AND t.id = s.token_id
           WHERE s.space = :space AND s.id = :id""", id=id)  # fmt: skip
    admitted = is_admitted(tx, sessions.verify, who, id)
    assert not admitted or row, "an ended session opens"
    assert admitted == bool(row and row[0] is None), "a session outlives its token, or is refused too early"
    return [BEGUN] if row else [BEGUN, OVER]


def is_admitted(tx: Tx, verify: Any, who: str, id: str) -> bool:
    try:
        with tx.savepoint():
            verify(tx, id, digest=digest_of(who))
    except Denied:
        return False
    return True


def in_trail(tx: Tx, who: str) -> list[int]:
    """What its entries tell."""
    rows = tx.all("SELECT action FROM onefold.audit WHERE space = :space AND subject = :who ORDER BY id", who=who)
    return sorted(STEPS[row[0]] for row in rows)  # Ids of one millisecond stand in any order.


def newest(tx: Tx) -> list[tuple[str, str]]:
    """Whom the last entries are about: names and ids."""
    found = audit.list_entries(tx, limit=NEWEST).items
    return [(entry.subject, entry.facts["id"]) for entry in found if entry.subject != DUST]


def everybody(tx: Tx) -> list[tuple[str, str]]:
    """All whom the tables know, and all whom the trail knows."""
    told = {(row[0], msgspec.json.decode(row[1])["id"]) for row in tx.all(
        "SELECT subject, facts FROM onefold.audit WHERE space = :space ORDER BY id") if row[0] != DUST}  # fmt: skip
    held = {(row[0], row[1]) for row in tx.all("SELECT name, id FROM onefold.tokens WHERE space = :space ORDER BY id")}
    ids = {row[0] for row in tx.all("SELECT id FROM onefold.sessions WHERE space = :space AND digest <> :dust ORDER BY id",
                                    dust=digest_of(DUST))}  # fmt: skip
    assert ids <= {id for _, id in told}, "a session that the trail does not know"
    return sorted(told | {one for one in held if one[0].startswith("who/")})


def lists_of_all(tx: Tx) -> dict[str, list[int]]:
    """All lists that are not empty."""
    return {key: value for _, key, value in seen(tx, everybody(tx)) if value}


def rows(tx: Tx) -> list[list[Any]]:
    """Every row of the three tables."""
    texts = (
        "SELECT * FROM onefold.tokens -- :space\n ORDER BY id", "SELECT * FROM onefold.sessions -- :space\n ORDER BY id",
        "SELECT * FROM onefold.audit -- :space\n ORDER BY id",
    )  # fmt: skip
    return [tx.all(text) for text in texts]


# -- the clients ----------------------------------------------------------------------------------


def both(who: str, step: int) -> list[list[Any]]:
    """What an action does to the lists."""
    return [["append", f"door/{who}", step], ["append", f"trail/{who}", step]]


def visitors(client: Client) -> None:
    """Each makes tokens and sessions, uses them and ends them, looks at everybody's, and sweeps."""
    open_tokens: list[tuple[str, str]] = []  # Of this life: a process that died ends nothing that it began.
    open_sessions: list[tuple[str, str]] = []
    fresh: list[tuple[str, str]] = []  # Nobody has noted their use.
    for _ in client.rounds():
        who = f"who/{client.unique()}"
        match client.random.randrange(8):
            case 0:
                with client.operation("txn", both(who, BEGUN)):
                    token_id = client.run(create, who)
                open_tokens.append((who, token_id))
                fresh.append((who, token_id))
            case 1 if open_tokens:
                _, token_id = client.random.choice(open_tokens)
                with client.operation("txn", both(who, BEGUN)):
                    open_sessions.append((who, client.run(begin, who, token_id)))
            case 2 if open_sessions:
                name, id = open_sessions.pop(client.random.randrange(len(open_sessions)))
                with client.operation("txn", both(name, OVER)):
                    client.run(end, name, id)
            case 3 if open_tokens:
                name, id = open_tokens.pop(client.random.randrange(len(open_tokens)))
                with client.operation("txn", both(name, OVER)):
                    client.run(revoke, name, id)
            case 4 if fresh:
                name, id = fresh.pop()
                with client.operation("txn", [["append", f"use/{name}", BEGUN]]):
                    client.run(touch, id)
            case 5:
                client.run(leave_dust)
                swept(client, client.random.choice(list(BLOCKS)))
            case _:
                if found := client.run(newest):
                    look(client, [client.random.choice(found)])
        client.sleep_ms(client.random.randrange(THINK_MS_MAX))


def swept(client: Client, block: str) -> bool:
    """One step of a sweep, as the block's loop makes it."""
    return client.options(isolation="read_committed").run(BLOCKS[block].sweep)


def look(client: Client, somebody: list[tuple[str, str]]) -> None:
    """Read the lists of some."""
    with client.operation("txn", [["r", f"door/{who}", None] for who, _ in somebody]) as op:
        op["value"] = client.run(seen, somebody)


def all_visitors(client: Client) -> None:
    """Sweep to the end, let in one more, so that there is something to judge, and look at everybody."""
    for block in BLOCKS:
        while swept(client, block):
            pass
        assert client.run(dust_in, block) == 0, f"{block} of long ago are there for ever"
    who = f"who/{client.unique()}"
    with client.operation("txn", both(who, BEGUN)):
        client.run(create, who)
    found = client.run(everybody)
    for start in range(0, len(found), LOOKED_AT):
        look(client, found[start : start + LOOKED_AT])


VISITING = Workload(visitors, "list-append", setup=prepare, finish=all_visitors)
