"""A client of a real run: a `Database` with a name, dice, and a history."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Generator, Iterator
from random import Random
from typing import Any

from onefold.core.errors import Invalid, OnefoldError, Unknown
from onefold.engine.call import Isolation
from onefold.engine.database import Database
from onefold.testing.workload.recording import Event, Recorder
from onefold.testing.workload.servers import Servers

CLIENTS_MAX = 256  # Of a run.
STARTS_MAX = 10_000  # Of a process.
UNIQUE_MAX = 10_000_000  # Numbers of one client between two starts.
ROUNDS_MAX = 1_000_000


class Client(Database):
    """What a program gets. It is used like any `Database`, and like the client of a simulation."""

    def __init__(
        self, db: Database, recorder: Recorder, stop: threading.Event, *, number: int, start: int, seed: str,
        isolation: Isolation, deadline_ms: int, servers: Servers | None = None,
    ) -> None:
        super().__init__(db._engine, url=db.url)
        self._options = db.options(isolation=isolation, deadline_ms=deadline_ms)._options
        #: "client-3".
        self.name = f"client-{number}"
        #: From 1, among the clients of all processes.
        self.number = number
        #: Grows whenever its process was started, or its program let out Unknown or Retry: name no owner without it.
        self.incarnation = start * UNIQUE_MAX
        #: Dice of this client, thrown anew at each start of its process; the same in every run of one seed.
        self.random = Random(f"{seed}/{self.name}/{start}")  # noqa: S311
        self._recorder = recorder
        self._servers = servers
        self._stop = stop
        self._processes = itertools.count(number + CLIENTS_MAX * UNIQUE_MAX * (start - 1), CLIENTS_MAX)
        self._process = next(self._processes)
        self._open = False
        first = (start * CLIENTS_MAX + number) * UNIQUE_MAX
        self._unique = iter(range(first, first + UNIQUE_MAX))

    def rounds(self, most: int = ROUNDS_MAX) -> Iterator[int]:
        """For `for _ in client.rounds()`: rounds until the run is to end, or `most` of them."""
        if type(most) is not int or not 1 <= most <= ROUNDS_MAX:
            raise Invalid("There are 1 to 1,000,000 rounds.", most=most)
        return itertools.takewhile(lambda _: not self._stop.is_set(), range(most))

    def sleep_ms(self, ms: int) -> None:
        """Let so many milliseconds pass, less when the run ends."""
        if type(ms) is not int or ms < 0:
            raise Invalid("A client sleeps for a whole number of milliseconds, 0 or more.", ms=ms)
        self._stop.wait(ms / 1_000)

    def unique(self) -> int:
        """A number that no client gets again in this run: what histories ask of written values."""
        return next(self._unique)

    def ask(self, method: str, path: str, value: object = None, *, key: str = "") -> Any:
        """One request to the nodes, over the proxies before them; answers JSON.

        What may be asked twice is asked again, of the next node, until somebody answers or the deadline comes: a GET,
        and what has a key.

        Args:
            method: "GET", "POST" and so on.
            path: with its "/v1/" and query.
            value: the body, sent as JSON; None for none.
            key: the Idempotency-Key; "" for none.

        Raises:
            Invalid, Denied, NotFound, Conflict: a node refused it; `code` is that of its problem.
            Retry: no node took it. Nothing was written.
            Unknown: no node said what became of it.
            RuntimeError: a node failed (500).
        """
        if self._servers is None:
            raise Invalid("The installation has no nodes to ask.", code="no_nodes")
        return self._servers.ask(method, path, value, key=key, deadline_ms=self._options.deadline_ms)

    @contextlib.contextmanager
    def operation(self, f: str, value: Any = None) -> Generator[Event]:
        """Write what the block does into the history as one operation, for a checker.

            with client.operation("read") as op:
                op["value"] = client.run(read, "x")

        It ends "ok" where the block ends, "fail" where a OnefoldError leaves it, "info" where that is Unknown
        or any other error. What is asked and answered must be something that JSON can say.
        """  # fmt: skip
        assert not self._open, "a client does one thing at a time"
        self._open = True
        self._recorder.write(self._process, "invoke", f, value, client=self.name)
        op: Event = {"value": value}
        try:
            yield op
        except OnefoldError as error:
            kind = "info" if isinstance(error, Unknown) else "fail"
            self._end(kind, f, op["value"], error=f"{type(error).__name__} {error.code}")
            raise
        except BaseException as error:
            self._end("info", f, op["value"], error=repr(error))
            raise
        else:
            self._end("ok", f, op["value"])

    def _end(self, kind: str, f: str, value: Any, **more: Any) -> None:
        self._recorder.write(self._process, kind, f, value, client=self.name, **more)
        self._open = False
        if kind == "info":
            self._process = next(self._processes)  # What has no outcome may still happen; the client is somebody new.
