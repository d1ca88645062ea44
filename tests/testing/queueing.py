"""Jobs as a queue: what was put is done, once. Judged as a set: putting adds, and the end reads all that was done."""

from __future__ import annotations

import msgspec

from onefold.core.errors import Conflict, Unknown
from onefold.engine.tx import Tx
from onefold.messaging import jobs
from onefold.messaging.jobs.attempts import Wanted, finish_with
from onefold.messaging.jobs.leases import LEASE_MS_MIN, as_list, enlist
from onefold.testing.workload.client import Client
from onefold.testing.workload.workload import Workload

DRAIN_LIVES_MAX = 50  # At the end; then what is not done counts as lost.
ROOM = 3


@jobs.kind("workload.element", attempts=100, backoff_ms=10, backoff_max_ms=100)
class Element(msgspec.Struct, frozen=True):
    """A job whose effect is a row."""

    number: int


def create(tx: Tx) -> None:
    """What was asked for, and what was done: no key keeps a number from being done twice."""
    tx.run("CREATE TABLE workload_asked (number BIGINT PRIMARY KEY)")
    tx.run("CREATE TABLE workload_done (number BIGINT NOT NULL)")


def queue(client: Client) -> None:
    """Every second client puts, the others work; a worker who is given up begins anew."""
    if client.number % 2:
        for _ in client.rounds():
            number = client.unique()
            with client.operation("add", number):
                client.run(put, number)
            client.sleep_ms(client.random.randrange(30))
    else:
        work(client)


def put(tx: Tx, number: int) -> None:
    """The job, and that it was asked for."""
    tx.run("INSERT INTO workload_asked (number) VALUES (:number)", number=number)
    jobs.put(tx, Element(number))


def work(client: Client, *, at_end: bool = False) -> None:
    """Claim, do, and rescue what others left behind; leases are never extended, so that some are lost.

    Args:
        at_end: until all is done, without pauses; otherwise until the run ends.
    """
    name = f"{client.name}/{client.unique()}"
    kinds = as_list(["workload.element"])
    client.run(enlist, name, queues=["default"], kinds=["workload.element"], lease_ms=LEASE_MS_MIN)
    loops = client.options(isolation="read_committed")
    try:
        for _ in client.rounds():
            if at_end and not client.run(left):
                return
            loops.run(jobs.rescue)
            loops.run(jobs.promote)
            for attempt in loops.run(jobs.claim, name, Wanted(kinds, None, [("default", (0, 0, 0, 0, 0))]), room=ROOM):
                client.sleep_ms(0 if at_end else client.random.choice([0, 0, client.random.randrange(300)]))
                do(client, attempt)
            client.sleep_ms(client.random.randrange(20))
    except Conflict:
        return  # The worker was given up; who comes after it has another name.


def do(client: Client, attempt: jobs.Attempt) -> None:
    """Effect and completion in one commit; what somebody else has by now is his."""
    number = msgspec.json.decode(attempt.args, type=Element).number
    try:
        client.run(finish_with, attempt, 0, done, number)
    except (Conflict, Unknown):
        return


def done(tx: Tx, number: int) -> None:
    """The effect."""
    tx.run("INSERT INTO workload_done (number) VALUES (:number)", number=number)


def left(tx: Tx) -> int:
    """How many were asked for and are not done."""
    row = tx.one(
        "SELECT count(*) FROM workload_asked WHERE number NOT IN (SELECT number FROM workload_done)"
    )
    return row[0] if row else 0


def drained(client: Client) -> None:
    """Work until all is done, then read all."""
    for _ in range(DRAIN_LIVES_MAX):
        if client.run(left):
            work(client, at_end=True)
    with client.operation("read") as op:
        op["value"] = client.run(all_done)


def all_done(tx: Tx) -> list[int]:
    """Every effect there is."""
    return [row[0] for row in tx.all("SELECT number FROM workload_done ORDER BY number")]


JOBS = Workload(queue, "set-full", setup=create, finish=drained)
