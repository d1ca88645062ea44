"""kill -9 of real dispatcher processes in the middle of their work: every message arrives, under its one id."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import until
from webhooks_ground import Receiver, attempts, endpoint, failed, pending, send

import onefold
from onefold import Database, webhooks

KILLS = 4
MESSAGES = 1_200

DISPATCHER = """
import asyncio, os, sys
sys.path.insert(0, sys.argv[3])
import onefold
from onefold import webhooks
from onefold.host.outgoing import Policy
from waiting import auntil

async def main(dispatcher):
    running = asyncio.ensure_future(dispatcher.run_until_stopped())
    await auntil(dispatcher.numbers)  # Until it listens to signals.
    os.write(1, b"up\\n")
    await running

with onefold.connect(sys.argv[1]) as db:
    policy = Policy(allow=("127.0.0.0/8",), http=True, ports=None)
    keys = webhooks.Keys.open(sys.argv[2])
    asyncio.run(main(webhooks.Dispatcher(db, keys, policy=policy, lease_ms=1_000, poll_ms=50)))
"""


def start(url: str, key_file: Path) -> subprocess.Popen[bytes]:
    """A dispatcher's process, which listens to signals by now."""
    arguments = [sys.executable, "-c", DISPATCHER, url, str(key_file), str(Path(__file__).parents[1])]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    process.stdout.close()
    return process


def owner_of(db: Database, endpoint_id: str) -> int:
    """The process that delivers there; 0 for nobody."""
    text = "SELECT owner FROM onefold.webhook_lanes WHERE space = :space AND endpoint_id = :id"
    row = db.run(lambda tx: tx.one(text, id=endpoint_id))
    assert row is not None
    return int(row[0].split("-")[-2]) if row[0] else 0


def left(db: Database) -> int:
    row = db.run(lambda tx: tx.one("SELECT count(*) FROM onefold.webhook_pending WHERE space = :space"))
    assert row is not None
    return row[0]


def arrived(other: Receiver, name: str) -> int:
    return len(other.ids(name))


@pytest.mark.slow
@pytest.mark.usefixtures("again")
def test_dispatchers_killed_at_random_lose_nothing(db_url: str, tmp_path: Path) -> None:
    """Two processes share the endpoints; one after the other is killed, and what it had goes to the other."""
    seed = random.randrange(1 << 32)
    dice = random.Random(seed)
    print(f"seed {seed}")
    keys = webhooks.Keys.create(tmp_path / "webhooks.key")
    with onefold.connect(db_url) as db, Receiver() as other:
        ends = {name: endpoint(db, keys, other, name, concurrency=4) for name in ("one", "two", "three")}
        fleet = [start(db_url, tmp_path / "webhooks.key") for _ in range(2)]
        sent: list[str] = []
        try:
            for _ in range(KILLS):
                sent += send(db, count=MESSAGES // KILLS)
                mark = left(db) - dice.randrange(50, 500)
                until(lambda mark=mark: left(db) <= max(mark, 0), "the next deliveries")
                victim = until(lambda: owner_of(db, dice.choice([*ends.values()])), "an owner")
                (place,) = [number for number, process in enumerate(fleet) if process.pid == victim]
                fleet[place].kill()
                assert fleet[place].wait(30) == -signal.SIGKILL
                fleet[place] = start(db_url, tmp_path / "webhooks.key")
            until(lambda: not left(db), "the last delivery", seconds=60)
            for process in fleet:
                process.send_signal(signal.SIGTERM)
            assert [process.wait(30) for process in fleet] == [0, 0], "asked to stop, they end well"
        finally:
            for process in fleet:
                process.kill()
                process.wait()
        for name, endpoint_id in ends.items():
            assert set(other.ids(name)) == set(sent), "nothing lost, nothing made up"
            assert (pending(db, endpoint_id), failed(db, endpoint_id)) == ([], [])
            logged: list[webhooks.Attempt] = []
            after: str | None = ""
            while after is not None:
                page = db.run(webhooks.list_attempts, endpoint_id, after=after, limit=1_000)
                logged, after = logged + page.items, page.after
            assert [(one.message_id, one.attempt) for one in logged] == [(one, 1) for one in sorted(sent)]
            assert {one.outcome for one in logged} == {"delivered"}
        lanes = db.run(lambda tx: tx.all("SELECT owner FROM onefold.webhook_lanes WHERE space = :space"))
        assert lanes == [("",)] * 3, "lanes were given back"


@pytest.mark.slow
def test_a_dispatcher_outlives_a_dead_receiver(db_url: str, tmp_path: Path) -> None:
    """The other end is killed with a request in flight: the attempt is logged, the message waits."""
    keys = webhooks.Keys.create(tmp_path / "webhooks.key")
    with onefold.connect(db_url) as db:
        with Receiver() as other:
            to = endpoint(db, keys, other, "one", "stall")
            process = start(db_url, tmp_path / "webhooks.key")
            try:
                (sent,) = send(db)
                until(lambda: arrived(other, "one"), "the request")
            except BaseException:
                process.kill()
                raise
        try:
            until(lambda: attempts(db, to), "the attempt's end")
            assert [one.outcome for one in attempts(db, to)] == ["unreached"]
            assert [(one.message_id, one.attempt, one.failures) for one in pending(db, to)] == [(sent, 2, 1)]
        finally:
            process.kill()
            process.wait()
