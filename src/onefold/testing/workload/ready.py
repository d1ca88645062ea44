"""Workloads to begin with: what a database promises to transactions, and what three blocks promise upon it."""

from __future__ import annotations

import contextlib
import itertools
from typing import Any
from urllib.parse import quote

from onefold.coordination import locks
from onefold.core.errors import Conflict
from onefold.core.money import Money
from onefold.engine.tx import Tx
from onefold.products import ledger
from onefold.testing.workload.client import Client
from onefold.testing.workload.workload import Workload

KEYS = 3  # Written at the same time.
MICROS_MAX = 4  # Of a transaction.
LIST_LENGTH_MAX = 40  # Then the next list; reads of long ones would cost more than they tell.
REGISTERS = 5
WALLETS = tuple(f"wallet/{number}" for number in range(5))
GIFT_MINOR = 100
TTL_MS = 150
THINK_MS_MAX = 250  # More than `TTL_MS`: some holders oversleep.


# -- lists and registers: what transactions see of each other ---------------------------------------


def create_lists(tx: Tx) -> None:
    """One row for each list: whole numbers, each after a comma."""
    tx.run("CREATE TABLE workload_lists (key TEXT PRIMARY KEY, elements TEXT NOT NULL)")


def lists(client: Client) -> None:
    """Transactions that read a few lists and append to them."""
    generation = [0] * KEYS
    for _ in client.rounds():
        micros: list[list[Any]] = []
        for _ in range(client.random.randrange(1, MICROS_MAX + 1)):
            slot = client.random.randrange(KEYS)
            key = f"{slot}.{generation[slot]}"
            append = client.random.random() < 0.5
            micros.append(["append", key, client.unique()] if append else ["r", key, None])
        with client.operation("txn", micros) as op:
            op["value"] = answered = client.run(on_lists, micros)
        for _, key, value in answered:
            slot, number = map(int, key.split("."))
            if isinstance(value, list) and len(value) >= LIST_LENGTH_MAX:
                generation[slot] = max(generation[slot], number + 1)


def on_lists(tx: Tx, micros: list[list[Any]]) -> list[list[Any]]:
    """Do them one after the other; answer them with what was read."""
    answered: list[list[Any]] = []
    for f, key, value in micros:
        if f == "append":
            tx.run(
                """INSERT INTO workload_lists (key, elements) VALUES (:key, :element)
                   ON CONFLICT (key) DO UPDATE SET elements = workload_lists.elements || excluded.elements""",
                key=key, element=f",{value}",
            )  # fmt: skip
            answered.append([f, key, value])
            continue
        row = tx.one("SELECT elements FROM workload_lists WHERE key = :key", key=key)
        answered.append([f, key, [int(one) for one in row[0].split(",")[1:]] if row else []])
    return answered


def all_lists(client: Client) -> None:
    """Read every list there is, so that an append which was lost is missed."""
    keys = client.run(lambda tx: [row[0] for row in tx.all("SELECT key FROM workload_lists ORDER BY key")])
    for key in keys:
        micros = [["r", key, None]]
        with client.operation("txn", micros) as op:
            op["value"] = client.run(on_lists, micros)


def create_registers(tx: Tx) -> None:
    """One row for each register."""
    tx.run("CREATE TABLE workload_registers (key BIGINT PRIMARY KEY, value BIGINT NOT NULL)")


def registers(client: Client) -> None:
    """Transactions that read a few registers and write others' numbers into them."""
    for _ in client.rounds():
        micros: list[list[Any]] = []
        for _ in range(client.random.randrange(1, MICROS_MAX + 1)):
            key, write = client.random.randrange(REGISTERS), client.random.random() < 0.5
            micros.append(["w", key, client.unique()] if write else ["r", key, None])
        with client.operation("txn", micros) as op:
            op["value"] = client.run(on_registers, micros)


def on_registers(tx: Tx, micros: list[list[Any]]) -> list[list[Any]]:
    """Do them one after the other; answer them with what was read."""
    answered: list[list[Any]] = []
    for f, key, value in micros:
        if f == "w":
            tx.run(
                """INSERT INTO workload_registers (key, value) VALUES (:key, :value)
                   ON CONFLICT (key) DO UPDATE SET value = excluded.value""",
                key=key, value=value,
            )  # fmt: skip
            answered.append([f, key, value])
            continue
        row = tx.one("SELECT value FROM workload_registers WHERE key = :key", key=key)
        answered.append([f, key, row[0] if row else None])
    return answered


# -- the ledger as a bank -----------------------------------------------------------------------------


def open_wallets(tx: Tx) -> None:
    """Some wallets with the same gift in each."""
    ledger.open_account(tx, "bank", currency="EUR", kind="unlimited")
    for name in WALLETS:
        ledger.open_account(tx, name, currency="EUR")
        ledger.transfer(tx, f"gift/{name}", debit="bank", credit=name, amount=Money(GIFT_MINOR, "EUR"))


