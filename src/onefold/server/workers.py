"""Several server processes on one socket, kept alive by a parent that knows no database.

The parent holds the listening socket, so that connections survive the death of a worker; workers
inherit it. A pair of sockets joins the parent to each: the worker says "ready" on it, and its end
tells the worker that the parent is gone, however that went.
"""

from __future__ import annotations

import logging
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_log = logging.getLogger("onefold.workers")

WORKERS_MAX = 64
BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 10.0
STEADY_S = 10.0  # A worker that lived this long is started again at once.
KILL_AFTER_S = 5.0  # Past the drain.


@dataclass(slots=True)
class _Worker:
    number: int
    process: subprocess.Popen[bytes]
    link: socket.socket
    started: float
    ready: bool = False
    dead: bool = False  # And waiting to be started again.
    backoff_s: float = BACKOFF_FIRST_S


class Workers:
    """The parent: starts `count` workers, starts the dead again, and ends all on SIGTERM or Ctrl-C."""

    def __init__(
        self, command: Sequence[str], listener: socket.socket, count: int, *, drain_ms: int,
        ready: Callable[[list[int]], object],
    ) -> None:
        """Prepare; `run` does it.

        Args:
            command: starts one worker, given `--fd` and `--link-fd` at its end.
            listener: the socket that all share.
            count: 1 to `WORKERS_MAX`.
            drain_ms: what a worker may take to end; later it is killed.
            ready: called once with the process ids when all take connections.
        """
        self._command = list(command)
        self._listener = listener
        self._count = count
        self._drain_s = drain_ms / 1_000
        self._ready = ready
        self._told = False
        self._events: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
        self._workers: dict[int, _Worker] = {}
        self._ending = False

    def run(self) -> int:
        """Run until told to end; answer the exit code."""
        old = {number: signal.signal(number, self._signalled) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            for number in range(self._count):
                self._start(number, BACKOFF_FIRST_S)
            return self._watch()
        finally:
            for worker in self._workers.values():
                worker.process.kill()
                worker.process.wait()
                worker.link.close()
            for number, handler in old.items():
                signal.signal(number, handler)

    def _signalled(self, _number: int, _frame: object) -> None:
        self._events.put(("end", 0))

    def _watch(self) -> int:
        kill_at: float | None = None
        while self._workers or not self._ending:
            timeout = None if kill_at is None else max(0.0, kill_at - time.monotonic())
            try:
                event, number = self._events.get(timeout=timeout)
            except queue.Empty:
                _log.warning("workers did not end in time and are killed")
                return 1
            if event == "end" and not self._ending:
                self._ending = True
                kill_at = time.monotonic() + self._drain_s + KILL_AFTER_S
                self._workers = {n: worker for n, worker in self._workers.items() if not worker.dead}
                for worker in self._workers.values():
                    worker.process.terminate()
            elif event == "ready" and number in self._workers:
                self._workers[number].ready = True
                self._tell()
            elif event == "start" and not self._ending:
                self._start(number, min(self._workers.pop(number).backoff_s * 2, BACKOFF_MAX_S))
            elif event == "dead" and not self._dead(number):
                return 1
        return 0

    def _tell(self) -> None:
        if not self._told and len(self._workers) == self._count and all(w.ready for w in self._workers.values()):
            self._told = True
            self._ready([worker.process.pid for worker in self._workers.values()])

    def _start(self, number: int, backoff_s: float) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [*self._command, "--fd", str(self._listener.fileno()), "--link-fd", str(theirs.fileno())]
            process = subprocess.Popen(  # noqa: S603  This very program.
                command, stdin=subprocess.DEVNULL, pass_fds=(self._listener.fileno(), theirs.fileno())
            )
        worker = self._workers[number] = _Worker(number, process, ours, time.monotonic(), backoff_s=backoff_s)
        threading.Thread(target=self._attend, args=(worker,), name=f"worker-{number}", daemon=True).start()

    def _attend(self, worker: _Worker) -> None:
        if worker.link.recv(1):
            self._events.put(("ready", worker.number))
        worker.process.wait()
        self._events.put(("dead", worker.number))

    def _dead(self, number: int) -> bool:
        """Start it again, now or later; False when it cannot start at all."""
        worker = self._workers[number]
        worker.link.close()
        worker.dead = True
        code = worker.process.returncode
        if self._ending:
            del self._workers[number]
            return True
        _log.warning("a server process ended (%s)", _how(code), extra={"worker": worker.process.pid})
        if not worker.ready and code > 0 and not self._told:
            self._ending = True
            return False
        if time.monotonic() - worker.started >= STEADY_S:
            worker.backoff_s = BACKOFF_FIRST_S / 2
            self._events.put(("start", number))
        else:
            later = threading.Timer(worker.backoff_s, self._events.put, [("start", number)])
            later.daemon = True
            later.start()
        return True


def _how(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


class Link:
    """The worker's end of what joins it to its parent."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)

    def ready(self) -> None:
        """Tell the parent that connections are taken."""
        self._socket.send(b"r")

    def when_gone(self, callback: Callable[[], object]) -> None:
        """Call back, on a thread, when the parent is gone."""

        def wait() -> None:
            while self._socket.recv(64):
                pass
            callback()

        threading.Thread(target=wait, name="onefold-parent", daemon=True).start()


def command_of(arguments: Sequence[str]) -> list[str]:
    """How this program is started again with other arguments."""
    return [sys.executable, "-m", "onefold.cli.main", *arguments]
