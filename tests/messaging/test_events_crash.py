"""kill -9 of real processes: appenders, sequencers, subscribers."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from events_kinds import Placed, check_order, everything, number
from waiting import until

import onefold
from onefold import Database, Tx, events

HERE = str(Path(__file__).parent)

APPENDER = """
import os, sys, onefold
sys.path.insert(0, sys.argv[2])
from onefold import events
from events_kinds import Placed
def three(tx, stream):
    done = events.append(tx, stream, Placed(1), Placed(2), Placed(3))
    tx.add("batches", 1)
    return done
with onefold.connect(sys.argv[1]) as db:
    for n in range(1_000_000):
        done = db.run(three, f"order/{n % 5}")
        os.write(1, f"{done.id}\\n".encode())  # In one piece: a kill does not tear it.
"""

SEQUENCER = """
import os, sys, onefold
from onefold import events
with onefold.connect(sys.argv[1]) as db:
    waiter = db.waiter("events.appended")
    level = sys.argv[3]
    while True:
        try:
            more = db.options(isolation=level).run(events.sequence)
        except onefold.OnefoldError:
            more = True
        if not more:
            os.write(1, b".\\n")
            waiter.wait(0.01)
"""

SUBSCRIBER = """
import os, sys, onefold
sys.path.insert(0, sys.argv[2])
from onefold import events
from events_kinds import Placed
def handle(tx, event):
    # A second handling of the same event would be refused, and the event parked.
    events.append(tx, f"seen/{event.stream}", Placed(event.version), expected=event.version - 1)
    tx.add("sum", event.open(Placed).n)
with onefold.connect(sys.argv[1]) as db:
    subscriber = events.Subscriber(db, "sums", handle, category="order", limit=7)
    while True:
        done = subscriber.step()
        os.write(1, f"{done.position}\\n".encode())
"""


class Program:
    """A process that is killed with -9 and started again; its output goes to a file."""

    def __init__(self, source: str, url: str, output: Path, *arguments: str) -> None:
        self._command = [sys.executable, "-c", source, url, HERE, *arguments]
        self._path = output
        self._output = output.open("ab")
        self.kills = 0
        self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=self._output)

    def lines(self) -> list[str]:
        text = self._path.read_text()
        return text[: text.rfind("\n") + 1].splitlines()

    def kill(self) -> None:
        assert self._process.poll() is None, "it ended by itself"
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self.kills += 1

    def restart(self) -> None:
        self.kill()
        self._start()

    def close(self) -> None:
        if self._process.poll() is None:
            self.kill()
        self._output.close()


@contextmanager
def running(*programs: Program) -> Iterator[None]:
    try:
        yield
    finally:
        for program in programs:
            program.close()


def wait_lines(program: Program, count: int) -> None:
    until(lambda: len(program.lines()) >= count, f"{count} lines")


def check_batches(db: Database) -> list[events.Event]:
    """Appends of three events and a counter: all or nothing of each."""
    found = everything(db)
    check_order(found)
    orders = [event for event in found if event.stream.startswith("order/")]
    for stream in {event.stream for event in orders}:
        of_stream = [event for event in orders if event.stream == stream]
        assert [event.open(Placed).n for event in of_stream] == [1, 2, 3] * (len(of_stream) // 3)
        assert db.run(events.version_of, stream) == len(of_stream)
    assert db.run(lambda tx: tx.total("batches")) * 3 == len(orders)
    return orders


@pytest.mark.usefixtures("again")
def test_what_was_acknowledged_is_there_and_nothing_is_half_there(db_url: str, tmp_path: Path) -> None:
    dice = random.Random(7)
    appenders = [Program(APPENDER, db_url, tmp_path / f"appender{n}") for n in range(2)]
    with running(*appenders):
        for _ in range(4):
            for program in appenders:
                wait_lines(program, len(program.lines()) + dice.randrange(1, 30))
                program.restart()
    acknowledged = {line for program in appenders for line in program.lines()}
    with onefold.connect(db_url) as db:
        number(db)
        orders = check_batches(db)
        db.run(events.append, "order/0", Placed())  # And it goes on.
    kills = sum(program.kills for program in appenders)
    print(f"{kills} kills, {len(acknowledged)} acknowledged appends, {len(orders)} events")
    assert acknowledged <= {event.id for event in orders}
    assert len(acknowledged) > 8


@pytest.mark.parametrize("level", ["read_committed", "repeatable_read"])
@pytest.mark.usefixtures("again")
def test_racing_sequencers_killed_at_random_number_everything_once(
    postgres_url: str, tmp_path: Path, level: str
) -> None:
    dice = random.Random(11)
    appenders = [Program(APPENDER, postgres_url, tmp_path / f"appender{n}") for n in range(2)]
    sequencers = [Program(SEQUENCER, postgres_url, tmp_path / f"sequencer{n}", level) for n in range(3)]
    read: list[str] = []
    with onefold.connect(postgres_url) as db:
        with running(*appenders, *sequencers):

            def tail() -> int:
                """A reader who goes on from where it stood: what it would miss, it would miss for ever."""
                page = db.reader().run(events.read_all, after=len(read), limit=1_000)
                read.extend(event.id for event in page.items)
                return len(read)

            for _ in range(12):
                seen = tail()
                until(lambda: tail() >= seen + dice.randrange(1, 60), "events are numbered while others die")
                dice.choice([*sequencers, *sequencers, *appenders]).restart()
        number(db)
        orders = check_batches(db)
        while len(read) < len(orders):
            assert tail()
    acknowledged = {line for program in appenders for line in program.lines()}
    print(f"{sum(p.kills for p in [*appenders, *sequencers])} kills, {len(orders)} events, {len(acknowledged)} acks")
    assert read == [event.id for event in orders]
    assert acknowledged <= set(read)


@pytest.mark.usefixtures("again")
def test_a_subscriber_killed_at_random_handles_each_event_once(db_url: str, tmp_path: Path) -> None:
    dice = random.Random(5)
    total = 300
    with onefold.connect(db_url) as db:
        for n in range(total // 3):
            db.run(lambda tx, n=n: events.append(tx, f"order/{n % 4}", Placed(n), Placed(n + 1), Placed(n + 2)))
        number(db)
        subscribers = [Program(SUBSCRIBER, db_url, tmp_path / f"subscriber{n}") for n in range(2)]

        def place() -> int:
            found = db.reader().run(events.list_subscriptions).items
            return found[0].position if found else 0

        with running(*subscribers):
            for _ in range(6):
                before = place()
                target = min(before + dice.randrange(1, 40), total)
                until(lambda: place() >= target, "it goes on")
                dice.choice(subscribers).restart()
            until(lambda: place() == total, "it comes to the end")

        def outcome(tx: Tx) -> tuple[int, int, list[int]]:
            seen = [events.version_of(tx, f"seen/order/{n}") for n in range(4)]
            return tx.total("sum"), events.subscription_of(tx, "sums").parked, seen

        kills = sum(program.kills for program in subscribers)
        print(f"{kills} kills of subscribers")
        wanted = sum(3 * n + 3 for n in range(total // 3))
        assert db.run(outcome) == (wanted, 0, [total // 4] * 4)
