"""A workload with a bug: holders of a lock who think longer than it lives, and write without asking whether they hold it."""

from __future__ import annotations

import threading

from onefold import Tx, locks
from onefold.testing.workload import Client, Workload
from onefold.testing.workload.client import UNIQUE_MAX
from onefold.testing.workload.ready import TTL_MS, create_guarded, guarded


def write(tx: Tx, value: int) -> None:
    tx.run(
        """INSERT INTO workload_guarded (key, value) VALUES (1, :value)
           ON CONFLICT (key) DO UPDATE SET value = excluded.value""",
        value=value,
    )


def holders(client: Client) -> None:
    for number in client.rounds():
        lock = client.run(locks.try_acquire, "door", owner=f"{client.name}/{number}", ttl_ms=TTL_MS)
        if lock is None:
            client.sleep_ms(5)
            continue
        seen, new = client.run(guarded), client.unique()
        client.sleep_ms(2 * TTL_MS)
        with client.operation("cas", [seen, new]):
            client.run(write, new)


def fails(client: Client) -> None:
    with client.operation("read"):
        raise ZeroDivisionError


def fails_at_first(client: Client) -> None:
    if client.incarnation < 2 * UNIQUE_MAX:  # A process that is started anew does better.
        raise ZeroDivisionError
    client.sleep_ms(10)


def never_ends(client: Client) -> None:
    del client
    threading.Event().wait()


CARELESS = Workload(holders, "cas-register", setup=create_guarded)
ENDLESS = Workload(never_ends, "register")
FAILING = Workload(fails, "register")
FAILING_AT_FIRST = Workload(fails_at_first, "register")
