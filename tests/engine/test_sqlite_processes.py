"""Several processes on one file: the gate, its fairness, a holder's death, forks, wake-ups."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from engine_words import WAIT_S, Blocker, in_one_batch
from waiting import let_pass, until

import onefold
from onefold import Retry, Tx
from onefold.engine.call import Call, settle
from onefold.engine.sqlite import backup, batches, writer
from onefold.engine.sqlite.connection import EngineConnection
from onefold.engine.sqlite.gated import GatedConnection
from onefold.engine.sqlite.snapshot import snapshot
from onefold.engine.sqlite.wakes import Peers
from onefold.host.gate import Gate
from onefold.host.processes import identity, is_alive, start_time

INCREMENT = """INSERT INTO onefold.counter_totals (space, key, total) VALUES (:space, :key, 1)
               ON CONFLICT (space, key) DO UPDATE SET total = onefold.counter_totals.total + 1 RETURNING total"""

WORKER = f"""
import sys, time, json, onefold
path, name, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
sql = {INCREMENT!r}
db = onefold.connect(path)
print("ready", flush=True)
sys.stdin.readline()
until, slowest, count = time.monotonic() + seconds, 0.0, 0
while time.monotonic() < until:
    before = time.monotonic()
    db.run(lambda tx: (tx.one(sql, key="all"), tx.one(sql, key=name)))
    slowest = max(slowest, time.monotonic() - before)
    count += 1
print(json.dumps({{"count": count, "slowest": slowest}}), flush=True)
db.close()
"""


def total(tx: Tx, key: str) -> int:
    row = tx.one("SELECT total FROM onefold.counter_totals WHERE space = :space AND key = :key", key=key)
    return row[0] if row else 0


def start(*args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def test_four_processes_share_fairly_and_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    processes = [start(WORKER, str(path), f"p{n}", "1.5") for n in range(4)]  # All create and migrate at once.
    for process in processes:
        assert line(process) == "ready"
    for process in processes:
        go(process)
    results = [json.loads(line(process)) for process in processes]
    for process in processes:
        assert process.wait(20) == 0
        process.stdin.close()
        process.stdout.close()
    counts = [result["count"] for result in results]
    with onefold.connect(path) as db:
        assert db.run(total, "all") == sum(counts)
        assert [db.run(total, f"p{n}") for n in range(4)] == counts
    assert min(counts) > 0.5 * max(counts), f"unfair: {counts}"
    assert max(result["slowest"] for result in results) < 1.0, "busy handlers starve; the gate must not"


def test_a_killed_holder_frees_the_gate(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    db = onefold.connect(path)
    holder = start(
        "import onefold, sys\n"
        "def holds(tx):\n"
        f"    tx.one({INCREMENT!r}, key='half')\n"
        "    print('in', flush=True)\n"
        "    sys.stdin.readline()\n"
        f"onefold.connect({str(path)!r}).options(deadline_ms=600_000).run(holds)"
    )
    assert line(holder) == "in"
    with db:
        with pytest.raises(Retry) as late:
            db.options(deadline_ms=300).run(lambda tx: tx.one(INCREMENT, key="a"))
        assert late.value.code == "gate"
        assert late.value.facts["holder"] == f"pid {holder.pid}"
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait(10)
        db.run(lambda tx: tx.one(INCREMENT, key="a"))
        assert db.run(total, "a") == 1
        assert db.run(total, "half") == 0
    holder.stdin.close()
    holder.stdout.close()


def test_connecting_behind_a_holder_ends_in_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onefold.engine.sqlite.migrate.GATE_WAIT_S", 0.2)
    path = tmp_path / "a.db"
    other = Gate(path)
    other.acquire()
    with pytest.raises(Retry) as late:
        onefold.connect(path)
    assert late.value.facts["holder"] == f"pid {os.getpid()}"
    other.release()
    onefold.connect(path).close()
    other.close()


def takes_a_snapshot(path: Path) -> None:
    with snapshot(path):
        pass


def begins_as_an_orm(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path, factory=GatedConnection)) as connection:
        connection.execute("BEGIN")


def replaces_it(path: Path) -> None:
    backup.restore_sqlite(path.with_name("copy.db"), path, tell=lambda *_: None, replace=True)


@pytest.mark.parametrize("door", [takes_a_snapshot, begins_as_an_orm, replaces_it])
def test_whoever_waits_for_the_gate_in_vain_hears_who_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, door: Callable[[Path], None]
) -> None:
    path = tmp_path / "a.db"
    onefold.migrate(path)
    backup.backup_sqlite(path, path.with_name("copy.db"), tell=lambda *_: None)
    for module in ("snapshot", "gated", "backup"):
        monkeypatch.setattr(f"onefold.engine.sqlite.{module}.GATE_WAIT_S", 0.02)
    with contextlib.closing(Gate(path)) as other:
        other.acquire()
        with pytest.raises(Retry) as late:
            door(path)
        assert (late.value.code, late.value.facts["holder"]) == ("gate", f"pid {os.getpid()}")
        other.release()
        door(path)


def test_a_reader_does_not_wait_for_the_gate(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with onefold.connect(path) as db:
        db.run(lambda tx: tx.one(INCREMENT, key="a"))
        other = Gate(path)
        other.acquire()
        assert db.reader().run(total, "a") == 1
        other.close()


def test_whatever_was_open_is_closed_under_the_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who closes a file last writes its log back, which must not happen beside a writer."""
    closed: list[bool] = []
    close = EngineConnection.close

    def watched(self: EngineConnection) -> None:
        with contextlib.closing(Gate(tmp_path / "a.db")) as other:
            closed.append(other.try_acquire())
        close(self)

    db = onefold.connect(tmp_path / "a.db")
    db.run(lambda tx: tx.one(INCREMENT, key="a"))
    db.reader().run(total, "a")
    monkeypatch.setattr(EngineConnection, "close", watched)
    db.close()
    assert closed == [False, False]


