"""A process of clients, as the runner holds it: started, killed, paused, ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec

from onefold.testing.workload.client import STARTS_MAX
from onefold.testing.workload.worker import READY, Order

END_S = 60.0
ERRORS_LENGTH_MAX = 4_000


class Process:
    """Clients that run `order`; each start writes into another file of `folder`."""

    def __init__(self, name: str, order: Order, folder: Path) -> None:
        self.name = name
        self.records: list[Path] = []
        self._order = order
        self._folder = folder
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
                [sys.executable, "-m", "onefold.testing.workload.worker", msgspec.json.encode(order).decode()],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, start_new_session=True,
            )  # fmt: skip

    def ready(self) -> None:
        """Return once its clients work.

        Raises:
            RuntimeError: it ended instead; with what it wrote to stderr.
        """
        assert self._process is not None
        assert self._process.stdout is not None
        if self._process.stdout.readline().strip() != READY.encode():
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
            RuntimeError: a program failed, or did not end in a minute; with what it wrote to stderr.
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
            os.kill(self._process.pid, number)

    def _reap(self) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        try:
            code = process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            stream.close()
        self._ended = code
        return code
