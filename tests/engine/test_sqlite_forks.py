"""Forks in every state, wake-ups that go astray, odd paths, gates that were forgotten."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from engine_words import PUT, WAIT_S, count, get, put, python
from waiting import let_pass, until

import onefold
from onefold import Database, Invalid, Retry
from onefold.engine.sqlite import batches, wakes, watchdog, writer
from onefold.engine.sqlite.gated import GatedConnection
from onefold.engine.wake import Hub
from onefold.host.gate import Gate


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Database]:
    with onefold.connect(tmp_path / "a.db") as db:
        yield db


# -- forks -------------------------------------------------------------------------------------------------


def test_a_child_made_inside_a_transaction_cannot_end_it(tmp_path: Path) -> None:
    program = f"""
import logging, os, sys, onefold
from onefold.engine.sqlite import connection
logging.getLogger("onefold.watchdog").disabled = True  # Whoever waits for his child holds the writer.
connection.CACHE_KIB = 16  # Much of the transaction is in the log, behind another: a rollback would reach into it.
def put(tx, key): tx.run({PUT!r}, key=key, total=1)
db = onefold.connect(sys.argv[1])
db.run(put, "a")
def forks(tx):
    for n in range(200):
        put(tx, f"{{n}}/" + "x" * 150)
    child = os.fork()
    if child == 0:
        return "child"
    os.waitpid(child, 0)
    for n in range(200):
        put(tx, f"{{n}}/" + "x" * 150)
    put(tx, "b")
    return "parent"
try:
    print(db.run(forks), flush=True)
except onefold.Doomed:
    print("refused", flush=True)
    sys.exit(0)  # An orderly end, which closes what can be closed.
print(db.run(lambda tx: tx.one("SELECT count(*) FROM onefold.counter_totals WHERE space = :space")), flush=True)
db.close()
"""
    done = python(program, str(tmp_path / "a.db"))
    assert done.stdout.split("\n")[:3] == ["refused", "parent", "(202,)"], done.stderr
    assert done.stderr == "", "what the child was refused is in its error, not in the log"
    other = sqlite3.connect(tmp_path / "a.db")
    assert other.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    other.close()


def test_a_child_keeps_no_gate_of_its_dead_parent(tmp_path: Path) -> None:
    program = f"""
import os, sys, onefold
db = onefold.connect(sys.argv[1])
def forks(tx):
    tx.run({PUT!r}, key="half", total=1)
    if os.fork() == 0:
        os.read(0, 1)  # Until the test ends.
        os._exit(0)
    print("in", flush=True)
    os.read(0, 1)
db.run(forks)
"""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", program, str(tmp_path / "a.db")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "in\n"
        process.kill()
        process.wait(WAIT_S)
        with onefold.connect(tmp_path / "a.db") as db:
            db.options(deadline_ms=5_000).run(put, "a")
            assert db.run(get, "half") is None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.stdin.close()
        process.stdout.close()


def test_a_child_of_a_program_with_an_open_orm_transaction_does_not_shut_the_gate(tmp_path: Path) -> None:
    onefold.migrate(tmp_path / "a.db")
    orm = sqlite3.connect(tmp_path / "a.db", factory=GatedConnection)
    orm.begin_gated()
    ready, done = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(done)
        os.read(ready, 1)
        os._exit(0)
    os.close(ready)
    try:
        orm.commit()
        other = Gate(tmp_path / "a.db")
        assert other.try_acquire(), "the child's copy of the descriptor holds the gate"
        other.close()
    finally:
        os.close(done)
        os.waitpid(child, 0)
        orm.close()


def test_a_child_can_close_the_orms_connection_that_it_was_born_with(tmp_path: Path) -> None:
    onefold.migrate(tmp_path / "a.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "a.db", factory=GatedConnection)) as orm:
        child = os.fork()
        if child == 0:
            try:
                orm.close()
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        orm.begin_gated()


FORKS = f"""
import asyncio, multiprocessing, os, sys, threading, onefold
path, mode = sys.argv[1:3]
db = onefold.connect(path)
def put(tx, key): tx.run({PUT!r}, key=key, total=1)
def child(key):
    db.run(put, key)
    db.close()
    os._exit(0)
