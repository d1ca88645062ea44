"""One `onefold serve` as a process of its own, to be killed, paused and started again."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from onefold.testing.listening import first_line
from onefold.testing.watchdog import Watchdog

if TYPE_CHECKING:
    from onefold.testing.cluster import Installation

START_S = 60.0
END_S = 30.0
REQUEST_S = 30.0
LOG_LENGTH_SHOWN = 4_000  # With an error.


class Node:
    """A server of a cluster. After `kill` and `start` it has another port; `door` stays.

    Attributes:
        name: "node1"; also of its proxy.
        port: where it listens.
        door: the port of the proxy before it, for whoever wants to be cut off or to find it again.
        skew_ms: by how much its wall clock is ahead.
    """

    def __init__(
        self, name: str, made: Installation, folder: Path, watchdog: Watchdog, *, skew_ms: int = 0
    ) -> None:
        self.name = name
        self.skew_ms = skew_ms
        self.port = 0
        self.door = 0
        self._made = made
        self._watchdog = watchdog
        self._requests = itertools.count(1)
        self._log = folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._paused = False

    def launch(self) -> None:
        """Begin to start; `ready` waits."""
        clock = ["-m", "onefold.testing.skewed", str(self.skew_ms)] if self.skew_ms else ["-m"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  This very package.
                [sys.executable, *clock, "onefold.cli.main", "serve", "--json", "--port", "0", "--log", "json",
                 "--access-log", "--transaction-log", "--lame-duck-ms", "0", "--url", self._made.url],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, start_new_session=True,
            )  # fmt: skip
        self._watchdog.watch(self._process.pid)
        self._note("starts")

    def ready(self) -> None:
        """Return once it takes requests.

        Raises:
            RuntimeError: it ended instead; with its log.
            TimeoutError: it did neither within a minute, and was killed; with its log.
        """
        assert self._process is not None, "it was not launched"
        try:
            line = first_line(self._process, START_S)
        except TimeoutError as error:
            self.kill()
            raise TimeoutError(f"{self.name}: {error}\n{self.log[-LOG_LENGTH_SHOWN:]}") from None
        if not line:
            self.stop()  # It may take a moment from its last word to its end, and counts as running until then.
            raise RuntimeError(f"The server did not start:\n{self.log[-LOG_LENGTH_SHOWN:]}")
        self.port = int(msgspec.json.decode(line, type=dict[str, Any])["url"].rpartition(":")[2])
        assert self._made.toxiproxy is not None, "every installation with nodes has one"
        upstream = f"127.0.0.1:{self.port}"
        if self.door:
            self._made.toxiproxy.lead(self.name, upstream)
        else:
            self.door = self._made.toxiproxy.create(self.name, upstream=upstream)
        self._note(f"is ready on port {self.port}")

    def start(self) -> None:
        """Start it and wait until it takes requests; nothing when it runs."""
        if not self.running:
            self.launch()
            self.ready()

    def kill(self) -> None:
        """Kill -9, with all that it has started; nothing when it was killed or stopped before."""
        if self._process is not None:
            self._note("is killed")
            self._signal(signal.SIGKILL)
            self._reap()

    def check(self) -> None:
        """See that it did not end by itself.

        Raises:
            RuntimeError: it did; with its log.
        """
        if self._process is not None and (code := self._process.poll()) not in {None, -signal.SIGKILL}:
            self._reap()
            self._note(f"has ended by itself ({code})")
            raise RuntimeError(f"{self.name} has ended by itself ({code}):\n{self.log[-LOG_LENGTH_SHOWN:]}")

    def pause(self) -> None:
        """Stop it where it is, as a machine that sleeps; the others' clocks go on.

        Raises:
            RuntimeError: it does not run.
        """
        self.check()
        if self._process is None:
            raise RuntimeError(f"{self.name} does not run.")
        self._note("is paused")
        self._paused = True
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        self._note("goes on")
        self._paused = False
        self._signal(signal.SIGCONT)

    def end(self) -> None:
        """Tell it to end in good order; `stop` waits until it has."""
        if self._process is not None:
            if self._paused:
                self.resume()
            self._signal(signal.SIGTERM)

    def stop(self) -> int:
        """End it in good order; its exit code."""
        process = self._process
        if process is None:
            return 0
        self.end()
        try:
            return process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            return process.wait(END_S)
        finally:
            self._reap()

    @property
    def running(self) -> bool:
        """Whether the process lives, paused or not."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of the server's process."""
        assert self._process is not None, "it was not launched"
        return self._process.pid

    @property
    def log(self) -> str:
        """What it wrote so far."""
        return self._log.read_text(encoding="utf-8", errors="replace") if self._log.exists() else ""

    def request(
        self, method: str, path: str, value: object = None, *, key: str = "", headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        """One request with a token of all rights: status and JSON.

        Args:
            method: "GET", "POST" and so on.
            path: with its "/v1/" and query.
            value: the body, sent as JSON; None for none.
            key: of idempotency; "" for none.
            headers: more of them.

        Raises:
            OSError, http.client.HTTPException: no answer came; the outcome is not known.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=REQUEST_S)
        request = f"{self.name}-{next(self._requests)}"  # Stands in the server's lines about it, too.
        given = {"authorization": f"Bearer {self._made.token}", "content-type": "application/json",
                 "x-request-id": request, **(headers or {})}  # fmt: skip
        if key:
            given["idempotency-key"] = key
        with contextlib.closing(connection):
            try:
                connection.request(method, path, None if value is None else msgspec.json.encode(value), given)
                answer = connection.getresponse()
                body = answer.read()
            except (OSError, http.client.HTTPException) as error:
                self._note(f"{method} {path}: no answer ({type(error).__name__}) request_id={request}")
                raise
        self._note(f"{method} {path}: {answer.status} request_id={request}")
        return answer.status, msgspec.json.decode(body) if body else None

    def _signal(self, number: int) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def _reap(self) -> None:
        process, self._process = self._process, None
        self._paused = False
        if process is not None:
            process.wait(END_S)
            self._watchdog.forget(process.pid)
            assert process.stdout is not None
            process.stdout.close()

    def _note(self, text: str) -> None:
        self._made.timeline.note(self.name, text)
