"""A process of clients, as the runner holds it: started, killed, paused, ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec

from onefold.testing.listening import first_line
from onefold.testing.watchdog import Watchdog
from onefold.testing.workload.client import STARTS_MAX
from onefold.testing.workload.worker import READY, Order

MORE_S = 10.0  # Until it is killed, where it does not even say in time at which place it stands.
ERRORS_LENGTH_MAX = 4_000


class Process:
    """Clients that run `order`; each start writes into another file of `folder`."""

    def __init__(self, name: str, order: Order, folder: Path, watchdog: Watchdog) -> None:
        self.name = name
        self.records: list[Path] = []
        self._order = order
        self._folder = folder
        self._watchdog = watchdog
        self._errors = folder / f"{name}.errors"
        self._process: subprocess.Popen[bytes] | None = None
        self._ended: int | None = None  # How, when it did last.

    def start(self) -> None:
        """Start, and return once its clients work."""
        self.launch()
        self.ready()

    def launch(self) -> None:
        """Begin to start; `ready` waits."""
        starts = len(self.records) + 1
        assert starts <= STARTS_MAX
        self.records.append(self._folder / f"{self.name}.{starts}.jsonl")
        order = msgspec.structs.replace(self._order, record=str(self.records[-1]), start=starts)
        with self._errors.open("ab") as errors:
            self._process = subprocess.Popen(  # noqa: S603  This very package.
                [sys.executable, "-m", "onefold.testing.workload.worker"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, start_new_session=True, bufsize=0,
            )  # fmt: skip
        self._watchdog.watch(self._process.pid)
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # It has ended; `ready` says so.
            self._process.stdin.write(msgspec.json.encode(order) + b"\n")  # Arguments could be read by everybody.

    def ready(self) -> None:
        """Return once its clients work.

        Raises:
            RuntimeError: it ended instead, or was not ready in a minute; with what it wrote to stderr.
            TimeoutError: it did neither.
        """
        assert self._process is not None
        if first_line(self._process, self._order.start_s + MORE_S) != READY:
            raise RuntimeError(f"{self.name} did not start:\n{self.errors}")

    def check(self) -> None:
        """See that it did not end by itself.

        Raises:
            RuntimeError: a program failed; with what it wrote to stderr.
        """
        ended = self._ended if self._process is None else self._process.poll()
        if ended not in {None, -signal.SIGKILL}:
            raise RuntimeError(f"A program of {self.name} failed ({ended}):\n{self.errors}")

    def kill(self) -> None:
        """Kill -9."""
        self._signal(signal.SIGKILL)
        self._reap()

    def pause(self) -> None:
        """Let it stand still while the clocks go on."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def end(self) -> None:
        """Tell its clients to end what they do.

        Raises:
            RuntimeError: a program failed, or did not end in a minute, and where; with what it wrote to stderr.
        """
        process = self._process
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        code = self._reap()
        if code:
            raise RuntimeError(f"A program of {self.name} failed or did not end ({code}):\n{self.errors}")

    @property
    def errors(self) -> str:
        """The last that it wrote to stderr."""
        return self._errors.read_text(errors="replace")[-ERRORS_LENGTH_MAX:]

    def _signal(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, number)  # With all that it has started.

    def _reap(self) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        try:
            code = process.wait(self._order.end_s + MORE_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
        self._watchdog.forget(process.pid)
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            stream.close()
        self._ended = code
        return code