@pytest.mark.parametrize("behind", [0, 1])
def test_closing_waits_for_who_writes_and_for_those_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, behind: int
) -> None:
    told: list[int] = []

    def slow(calls: list[Call]) -> None:
        let_pass(30)
        settle(calls)
        told.append(len(calls))

    monkeypatch.setattr(writer, "settle", slow)
    db = onefold.connect(tmp_path / "a.db")
    blocker = Blocker()

    async def scenario() -> list[int | None]:
        calls = [asyncio.create_task(db.arun(blocker))]
        await blocker.sits()
        calls += [asyncio.create_task(db.arun(total, "a")) for _ in range(behind)]
        await asyncio.sleep(0)
        closer = threading.Thread(target=db.close)
        closer.start()
        closer.join(0.15)  # Some looks at the thread.
        assert closer.is_alive()
        blocker.leave.set()
        closer.join(WAIT_S)
        assert sum(told) == 1 + behind, "closed before they are told"
        return await asyncio.gather(*calls)

    assert asyncio.run(scenario()) == [None, 0][: 1 + behind]


def test_the_gate_lets_nobody_overtake(tmp_path: Path) -> None:
    first, second, third = (Gate(tmp_path / "g") for _ in range(3))
    first.acquire()
    got = threading.Event()

    def waits() -> None:
        second.acquire()
        got.set()

    thread = threading.Thread(target=waits)
    thread.start()
    until(first.wanted)
    first.release()
    overtaken = first.try_acquire()  # At once: the sleeper can hardly be awake yet.
    thread.join(10)
    assert got.is_set()
    assert not overtaken
    assert not third.try_acquire()
    second.release()
    assert third.try_acquire()
    for gate in (first, second, third):
        gate.close()


@pytest.mark.parametrize("wanted", [False, True])
def test_a_long_transaction_takes_in_more_unless_another_process_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: bool
) -> None:
    monkeypatch.setattr(batches, "ADMIT_NS", 0)
    monkeypatch.setattr(batches, "ADMIT_UNWANTED_NS", 1 << 62)
    path = tmp_path / "a.db"
    other = Gate(path)

    def wait_in_line() -> None:
        other.acquire()
        other.release()

    waiter = threading.Thread(target=wait_in_line)
    probe = Gate(path)

    def first(tx: Tx) -> None:
        if wanted:
            waiter.start()
            until(probe.wanted)
        tx.one(INCREMENT, key="a")

    with onefold.connect(path) as db:
        before = Counter(db._engine.metrics.batch_sizes)
        in_one_batch(db, (None, first), (None, total, "a"), (None, total, "a"))
        sizes = Counter(db._engine.metrics.batch_sizes) - before
    assert sizes == ({1: 2, 2: 1} if wanted else {1: 1, 3: 1})
    if wanted:
        waiter.join()
    other.close()
    probe.close()


def test_a_process_is_told_from_a_later_one_with_its_number() -> None:
    assert is_alive(identity())
    assert not is_alive(f"{os.getpid()} 1")
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert start_time(gone.pid) is None
    assert not is_alive(f"{gone.pid} 1")


