"""`onefold serve` as a process of its own."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from waiting import until

import onefold

SOURCES = str(Path(onefold.__file__).parent.parent)


def environment() -> dict[str, str]:
    """Where the very package under test is found, and no URL of the developer's."""
    return {**os.environ, "PYTHONPATH": SOURCES, "ONEFOLD_URL": ""}


def command(*arguments: str) -> list[str]:
    """The command line, run by this interpreter."""
    return [sys.executable, "-m", "onefold.cli.main", *arguments]


def limited(files_max: int) -> list[str]:
    """What runs the command behind it with so few files to open."""
    return ["/bin/sh", "-c", 'ulimit -n "$0" && exec "$@"', str(files_max)]


class Process:
    """A running `onefold serve`; its first line said where."""

    def __init__(self, *arguments: str, url: str, log: Path, files_max: int = 0) -> None:
        self.log = log
        started = time.perf_counter()
        with log.open("ab") as errors:
            self.popen = subprocess.Popen(
                [*(limited(files_max) if files_max else ()), *command("serve", "--json", "--port", "0", "--url", url, *arguments)],
                stdout=subprocess.PIPE, stderr=errors, env=environment(), start_new_session=True,
            )  # fmt: skip
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline()
        assert line, f"it did not start: {self.errors()}"
        self.ready_s = time.perf_counter() - started
        ready = json.loads(line)
        self.pids: list[int] = ready["pids"]
        self.port = int(ready["url"].rpartition(":")[2])

    def errors(self) -> str:
        """What it wrote to stderr so far."""
        return self.log.read_text(encoding="utf-8")

    def request(
        self, method: str, target: str, *, token: str = "", send: Any = None, key: str | None = None
    ) -> tuple[int, Any]:
        """One request on a connection of its own: status and JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        if key is not None:
            headers["idempotency-key"] = key
        try:
            connection.request(method, target, body=None if send is None else json.dumps(send), headers=headers)
            answer = connection.getresponse()
            body = answer.read()
            return answer.status, json.loads(body) if body else None
        finally:
            connection.close()

    def stubborn(self, method: str, target: str, *, token: str, send: Any, key: str) -> tuple[int, Any]:
        """As a good client does: again with the same key while the answer is lost or "later"."""

        def answer() -> tuple[int, Any] | None:
            with suppress(OSError, http.client.HTTPException):
                status, body = self.request(method, target, token=token, send=send, key=key)
                if status != 503 and (body or {}).get("code") != "in_flight":
                    return status, body
            return None

        return until(answer, "an answer", seconds=60)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait; the exit code."""
        self.popen.send_signal(number)
        return self.popen.wait(30)

    def close(self) -> None:
        """Kill what is left of it."""
        if self.popen.poll() is None:
            os.killpg(self.popen.pid, signal.SIGKILL)
            self.popen.wait(30)
        assert self.popen.stdout is not None
        self.popen.stdout.close()


@contextmanager
def running(*arguments: str, url: str, folder: Path, files_max: int = 0) -> Iterator[Process]:
    """A process that is gone at the end."""
    process = Process(*arguments, url=url, log=folder / "serve.log", files_max=files_max)
    try:
        yield process
    finally:
        process.close()


def is_running(pid: int) -> bool:
    """Whether a process lives; one that nobody has reaped yet does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