def fork(key):
    pid = os.fork()
    if pid == 0:
        child(key)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
def spawned(path, key):
    with onefold.connect(path) as mine:
        mine.run(put, key)
stop = threading.Event()
def reads():
    while not stop.is_set():
        db.reader().run(lambda tx: tx.all("SELECT key FROM onefold.counter_totals WHERE space = :space"))
async def crowd():
    stored = asyncio.Semaphore(0)
    async def one(n):
        for k in range(30):
            await db.arun(put, f"task/{{n}}/{{k}}")
            stored.release()
            await db.reader().arun(lambda tx: None)
    tasks = [asyncio.create_task(one(n)) for n in range(16)]
    for n in range(3):
        for _ in range(50): await stored.acquire()  # In the midst of it.
        fork(f"child{{n}}")
    await asyncio.gather(*tasks)
if __name__ == "__main__":
    if mode == "asyncio":
        asyncio.run(crowd())
    elif mode == "readers":
        threads = [threading.Thread(target=reads) for _ in range(4)]
        for t in threads: t.start()
        for n in range(5): fork(f"child{{n}}"); db.run(put, f"parent{{n}}")
        stop.set()
        for t in threads: t.join()
    elif mode == "on_commit":
        done = threading.Event()
        def after():
            fork("child0")
            db.run(put, "parent0")
            done.set()
        db.run(lambda tx: tx.on_commit(after))
        assert done.wait(20)
    else:
        context = multiprocessing.get_context(mode)
        db.run(put, "first")
        children = [context.Process(target=spawned, args=(path, f"child{{n}}")) for n in range(3)]
        for c in children: c.start()
        for n in range(20): db.run(put, f"parent{{n}}")
        for c in children: c.join(30); assert c.exitcode == 0
    print(db.run(lambda tx: len(tx.all("SELECT key FROM onefold.counter_totals WHERE space = :space"))))
    db.close()