@pytest.mark.parametrize("noise", [b"\xff" * 48, b"-1 0", b"0 0", b"1", b"9" * 40 + b" 1", b"\0" * 48, "²² 1".encode()])
def test_noise_in_the_gates_file_keeps_nobody_from_his_deadline(tmp_path: Path, noise: bytes) -> None:
    assert not is_alive(noise.decode("utf-8", "replace"))
    with onefold.connect(tmp_path / "a.db") as db:
        db.run(lambda tx: tx.add("a", 1))
        gate = os.open(tmp_path / "a.db-gate", os.O_RDWR)
        fcntl.flock(gate, fcntl.LOCK_EX)
        os.pwrite(gate, noise.ljust(48), 0)
        with pytest.raises(Retry) as late:
            db.options(deadline_ms=150).run(lambda tx: tx.add("a", 1))
        assert late.value.code == "gate"
        os.close(gate)
        assert db.run(lambda tx: tx.total("a")) == 1


def test_a_commit_wakes_other_processes(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with onefold.connect(path) as db:
        waiter = db.waiter("jobs/x")
        other = start(
            "import onefold, sys\n"
            f"db = onefold.connect({str(path)!r})\n"
            "print('ready', flush=True)\n"
            "for _ in sys.stdin:\n"
            "    db.run(lambda tx: tx.wake('jobs/x'))\n"
            "    print('sent', flush=True)\n"
        )
        assert line(other) == "ready"
        for _ in range(3):
            go(other)
            assert waiter.wait(10)
            assert line(other) == "sent"
        other.stdin.close()
        other.wait(10)
        other.stdout.close()
        waiter.close()


def test_a_foreign_commit_without_a_datagram_is_found_by_the_poll(tmp_path: Path) -> None:
    import sqlite3

    path = tmp_path / "a.db"
    with onefold.connect(path) as db:
        waiter = db.waiter("anything")
        program = f"import sqlite3; c = sqlite3.connect({str(path)!r}); c.execute('CREATE TABLE IF NOT EXISTS t (a)'); "
        program += "c.execute('INSERT INTO t VALUES (1)'); c.commit(); c.close()"
        woken = False
        for _ in range(20):
            subprocess.run([sys.executable, "-c", program], check=True)
            if woken := waiter.wait(1.0):
                break
        assert woken
        waiter.close()
    assert sqlite3.sqlite_version_info >= (3, 40)


FORK = f"""
import os, sys, threading, onefold
path, mode = sys.argv[1:3]
sql = {INCREMENT!r}
db = onefold.connect(path)
def inc(tx, key): return tx.one(sql, key=key)[0]
db.run(inc, "a")
db.reader().run(lambda tx: None)
stop = threading.Event()
def busy():
    while not stop.is_set():
        db.run(inc, "busy")
thread = threading.Thread(target=busy)
if mode == "busy":
    thread.start()
for _ in range(5):
    child = os.fork()
    if child == 0:
        for _ in range(10):
            db.run(inc, "a")
        db.close()
        os._exit(0)
    for _ in range(10):
        db.run(inc, "a")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
stop.set()
if mode == "busy":
    thread.join()
print(db.run(lambda tx: tx.one("SELECT total FROM onefold.counter_totals WHERE space = :space AND key = 'a'"))[0])
db.close()
"""


@pytest.mark.parametrize("mode", ["idle", "busy"])
def test_parent_and_child_both_go_on_after_a_fork(tmp_path: Path, mode: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK, str(tmp_path / "a.db"), mode],
        capture_output=True, text=True, timeout=60, check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "101"
    import sqlite3

    connection = sqlite3.connect(tmp_path / "a.db")
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


FORK_INSIDE = f"""
import os, sys, onefold
sql = {INCREMENT!r}
db = onefold.connect(sys.argv[1])
def forks(tx):
    tx.one(sql, key="a")
    child = os.fork()
    if child == 0:
        from onefold.engine.call import running
        running.fn = None
        try:
            db.run(lambda tx: None)
        except onefold.Invalid as error:
            os._exit(7 if "forked" in str(error) else 8)
        os._exit(9)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(db.run(forks))
print(db.run(lambda tx: tx.one(sql, key="a"))[0])
db.close()
"""


def test_a_child_forked_inside_a_transaction_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK_INSIDE, str(tmp_path / "a.db")],
        capture_output=True, text=True, timeout=60, check=False,
    )
    assert done.stdout.split() == ["7", "2"], done.stderr


KILLED = """
import sys, onefold
db = onefold.connect(sys.argv[1])
def put(tx, n):
    tx.run("INSERT INTO onefold.counter_totals (space, key, total) VALUES (:space, :a, 1)", a=f"a{n}")
    tx.run("INSERT INTO onefold.counter_totals (space, key, total) VALUES (:space, :b, 1)", b=f"b{n}")
n = int(sys.argv[2])
while True:
    db.run(put, n)
    sys.stdout.write(f"{n}\\n"); sys.stdout.flush()
    n += 1
"""


