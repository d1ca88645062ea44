"""The shop as processes of its own, to be started, killed and started again."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

START_S_MAX = 60.0
CHILD_ENDED = "a server process ended"
ROOT = Path(__file__).resolve().parents[3]


class House:
    """`python -m examples.boxoffice run` on a port of its own, in a process group of its own."""

    def __init__(self, url: str, data: Path, *, workers: int = 1, options: Sequence[str] = ()) -> None:
        """Prepare; `start` (or `with`) starts it.

        Args:
            url: the database.
            data: the folder of the secret and, for SQLite, of the database.
            workers: server processes.
            options: more arguments for `run`.
        """
        self._port = _free_port()
        self._command = [
            sys.executable, "-m", "examples.boxoffice", "run", "--url", url, "--data", str(data),
            "--port", str(self._port), "--workers", str(workers), *options,
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None
        self._killed: subprocess.Popen[bytes] | None = None
        self._looked = 0
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  Closed in `close`.
        self.base = f"http://127.0.0.1:{self._port}"
        self.workers = workers

    def start(self) -> None:
        """Start it, or start it again after a kill, and wait until it takes requests; what `check` raises."""
        self.check()
        path = os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
        self._process = subprocess.Popen(  # noqa: S603  This very program.
            self._command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log, start_new_session=True,
            cwd=ROOT, env={**os.environ, "PYTHONPATH": path.rstrip(os.pathsep)},
        )  # fmt: skip
        give_up = time.monotonic() + START_S_MAX
        while not self.ready():
            if self._process.poll() is not None or time.monotonic() > give_up:
                raise RuntimeError(f"The shop did not start:\n{self.log[-4_000:]}")
            time.sleep(0.05)

    def ready(self) -> bool:
        """Whether it takes requests."""
        return is_ready(self.base)

    def kill(self, dice: random.Random) -> str:
        """Kill -9 a process of it, or all of them; answer which. One of several is started again by the others'
        parent; after all of them died call `start`.
        """
        servers = self.servers()
        if self.workers > 1 and servers and dice.random() < 0.75:
            victim = dice.choice(servers)
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
            return "one server process"
        self.kill_all()
        return "every server process" if self.workers > 1 else "the server"

    def kill_all(self) -> None:
        """Kill -9 the whole process group."""
        self._killed = self._process
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    @property
    def running(self) -> bool:
        """Whether its first process lives."""
        return self._process is not None and self._process.poll() is None

    def check(self) -> None:
        """Raise RuntimeError when a process of it died that nobody here killed, and say how it ended.

        A driver that only starts again what is dead hides every crash.
        """
        process = self._process
        code = process.poll() if process is not None else None
        if code is not None and process is not self._killed:
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            raise RuntimeError(f"The shop ended by itself ({how}):\n{self.log[-4_000:]}")
        fresh, _, _ = self._written(self._looked).rpartition(b"\n")
        self._looked += len(fresh)
        for line in fresh.decode(errors="replace").splitlines():
            if CHILD_ENDED in line and "SIGKILL" not in line:
                raise RuntimeError(f"A server process ended by itself:\n{line}")

    def servers(self) -> list[int]:
        """The ids of the server processes: of the only one, or of those below the first."""
        assert self._process is not None
        if self.workers == 1:
            return [self._process.pid]
        listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True)  # noqa: S607
        pairs = (line.split() for line in listing.stdout.splitlines())
        return [int(child) for child, parent in pairs if int(parent) == self._process.pid]

    @property
    def log(self) -> str:
        """What it wrote."""
        return self._written(0).decode(errors="replace")

    def _written(self, after: int) -> bytes:
        # Without moving the place where its processes write, which they have from this very file.
        return os.pread(self._log.fileno(), os.fstat(self._log.fileno()).st_size - after, after)

    def close(self) -> None:
        """End it in good order, or else by force."""
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self.kill_all()
        self._log.close()

    def __enter__(self) -> Self:
        """Start it."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self.close()


def is_ready(base: str) -> bool:
    """Whether a shop at `base` takes requests."""
    connection = http.client.HTTPConnection(base.removeprefix("http://"), timeout=2)
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        return response.status == 200 and response.read() == b"ready"
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
