"""`onefold doctor` finds what is wrong, says how to mend it, and changes nothing."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from events_kinds import number, place
from jobs_ground import Mail, claim, hire
from postgres_proxy import Proxy
from waiting import until

import onefold
from onefold import events, jobs, webhooks
from onefold.cli import doctor
from onefold.cli.doctor import Finding, examine
from onefold.cli.main import run
from onefold.engine import inspect
from onefold.host import disks
from onefold.host.gate import Gate
from onefold.testing.postgres import Cluster


def found(url: str, check: str, **options: bool) -> list[Finding]:
    return [finding for finding in examine(url, **options) if finding.check == check]


def one(url: str, check: str, **options: bool) -> Finding:
    (finding,) = found(url, check, **options)
    return finding


@pytest.fixture
def url(tmp_path: Path) -> str:
    path = tmp_path / "t.db"
    onefold.migrate(path)
    return str(path)


def test_a_healthy_database_is_well(db_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = run(["doctor", "--url", db_url, "--check", "--json"])
    told = json.loads(capsys.readouterr().out)
    bad = [finding for finding in told["findings"] if finding["level"] == "bad"]
    # The tests' own PostgreSQL runs with fsync off, and the doctor must say so.
    assert {finding["check"] for finding in bad} <= ({"fsync", "full_page_writes"} if "postgres" in db_url else set())
    assert code == (1 if bad else 0)
    assert {"python", "schema"} <= {finding["check"] for finding in told["findings"]}


def test_every_bad_finding_has_a_fix_and_people_get_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = run(["doctor", "--url", str(tmp_path / "no" / "t.db")])
    out = capsys.readouterr().out
    assert code == 1
    assert "BAD   file: the folder" in out
    assert "fix: mkdir -p" in out
    assert "1 wrong" in out
    for finding in examine(str(tmp_path / "no" / "t.db")):
        assert finding.level != "bad" or finding.fix


def test_it_makes_no_file_and_migrates_none(tmp_path: Path) -> None:
    assert one(str(tmp_path / "new.db"), "file").level == "note"
    assert list(tmp_path.iterdir()) == []
    old = tmp_path / "old.db"
    with sqlite3.connect(old) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    before = old.read_bytes()
    finding = one(str(old), "schema")
    assert (finding.level, "tokens 001" in finding.text) == ("warn", True)
    assert old.read_bytes() == before


def test_damage_is_found(url: str) -> None:
    with onefold.connect(url) as db:
        for number in range(400):
            db.run(lambda tx, number=number: tx.add(f"key-{number}", number))
    assert one(url, "damage", thorough=True).level == "ok"
    data = bytearray(Path(url).read_bytes())
    at = data.rindex(b"key-2")
    data[at - 300 : at + 300] = b"\xff" * 600
    Path(url).write_bytes(data)
    assert one(url, "damage", thorough=True).level == "bad"
    Path(url).write_bytes(b"this is no database" * 1_000)
    assert one(url, "file").level == "bad"


def test_a_newer_schema_is_refused_and_explained(url: str) -> None:
    with sqlite3.connect(url) as connection:
        connection.execute("INSERT INTO onefold_schema VALUES ('tokens', 999, 'x', 0)")
    connection.close()
    finding = one(url, "schema")
    assert (finding.level, "newer release" in finding.text) == ("bad", True)


def test_a_holder_of_the_gate_is_named(url: str) -> None:
    assert one(url, "gate").text == "free" if Path(f"{url}-gate").exists() else True
    code = (
        "import sys; from pathlib import Path; from onefold.host.gate import Gate\n"
        "gate = Gate(Path(sys.argv[1])); gate.acquire(); print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={"PYTHONPATH": str(Path(onefold.__file__).parent.parent)},
    )  # fmt: skip
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        finding = one(url, "gate")
        assert (finding.level, f"pid {holder.pid}" in finding.text) == ("note", True)
    finally:
        holder.communicate()
    gate = Gate(Path(url))
    gate.close()
    assert one(url, "gate").text == "free"


def test_writers_without_the_gate_are_named(url: str) -> None:
    assert one(url, "processes").level == "ok"
    code = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT 1 FROM onefold_schema').fetchall()\n"
        "print('open', flush=True); sys.stdin.read()"
    )
    stranger = subprocess.Popen([sys.executable, "-c", code, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert stranger.stdout is not None
        stranger.stdout.readline()
        finding = one(url, "processes")
        assert (finding.level, str(stranger.pid) in finding.text) == ("warn", True)
        assert "gate(engine)" in finding.fix
    finally:
        stranger.communicate()


@pytest.mark.parametrize(("kind", "level"), [("nfs4", "bad"), ("9p", "bad"), ("fuse.sshfs", "bad"), ("tmpfs", "warn"), ("ext4", "ok")])
def test_file_systems_are_judged(url: str, kind: str, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disks, "file_system_of", lambda _path: kind)
    assert one(url, "file system").level == level


def test_the_file_system_of_a_path_is_the_deepest_mount() -> None:
    if not Path("/proc/self/mountinfo").exists():
        pytest.skip("this system has no /proc/self/mountinfo")
    assert disks.file_system_of(Path("/proc/self")) == "proc"
    assert disks.file_system_of(Path("/")) not in {None, "proc"}


def test_slow_and_implausible_disks_and_full_ones_are_judged(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for rate, level in ((50.0, "warn"), (5_000.0, "ok"), (500_000.0, "warn")):
        monkeypatch.setattr(disks, "sync_rate", lambda _folder, rate=rate: (rate, 1_000 / rate))
        assert one(url, "disk").level == level
    usage = doctor.shutil.disk_usage(url)
    for free, level in ((1 << 20, "bad"), (500 << 20, "warn"), (1 << 40, "ok")):
        monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _folder, free=free: usage._replace(free=free))
        assert one(url, "free space").level == level


def test_a_large_wal_is_told(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "WAL_BYTES_WARN", 1_000)
    with onefold.connect(url) as db:
        db.run(lambda tx: tx.add("x", 1))
        assert one(url, "wal").level == "warn"


def test_postgresql_is_judged(
    postgres_cluster: Cluster, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels = {finding.check: finding.level for finding in examine(postgres_url)}
    assert levels["server"] == "ok"
    assert levels["schema"] == "ok"
    assert levels["fsync"] == "bad", "the tests' cluster runs with fsync off"
    empty = postgres_cluster.create_database("unmigrated")
    try:
        finding = one(empty, "schema")
        assert (finding.level, "onefold migrate" in finding.fix) == ("warn", True)
    finally:
        postgres_cluster.drop_database("unmigrated")
    assert found(postgres_url, "transactions") == []
    monkeypatch.setattr(doctor, "OLD_TRANSACTION_MS", 0)
    with psycopg.connect(postgres_url) as forgotten:
        forgotten.execute("SELECT 1")  # The transaction stays open.
        (finding,) = until(lambda: found(postgres_url, "transactions"), "an age of more than 0 ms")
        assert finding.level == "warn"
    lost = one("postgresql://nobody@127.0.0.1:1/none", "server")
    assert (lost.level, "cannot be reached" in lost.text) == ("bad", True)


def test_a_password_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    run(["doctor", "--url", "postgresql://ana:hunter2@127.0.0.1:1/none", "--json"])
    captured = capsys.readouterr()
    assert "hunter2" not in captured.out + captured.err
    assert "ana@127.0.0.1" in captured.out


def test_whatever_is_not_well_has_a_fix(db_url: str) -> None:
    found_all = list(examine(db_url))
    assert len({finding.check for finding in found_all}) > 10
    for finding in found_all:
        assert finding.level == "ok" or finding.fix, finding


def test_dead_jobs_and_parked_events_are_told_with_their_commands(db_url: str) -> None:
    assert {one(db_url, "dead jobs").level, one(db_url, "parked events").level, one(db_url, "loops").level} == {"ok"}

    def fail(_tx: onefold.Tx, _event: events.Event) -> None:
        raise onefold.Invalid("No.")

    with onefold.connect(db_url) as db:
        tenant = db.at("t 7")
        tenant.run(jobs.put, Mail())
        hire(db, "w1")
        (attempt,) = claim(db)
        tenant.run(jobs.give_up, attempt, reason="no such address")
        tenant.run(place, "order/1")
        number(db)
        tenant.run(events.consume, "totals", fail, attempts_max=1)
        db.run(jobs.put, Mail(), delay_ms=1_000)
        db.run(lambda tx: tx.run("UPDATE onefold.jobs_scheduled SET at_ms = at_ms - 3600000 WHERE space = :space"))
        assert [(row.space_name, row.kind, row.count) for row in db.run(jobs.dead_letters)] == [("t 7", "mail.send", 1)]
        assert [(row.space_name, row.name, row.parked) for row in db.run(events.stuck)] == [("t 7", "totals", 1)]
    dead = one(db_url, "dead jobs")
    assert (dead.level, "onefold jobs ls --state dead --kind mail.send --space 't 7'" in dead.fix) == ("warn", True)
    parked = one(db_url, "parked events")
    assert (parked.level, "'totals'" in parked.text, "events retry-parked totals --space 't 7'" in parked.fix) == ("warn", True, True)
    assert one(db_url, "loops").level == "warn"


def test_receivers_that_fail_wait_or_were_disabled_are_told(db_url: str) -> None:
    assert one(db_url, "webhooks").level == "ok"
    with onefold.connect(db_url) as db:
        tenant = db.at("t 7")
        failing, disabled, by_hand = (tenant.run(webhooks.create, f"https://{name}.example/in", key_id="k1").id for name in "abc")
        tenant.run(webhooks.disable, disabled, why="it answered 410")
        tenant.run(webhooks.disable, by_hand, why="they move")
        waits = db.run(webhooks.create, "https://d.example/in", key_id="k1").id
        db.run(webhooks.send, "order.placed", {})
        tenant.run(lambda tx: tx.run("UPDATE onefold.webhook_endpoints SET failing_since_ms = 1000 WHERE space = :space AND id = :id", id=failing))
        db.run(lambda tx: tx.run("UPDATE onefold.webhook_pending SET at_ms = at_ms - 3600000 WHERE space = :space"))
        assert [row.endpoint_id for row in db.run(webhooks.troubles, by_ms=300_000) if row.due_at_ms] == [waits]
    told = {finding.text.split("https://")[1][0]: finding for finding in found(db_url, "webhooks")}
    assert {name: finding.level for name, finding in told.items()} == dict.fromkeys("abd", "warn")
    assert f"onefold webhooks attempts {failing} --space 't 7'" in told["a"].fix
    assert f"onefold webhooks enable {disabled} --space 't 7'" in told["b"].fix
    assert told["b"].text.startswith("https://b.example/in in the space 't 7' is disabled, as it answered 410")
    assert "Dispatcher" in told["d"].fix


def test_a_clock_that_was_set_back_is_told(url: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(url, "clock") == []
    with sqlite3.connect(url) as connection:
        connection.execute("UPDATE onefold_schema SET applied_at_ms = applied_at_ms + 3600000")
    connection.close()
    assert one(url, "clock").level == "warn"
    assert one(postgres_url, "clock").level == "ok"
    real = inspect.time.time_ns
    monkeypatch.setattr(inspect.time, "time_ns", lambda: real() - 90_000_000_000)
    finding = one(postgres_url, "clock")
    assert (finding.level, "ahead of this machine's" in finding.text) == ("warn", True)


def test_a_pooler_between_is_told(postgres_cluster: Cluster, postgres_url: str) -> None:
    assert one(postgres_url, "pooler").level == "ok", "a Unix socket"
    database = postgres_url.partition("?")[0].rpartition("/")[2]
    assert one(postgres_cluster.dsn(database, tcp=True), "pooler").level == "ok", "TCP"
    proxy = Proxy(postgres_cluster)
    try:
        finding = one(proxy.url(database), "pooler")
        assert (finding.level, "pool_mode = session" in finding.fix) == ("warn", True)
    finally:
        proxy.close()


def test_time_limits_and_old_snapshots_of_postgresql_are_judged(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    finding = one(postgres_url, "idle_in_transaction_session_timeout")
    assert (finding.level, finding.fix.startswith("ALTER ROLE")) == ("note", True)
    assert found(f"{postgres_url}&options=-cidle_in_transaction_session_timeout%3D60000", "idle_in_transaction_session_timeout") == []
    assert one(f"{postgres_url}&options=-cstatement_timeout%3D7000", "statement_timeout").level == "note"
    assert one(postgres_url, "oldest snapshot").level == "ok"
    monkeypatch.setattr(doctor, "OLD_SNAPSHOT_MS", 0)
    with psycopg.connect(postgres_url) as reader:
        reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        reader.execute("SELECT 1")  # The snapshot stays open.
        finding = until(lambda: [f for f in found(postgres_url, "oldest snapshot") if f.level == "warn"], "an age")[0]
        assert "pg_terminate_backend" in finding.fix