def payers(client: Client) -> None:
    """Move money between wallets, and look at all of them at once."""
    for _ in client.rounds():
        if client.random.random() < 0.5:
            look(client)
            continue
        debit, credit = client.random.sample(WALLETS, 2)
        minor, id = client.random.randrange(1, GIFT_MINOR), f"transfer/{client.unique()}"
        with contextlib.suppress(Conflict), client.operation("transfer", [debit, credit, minor]):
            client.run(ledger.transfer, id, debit=debit, credit=credit, amount=Money(minor, "EUR"))


def look(client: Client) -> None:
    """One look at all wallets."""
    with client.operation("read") as op:
        op["value"] = client.run(balances)


def balances(tx: Tx) -> dict[str, int]:
    """What is in each wallet."""
    return {name: ledger.balance(tx, name).posted.minor for name in WALLETS}


# -- locks: a register that only the holder writes ------------------------------------------------------


def create_guarded(tx: Tx) -> None:
    """The register; a row that is never there is nil."""
    tx.run("CREATE TABLE workload_guarded (key BIGINT PRIMARY KEY, value BIGINT NOT NULL)")


def holders(client: Client) -> None:
    """Take the lock, read, think, and write behind `check`: judged as if it had compared and set.

    The write itself compares nothing, so that the lock alone keeps two holders from writing over each other;
    some think longer than their lock lives.
    """
    owner = f"{client.name}/{client.unique()}"
    for _ in client.rounds():
        if client.random.random() < 0.2:
            with client.operation("read") as op:
                op["value"] = client.run(guarded)
            continue
        lock = client.run(locks.try_acquire, "door", owner=owner, ttl_ms=TTL_MS)
        if lock is None:
            client.sleep_ms(client.random.randrange(1, 20))
            continue
        seen, new = client.run(guarded), client.unique()
        client.sleep_ms(client.random.choice([0, 0, 0, client.random.randrange(THINK_MS_MAX)]))
        try:
            with client.operation("cas", [seen, new]):
                client.run(write_guarded, lock, new)
            client.run(locks.release, lock)
        except Conflict:
            owner = f"{client.name}/{client.unique()}"  # Deposed. Who asks again is somebody else.


def guarded(tx: Tx) -> int | None:
    """What the register holds."""
    row = tx.one("SELECT value FROM workload_guarded WHERE key = 1")
    return row[0] if row else None


def write_guarded(tx: Tx, lock: locks.Lock, value: int) -> None:
    """Write it as the holder of the lock."""
    locks.check(tx, lock)
    tx.run(
        """INSERT INTO workload_guarded (key, value) VALUES (1, :value)
           ON CONFLICT (key) DO UPDATE SET value = excluded.value""",
        value=value,
    )  # fmt: skip


# -- streams of events, over HTTP: lists that servers keep ------------------------------------------------


def streams(client: Client) -> None:
    """Append to a few streams and read them, by requests that are repeated under their key until somebody answers."""
    generation = [0] * KEYS
    for _ in client.rounds():
        slot = client.random.randrange(KEYS)
        stream = f"list/{slot}.{generation[slot]}"
        if client.random.random() < 0.5:
            number = client.unique()
            event = {"kind": "workload.element", "data": {"number": number}}
            with client.operation("txn", [["append", stream, number]]):
                client.ask("POST", "/v1/events", {"stream": stream, "events": [event]}, key=f"append-{number}")
        elif len(read_stream(client, stream)) >= LIST_LENGTH_MAX:
            generation[slot] += 1


def read_stream(client: Client, stream: str) -> list[int]:
    """One read of a stream, as an operation."""
    with client.operation("txn", [["r", stream, None]]) as op:
        found = client.ask("GET", f"/v1/events/stream?stream={quote(stream, safe='')}&limit=1000")
        op["value"] = [["r", stream, numbers := [event["data"]["number"] for event in found["items"]]]]
    return numbers


def all_streams(client: Client) -> None:
    """Read every stream there is, so that an event which was lost is missed."""
    for slot in range(KEYS):
        for generation in itertools.count():
            if not read_stream(client, f"list/{slot}.{generation}"):
                break


LIST_APPEND = Workload(lists, "list-append", setup=create_lists, finish=all_lists)
RW_REGISTER = Workload(registers, "rw-register", {"assume": ["linearizable-keys"]}, setup=create_registers)
BANK = Workload(payers, "bank", {"total": GIFT_MINOR * len(WALLETS)}, setup=open_wallets, finish=look)
STREAMS = Workload(streams, "list-append", finish=all_streams)
LOCKS = Workload(holders, "cas-register", setup=create_guarded)