"""


@pytest.mark.parametrize(
    ("mode", "rows"), [("asyncio", 16 * 30 + 3), ("readers", 10), ("on_commit", 2), ("fork", 24), ("spawn", 24)]
)
def test_forks_in_every_state(tmp_path: Path, mode: str, rows: int) -> None:
    program = tmp_path / "program.py"
    program.write_text(FORKS)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(program), str(tmp_path / "a.db"), mode],
        capture_output=True, text=True, timeout=60, check=False,
    )
    assert done.stdout.strip() == str(rows), done.stderr[-2_000:]
    assert done.stderr == ""


# -- wake-ups ----------------------------------------------------------------------------------------------


def test_a_forgotten_waiter_is_forgotten(plain: Database) -> None:
    for n in range(100):
        plain.waiter(f"topic/{n}")
    gc.collect()
    assert not plain._engine.hub.has_waiters()
    kept = plain.waiter("topic/1")
    plain.run(lambda tx: tx.wake("topic/1"))
    assert kept.wait(WAIT_S)
    kept.close()


def test_a_callback_that_ends_its_thread_does_not_end_the_callbacks(plain: Database) -> None:
    heard = threading.Event()
    plain.run(lambda tx: tx.on_commit(lambda: sys.exit(1)))
    plain.run(lambda tx: tx.on_commit(heard.set))
    assert heard.wait(WAIT_S)


@pytest.mark.parametrize("topic", ["\ud800", "two\nlines", "x" * 5_000])
def test_odd_topics_reach_other_databases(tmp_path: Path, topic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wakes, "POLL_S", 3600.0)  # Not found by a look at the file: told.
    with onefold.connect(tmp_path / "a.db") as one, onefold.connect(tmp_path / "a.db") as two:
        odd, plain = two.waiter(topic), two.waiter("plain")
        one.run(lambda tx: tx.wake(topic))
        assert odd.wait(WAIT_S)
        names = {thread.name for thread in threading.enumerate() if thread.is_alive()}
        assert sum(thread.name == "onefold-tell" for thread in threading.enumerate()) == 2, names
        odd.close()
        plain.close()


def test_stale_sockets_go_and_do_no_harm(tmp_path: Path) -> None:
    with onefold.connect(tmp_path / "a.db") as one, onefold.connect(tmp_path / "a.db") as two:
        folder = tmp_path / "a.db-peers"
        for n in range(20):
            stale = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            stale.bind(str(folder / f"9{n}-x.sock"))
            stale.close()
        waiter = two.waiter("t")

        def places() -> int:
            one.run(lambda tx: tx.wake("t"))
            assert waiter.wait(WAIT_S)
            return len(list(folder.iterdir()))

        until(lambda: places() == 2, "the end of the stale sockets")
        waiter.close()


def test_without_a_folder_for_sockets_the_poll_is_enough(tmp_path: Path) -> None:
    (tmp_path / "a.db-peers").write_text("Somebody's file.")
    with onefold.connect(tmp_path / "a.db") as one, onefold.connect(tmp_path / "a.db") as two:
        waiter = two.waiter("t")
        woken = False
        for n in range(20):
            one.run(put, f"k{n}")
            if woken := waiter.wait(1):
                break
        assert woken
        waiter.close()


def test_without_proc_a_socket_has_its_own_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wakes, "sys", SimpleNamespace(platform="darwin"))
    with contextlib.closing(wakes.Peers(tmp_path / "a.db", make=True)) as peers:
        assert peers.address("1-x.sock") == str(tmp_path / "a.db-peers" / "1-x.sock")


def test_only_its_user_may_wake_a_database(tmp_path: Path) -> None:
    with onefold.connect(tmp_path / "a.db"):
        assert (tmp_path / "a.db-peers").stat().st_mode & 0o777 == 0o700


def test_a_folder_that_cannot_be_read_for_a_moment_costs_one_wake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with onefold.connect(tmp_path / "a.db") as one, onefold.connect(tmp_path / "a.db") as two:
        waiter = two.waiter("t")
        with monkeypatch.context() as patch:
            patch.setattr(wakes.Peers, "names", lambda _: os.listdir(tmp_path / "nowhere"))
            one.run(lambda tx: tx.wake("t"))
            until(lambda: caplog.records, "a word in the log")
        one.run(lambda tx: tx.wake("t"))
        assert waiter.wait(WAIT_S)
        waiter.close()


def test_a_look_at_the_file_wakes_only_when_it_was_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wakes, "POLL_S", 3600.0)  # Nobody else looks.
    with onefold.connect(tmp_path / "a.db") as db, contextlib.closing(sqlite3.connect(tmp_path / "a.db")) as other:
        waiter, parts = db.waiter("t"), db._engine._open()  # type: ignore[attr-defined]
        woken = []
        with monkeypatch.context() as patch:
            patch.setattr(wakes, "open_connection", lambda *_, **__: sqlite3.connect(tmp_path))  # No file.
            parts.wakes._look()
        for change in ("", "", "CREATE TABLE theirs (a)", "", "DROP TABLE theirs"):
            other.executescript(change)
            parts.wakes._look()
            woken.append(waiter.wait(0))
        waiter.close()
    assert woken == [False, False, True, False, True]


def test_closing_calls_off_who_listens_and_waits_for_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wakes, "POLL_S", 3600.0)  # By itself it does not look up.
    monkeypatch.setattr(Hub, "wake_all", lambda _: let_pass(30))  # What it does when it is called off.
    before = set(threading.enumerate())
    onefold.connect(tmp_path / "a.db").close()
    assert set(threading.enumerate()) <= before


# -- paths -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["with space.db", "50%.db", "what?.db", "a#b.db", "ünï.db", "x" * 120 + ".db"])
def test_odd_paths(tmp_path: Path, name: str) -> None:
    folder = tmp_path / ("d" * 100)
    folder.mkdir()
    with onefold.connect(folder / name) as one, onefold.connect(folder / name) as two:
        waiter = two.waiter("t")
        one.run(lambda tx: (put(tx, "a"), tx.wake("t")))
        assert waiter.wait(WAIT_S)
        assert two.reader().run(get, "a") == 1
        waiter.close()
    assert (folder / name).exists()


def test_a_relative_path_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    with onefold.connect("a.db") as db:
        db.run(put, "a")
        monkeypatch.chdir(tmp_path / "elsewhere")
        db._engine._before_fork()  # type: ignore[attr-defined]  What a fork does: all is closed,
        db._engine._after_fork()  # type: ignore[attr-defined]  and opened again at the next call.
        db.run(put, "b")
        assert db.reader().run(count) == 2
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_link_to_the_file_is_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    onefold.migrate(tmp_path / "real" / "a.db")
    (tmp_path / "link.db").symlink_to(tmp_path / "real" / "a.db")
    other = Gate(tmp_path / "real" / "a.db")
    with onefold.connect(tmp_path / "link.db") as db:
        db.run(put, "a")
        assert db.metrics()["wal_bytes"] > 0
        other.acquire()
        with pytest.raises(Retry) as shut:
            db.options(deadline_ms=200).run(put, "b")
        assert shut.value.code == "gate"
        other.close()
        db.run(put, "b")
    assert not list(tmp_path.glob("link.db-*"))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting read-only needs root")
def test_a_folder_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(place)], check=False, capture_output=True).returncode:
        pytest.skip("mount refused")
    try:
        with pytest.raises(Invalid):
            onefold.connect(place / "a.db")
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)


# -- the watchdog, the gate ------------------------------------------------------------------------------------


def test_the_gates_time_limit_can_be_met_again_and_again(tmp_path: Path) -> None:
    first, second = Gate(tmp_path / "g"), Gate(tmp_path / "g")
    first.acquire()
    for _ in range(3):
        assert not second.acquire_within(0.02)
    assert second.holder() == f"pid {os.getpid()}"
    first.release()
    assert second.acquire_within(WAIT_S)
    assert not first.try_acquire()
    second.close()
    second.close()
    assert first.acquire_within(WAIT_S)
    first.close()


def test_a_gate_that_was_forgotten_is_open(tmp_path: Path) -> None:
    forgotten = Gate(tmp_path / "g")
    forgotten.acquire()
    del forgotten
    gc.collect()
    other = Gate(tmp_path / "g")
    assert other.try_acquire()
    other.close()


def test_a_slow_disk_is_nobodys_fault(plain: Database, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    real = batches.Batches._commit
    nudge = writer.Writer.nudge
    looks, committed = threading.Semaphore(0), threading.Event()

    def nudged(self: writer.Writer) -> None:
        looks.release()  # The watchdog is here, every TICK_S.
        nudge(self)

    def slow(self: batches.Batches, *args: Any) -> None:
        while looks.acquire(blocking=False):
            pass
        for _ in range(int(watchdog.HOLDS_WRITER_NS / 1e9 / watchdog.TICK_S) + 3):
            assert looks.acquire(timeout=WAIT_S)
        real(self, *args)
        committed.set()

    monkeypatch.setattr(writer.Writer, "nudge", nudged)
    monkeypatch.setattr(batches.Batches, "_commit", slow)
    with caplog.at_level(logging.WARNING, logger="onefold.watchdog"):
        plain.run(put, "a")
    assert committed.wait(WAIT_S)
    assert caplog.records == []


def test_two_databases_on_one_file_in_one_process(tmp_path: Path) -> None:
    with onefold.connect(tmp_path / "a.db") as one, onefold.connect(tmp_path / "a.db") as two:

        def work(db: Database, name: str) -> None:
            for n in range(40):
                db.run(put, f"{name}/{n}")

        threads = [threading.Thread(target=work, args=(db, f"{n}")) for n, db in enumerate((one, two, one, two))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)
        assert one.run(count) == two.reader().run(count) == 160
        two.close()
        one.run(put, "still")
    other = sqlite3.connect(tmp_path / "a.db")
    assert other.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    other.close()
