"""Django on our SQLite file waits its turn like everybody else."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import IntegrityError, connections, transaction
from django_users import User, alias_of, names
from racing import at_once, kill_after

import onefold
from onefold import Database, Invalid
from onefold.host.gate import Gate


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    with onefold.connect(tmp_path / "a.db") as database:
        yield database


@pytest.fixture
def alias(db: Database) -> Iterator[str]:
    with alias_of(db.url) as made:
        yield made


def in_atomic(alias: str) -> None:
    with transaction.atomic(using=alias):
        User.objects.using(alias).create(name="ana")


def alone(alias: str) -> None:
    User.objects.using(alias).create(name="ana")


def many(alias: str) -> None:
    with connections[alias].cursor() as cursor:
        cursor.executemany("INSERT INTO users_user (name) VALUES (%s)", [("ana",)])


def in_words(alias: str) -> None:
    with connections[alias].cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("INSERT INTO users_user (name) VALUES ('ana')")
        cursor.execute("COMMIT")


@pytest.mark.parametrize("write", [in_atomic, alone, many, in_words])
def test_a_write_waits_for_the_gate_and_lets_go(
    db: Database, alias: str, threads: ThreadPoolExecutor, write: Callable[[str], None]
) -> None:
    began = threading.Event()

    def work() -> list[str]:
        try:
            assert names(alias) == []  # Who reads needs no gate.
            began.set()
            write(alias)
            return names(alias)
        finally:
            connections[alias].close()

    gate = Gate(Path(db.url))
    gate.acquire()
    try:
        future: Future[list[str]] = threads.submit(work)
        assert began.wait(20)
        with pytest.raises(TimeoutError):
            future.result(0.2)
    finally:
        gate.release()
    assert future.result(20) == ["ana"]
    assert gate.try_acquire()
    gate.close()


@pytest.mark.parametrize("write", [in_atomic, alone, many])
def test_a_write_that_fails_lets_go(db: Database, alias: str, write: Callable[[str], None]) -> None:
    write(alias)
    with pytest.raises(IntegrityError):
        write(alias)
    db.run(lambda tx: tx.add("a", 1))
    assert names(alias) == ["ana"]
    gate = Gate(Path(db.url))
    assert gate.try_acquire()
    gate.close()


def test_nothing_is_lost_among_threads_that_write(db: Database, alias: str) -> None:
    def through_django(number: int) -> None:
        try:
            for turn in range(20):
                User.objects.using(alias).create(name=f"{number}/{turn}")
                with transaction.atomic(using=alias):
                    User.objects.using(alias).count()  # A deferred transaction would fail at the write that follows.
                    onefold.django.use(alias).add("visits", 1)
        finally:
            connections[alias].close()

    def through_us() -> None:
        for _ in range(20):
            db.run(lambda tx: tx.add("visits", 1))

    assert at_once(lambda: through_django(1), lambda: through_django(2), through_us, through_us) == [None] * 4
    assert db.run(lambda tx: tx.total("visits")) == 80
    assert len(names(alias)) == 40


def test_rows_of_a_write_outside_of_a_transaction_can_all_be_read(db: Database, alias: str) -> None:
    made = User.objects.using(alias).bulk_create([User(name=name) for name in "abcde"])
    assert [user.pk for user in made] == [1, 2, 3, 4, 5]
    with connections[alias].cursor() as cursor:
        cursor.execute("UPDATE users_user SET name = name || '!' RETURNING name")
        db.options(deadline_ms=500).run(lambda tx: tx.add("visits", 1))  # It is committed before its rows are read.
        assert cursor.fetchone() == ("a!",)
        assert cursor.fetchmany(2) == [("b!",), ("c!",)]
        assert list(cursor) == [("d!",), ("e!",)]
        assert cursor.fetchone() is None
        assert cursor.execute("UPDATE users_user SET name = name || '?' RETURNING name").fetchall()[3:] == [("d!?",), ("e!?",)]
        assert cursor.execute("SELECT count(*) FROM users_user").fetchall() == [(5,)]


def test_what_would_take_no_gate_is_refused(db: Database, alias: str) -> None:
    with pytest.raises(Invalid) as refused:
        transaction.set_autocommit(False, using=alias)
    assert refused.value.code == "autocommit"
    with connections[alias].cursor() as cursor, pytest.raises(Invalid) as refused:
        cursor.execute("SAVEPOINT a")
    assert refused.value.code == "savepoint"
    with pytest.raises(ImproperlyConfigured), alias_of(db.url, NAME=":memory:"):
        pass


def test_djangos_own_backend_can_be_joined_too(db: Database) -> None:
    with alias_of(db.url, ENGINE="django.db.backends.sqlite3") as alias:
        with transaction.atomic(using=alias):
            User.objects.using(alias).create(name="ana")
            onefold.django.use(alias).add("users", 1)
        assert names(alias) == ["ana"]
    assert db.run(lambda tx: tx.total("users")) == 1


def test_it_makes_no_checkpoints(alias: str) -> None:
    with connections[alias].cursor() as cursor:
        assert cursor.execute("PRAGMA wal_autocheckpoint").fetchone() == (0,)
        assert cursor.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_begin_twice_keeps_the_transaction_and_the_gate(db: Database, alias: str, threads: ThreadPoolExecutor) -> None:
    with transaction.atomic(using=alias):
        User.objects.using(alias).create(name="ana")
        with pytest.raises(sqlite3.OperationalError):
            connections[alias].connection.begin_gated()
        gate = Gate(Path(db.url))
        assert not gate.try_acquire()
        gate.close()
    assert names(alias) == ["ana"]


PROGRAM = """
import sys
import onefold
sys.path.insert(0, sys.argv[2])
from django.db import transaction
from django_users import User, alias_of

with alias_of(sys.argv[1]) as alias:
    number = 0
    while True:
        with transaction.atomic(using=alias):
            User.objects.using(alias).create(name=str(number))
            onefold.django.use(alias).add("users", 1)
        print(number, flush=True)
        number += 1
"""


def test_killed_in_the_middle_it_leaves_whole_transactions_and_a_free_gate(db: Database) -> None:
    said = kill_after(25, PROGRAM, db.url, str(Path(__file__).parent))
    gate = Gate(Path(db.url))
    assert gate.try_acquire()
    gate.close()
    assert connected_names(db.url) >= said
    assert db.run(lambda tx: tx.total("users")) == len(connected_names(db.url))


def connected_names(url: str) -> set[str]:
    with contextlib.closing(sqlite3.connect(url)) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM users_user")}


IDLE = """
import sys
sys.path.insert(0, sys.argv[2])
from django_users import alias_of

with alias_of(sys.argv[1]):
    print("idle", flush=True)
    sys.stdin.readline()
"""


def test_the_doctor_knows_that_it_takes_the_gate(tmp_path: Path) -> None:
    url = str(tmp_path / "a.db")
    onefold.migrate(url)
    command = [sys.executable, "-c", IDLE, url, str(Path(__file__).parent)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as idle:
        assert idle.stdout is not None
        assert idle.stdout.readline() == "idle\n"
        done = subprocess.run(
            [sys.executable, "-m", "onefold.cli.main", "doctor", "--json", "--url", url], capture_output=True, text=True, check=False
        )
        idle.communicate("\n")
    found = json.loads(done.stdout)["findings"]
    assert [finding["text"] for finding in found if finding["check"] == "processes"] == ["1 with the file open, all take the gate"]