@pytest.mark.usefixtures("again")
def test_what_was_acknowledged_survives_kill_9_and_nothing_is_half_there(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    acknowledged = -1
    for kill_after in (3, 40, 7, 120):
        process = start(KILLED, str(path), str(acknowledged + 1000))
        for _ in range(kill_after):
            acknowledged = int(line(process))
        process.kill()
        rest = process.stdout.read().split()
        process.wait(10)
        process.stdin.close()
        process.stdout.close()
        acknowledged = max([acknowledged, *map(int, rest)])
        with onefold.connect(path) as db:
            rows = db.run(lambda tx: tx.all("SELECT key FROM onefold.counter_totals WHERE space = :space ORDER BY key"))
        keys = {row[0] for row in rows}
        assert {f"a{acknowledged}", f"b{acknowledged}"} <= keys
        assert {key[1:] for key in keys if key[0] == "a"} == {key[1:] for key in keys if key[0] == "b"}


def test_a_joined_commit_where_nobody_has_the_file_open_leaves_no_folder_behind(tmp_path: Path) -> None:
    onefold.migrate(tmp_path / "a.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "a.db")) as owner:
        tx = onefold.use(owner)
        tx.wake("topic")
        owner.commit()
        tx.committed()
    assert not [path.name for path in tmp_path.iterdir() if path.is_dir()]


def test_who_comes_and_goes_without_a_wake_tells_nobody_to_look(tmp_path: Path) -> None:
    with onefold.connect(tmp_path / "a.db") as here:
        here.run(total, "a")
        peers = Peers(tmp_path / "a.db", make=False)
        with contextlib.closing(peers), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours:
            peers.bind(ours)
            ours.setblocking(False)
            with onefold.connect(tmp_path / "a.db") as other:
                other.run(total, "a")
                other.run(lambda tx: tx.one(INCREMENT, key="a"))
            with pytest.raises(BlockingIOError):
                ours.recv(1)
            with onefold.connect(tmp_path / "a.db") as other:
                other.run(lambda tx: tx.wake("topic"))
            assert ours.recv(100) == b"topic"


def test_a_process_that_does_not_read_its_wakes_keeps_nobody_waiting(tmp_path: Path) -> None:
    peers = Peers(tmp_path / "a.db", make=True)
    with contextlib.closing(peers), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        name = peers.bind(deaf)
        assert all(peers.send(name, b"topic") for _ in range(2_000))


def test_a_database_without_wal_is_copied_and_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as other:
        other.executescript("CREATE TABLE theirs (a); INSERT INTO theirs VALUES (1), (2), (3), (4), (5)")
        other.executescript("CREATE TABLE two (a); INSERT INTO two VALUES (1), (2)")
    (tmp_path / "a.db").chmod(0o641)
    before = (tmp_path / "a.db").read_bytes()
    monkeypatch.setattr(backup, "ROWS_PER_TELL", 2)
    monkeypatch.setattr(backup, "STEP_PAGES", 1)
    heard: list[tuple[str, int, int]] = []
    made = backup.backup_sqlite(tmp_path / "a.db", tmp_path / "copy.db", tell=lambda *words: heard.append(words))
    assert made.tables["theirs"].rows == 5
    assert (tmp_path / "a.db").read_bytes() == before
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("a.db", "copy.db", "copy.db.json")] == [0o641] * 3
    assert [words[1:] for words in heard if words[0] == "reading back"] == [(0, 2), (0, 2), (1, 2), (1, 2), (2, 2)]
    assert [words[1:] for words in heard if words[0] == "copying"] == [(1, 3), (2, 3), (3, 3)]
    assert [words[1:] for words in heard if words[0] == "hashing"][-1] == (made.bytes, made.bytes)
    assert made.bytes == len(before) == backup.try_backup(tmp_path / "a.db", tmp_path / "other.db")
    assert made.tables["two"].digest == "abf5477394ca2df05cf5b8937a14c73c", "what older manifests hold"


def test_what_an_older_backup_left_is_no_part_of_a_new_one(tmp_path: Path) -> None:
    onefold.migrate(tmp_path / "a.db")
    (tmp_path / "copy.db.json").write_text("of a backup that somebody took away")
    backup.backup_sqlite(tmp_path / "a.db", tmp_path / "copy.db", tell=lambda *_: None)
    (tmp_path / "copy.db-wal").touch()
    made, agreed = backup.restore_sqlite(tmp_path / "copy.db", tmp_path / "b.db", tell=lambda *_: None)
    assert agreed
    assert "onefold_schema" in made.tables
