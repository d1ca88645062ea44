"""Idempotency as lists: what is done under a key is appended to the list of that key, and who asks again reads it.

So a key that was done twice, an answer that is not the first one, and an effect that nobody is told of are histories that
no order of transactions explains.
"""

from __future__ import annotations

import contextlib
from typing import Any

from onefold import Conflict, Tx, idempotency
from onefold.testing.workload import Client, Workload

KEYS = 3  # Asked for at the same time,
ROUNDS_OF_A_KEY = 4  # and so long.
LEASE_MS = 100
THINK_MS_MAX = 200  # More than `LEASE_MS`: some are taken over.
SCOPE = "workload"


def create(tx: Tx) -> None:
    """What was done under each key; no key of the table keeps it from being done twice."""
    tx.run("CREATE TABLE workload_effects (key TEXT NOT NULL, element BIGINT NOT NULL)")


def askers(client: Client) -> None:
    """All ask under the same few keys, half of them with the work outside of the transaction."""
    for number in client.rounds():
        key = f"{number // ROUNDS_OF_A_KEY + client.random.randrange(KEYS)}"
        element = client.unique()
        way = client.random.choice([inside, outside])
        with contextlib.suppress(Conflict), client.operation("txn", [["r", key, None], ["append", key, element]]) as op:
            replayed = way(client, key, element)
            op["value"] = [["r", key, []], ["append", key, element]] if replayed is None else [["r", key, [replayed]]]


def inside(client: Client, key: str, element: int) -> int | None:
    """The effect in the transaction of the key; what was answered before, or None: it was done now."""
    answer = client.run(ask, key, element)
    return answer.value if answer.replayed else None


def ask(tx: Tx, key: str, element: int) -> idempotency.Answer[int]:
    """Do it, unless it was done."""
    return idempotency.once(tx, key, lambda: done(tx, key, element), scope=SCOPE, request=key, kind=int)


def outside(client: Client, key: str, element: int) -> int | None:
    """The same in two transactions, with a lease between them that some sleep past."""
    begun = client.run(idempotency.begin, key, scope=SCOPE, request=key, kind=int, lease_ms=LEASE_MS)
    if isinstance(begun, idempotency.Answer):
        return begun.value
    client.sleep_ms(client.random.choice([0, 0, client.random.randrange(THINK_MS_MAX)]))
    client.run(finished, begun, element)
    return None


def finished(tx: Tx, attempt: idempotency.Attempt, element: int) -> None:
    """Effect and answer in one commit."""
    idempotency.finish(tx, attempt, done(tx, attempt.key, element))


def done(tx: Tx, key: str, element: int) -> int:
    """The effect."""
    tx.run("INSERT INTO workload_effects (key, element) VALUES (:key, :element)", key=key, element=element)
    return element


def all_effects(client: Client) -> None:
    """Read what was done under each key."""
    for key in client.run(keys):
        with client.operation("txn", [["r", key, None]]) as op:
            op["value"] = [["r", key, client.run(effects, key)]]


def keys(tx: Tx) -> list[str]:
    return [row[0] for row in tx.all("SELECT DISTINCT key FROM workload_effects ORDER BY key")]


def effects(tx: Tx, key: str) -> list[Any]:
    return [row[0] for row in tx.all("SELECT element FROM workload_effects WHERE key = :key ORDER BY element", key=key)]


ASKING = Workload(askers, "list-append", setup=create, finish=all_effects)
