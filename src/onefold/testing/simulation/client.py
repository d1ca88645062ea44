"""A logical client: a `Database` whose transactions are stepped, and whose process can die."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from random import Random
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import xxhash

from onefold.core.errors import Invalid, OnefoldError, Retry, Unknown
from onefold.engine.call import Call, refuse_awaitable
from onefold.engine.database import Database
from onefold.engine.metrics import Metrics
from onefold.engine.wake import Hub
from onefold.testing.simulation import faults as fault
from onefold.testing.simulation.actor import Actor, Crashed, Stopped
from onefold.testing.simulation.history import Entry
from onefold.testing.simulation.wakes import SimulatedHub

if TYPE_CHECKING:
    from onefold.testing.simulation.simulation import Simulation

ROUNDS_MAX = 10_000
ROUNDS_DEFAULT = 20
_TRANSACTION: Entry = {"transaction": True}


class _Undo(BaseException):
    """Leaves a function that is through, so that the engine rolls it back as for any error."""


class SimulatedEngine:
    """See `Engine`: scheduling points and faults around the transactions of one process."""

    def __init__(self, run: Simulation, actor: Actor, client: Client, incarnation: int) -> None:
        self.dialect: Literal["sqlite", "postgres"] = run.world.dialect
        self.metrics = Metrics()
        self.hub: Hub = SimulatedHub(run.wakes, actor)
        run.wakes.hubs[actor.number] = self.hub
        self._run = run
        self._actor = actor
        self._client = client
        self._calls = 0
        self._seeded = f"{run.choices.seed}/{actor.name}/{incarnation}/"
        self._stream = run.choices.stream(f"faults of {actor.name}")
        self._draw = functools.partial(fault.drawn, run.faults.thresholds())

    def run(self, call: Call) -> Any:
        """See `Engine.run`."""
        client = self._client
        if client._dead:
            raise Crashed
        self._calls += 1
        call.seed = xxhash.xxh3_64_intdigest(f"{self._seeded}{self._calls}".encode())
        if client._operation is not None:
            return self._stepped(call)
        asked = (*call.args, *call.kwargs.values())
        with _Recorded(client, getattr(call.fn, "__name__", "run"), asked, _TRANSACTION) as op:
            op["value"] = result = self._stepped(call)
        return result

    async def arun(self, call: Call) -> Any:
        """See `Engine.arun`; the simulated client does nothing else meanwhile."""
        return self.run(call)

    def refresh_gauges(self) -> None:
        """See `Engine.refresh_gauges`; there are none."""

    def close(self) -> None:
        """See `Engine.close`; the database outlives its clients."""

    def _stepped(self, call: Call) -> Any:
        """Wait for this client's turn, have what befalls it befall it, and run the function."""
        run, actor = self._run, self._actor
        submitted_ms = run.time.now_ms
        befalls = 0
        if not run.calm:
            befalls = self._stream.take(len(fault.KINDS), self._draw)
        if befalls == fault.PAUSE:
            pause_ms = self._stream.take(fault.PAUSE_MS_MAX, lambda dice: fault.drawn_pause_ms(run.faults, dice))
            self._note("pause", f"{pause_ms} ms")
            # Before it submits: the engine would refuse what is past its deadline when it looks.
            actor.due_ms = submitted_ms = submitted_ms + pause_ms
        elif befalls == fault.STEP:
            most = run.faults.clock_step_ms
            step_ms = self._stream.take(2 * most + 1, lambda dice: dice.randrange(2 * most + 1)) - most
            self._note("clock step", f"{step_ms:+} ms")
            actor.clock.step(step_ms)
        run.transactions += 1
        actor.point()
        if befalls == fault.REFUSED:
            self._note("refused")
            raise Retry("Simulated: conflicts did not end.", code="conflict", retry_after_ms=100)
        if run.time.now_ms - submitted_ms > call.options.deadline_ms:
            raise Retry("The deadline passed; the call was not run.", code="deadline")
        return self._through(call, befalls)

    def _through(self, call: Call, befalls: int) -> Any:
        run, actor = self._run, self._actor
        crash = befalls in {fault.CRASH_BEFORE, fault.CRASH_AFTER}
        if crash and not self._client._may_crash():
            crash, befalls = False, 0
        if befalls in {fault.CRASH_BEFORE, fault.UNKNOWN_LOST} and not call.options.read_only:
            call.fn = _undone(call)
        try:
            result = run.world.run(actor, call, twice=befalls == fault.AGAIN)
        except _Undo:
            result = None
        else:
            run.after_commit(call.options.read_only)
        if crash:
            self._note(fault.KINDS[befalls])
            self._client._dead = True
            raise Crashed
        if befalls in {fault.UNKNOWN_LOST, fault.UNKNOWN_DONE} and not call.options.read_only:
            self._note(fault.KINDS[befalls])
            raise Unknown("Simulated: the connection broke at COMMIT and the outcome cannot be told.")
        if not run.calm and run.faults.late_reply and self._stream.take(2, self._late):
            actor.point()
        return result

    def _late(self, dice: Random) -> int:
        return dice.random() < self._run.faults.late_reply

    def _note(self, what: str, value: Any = None) -> None:
        self._run.note_fault(self._actor, what, value)


class Client(Database):
    """What a scenario's program gets: a database, and a life in simulated time.

    It is used like any `Database`: `client.run(fn, ...)`, `client.at(space)`, `client.reader()`,
    `client.waiter(topic)`. A program never sleeps, reads no clock and starts no threads of its own.
    """

    def __init__(self, run: Simulation, actor: Actor, *, number: int, incarnation: int) -> None:
        super().__init__(SimulatedEngine(run, actor, self, incarnation), url="simulated")
        #: "buyer-1": the program and which of its clients this is.
        self.name = actor.name
        #: From 1, among the clients of one program.
        self.number = number
        #: From 1; one more after each crash.
        self.incarnation = incarnation
        #: Dice of this client; the same in every run of one seed, whatever others do.
        self.random = Random(f"{run.choices.seed}/{actor.name}/{incarnation}")  # noqa: S311
        self._run = run
        self._actor = actor
        self._dead = False
        self._operation: Entry | None = None

    def sleep_ms(self, ms: int) -> None:
        """Let `ms` simulated milliseconds pass; others go on meanwhile."""
        if type(ms) is not int or ms < 0:
            raise Invalid("A client sleeps for a whole number of milliseconds, 0 or more.", ms=ms)
        if self._dead:
            raise Crashed
        self._actor.due_ms = self._run.time.now_ms + ms
        self._actor.point()

    def now_ms(self) -> int:
        """The clock of this process, which may be wrong; as `tx.now_ms` shows it."""
        return self._actor.clock.now_ms()

    def unique(self) -> int:
        """A number that no client gets again in this run: what histories ask of written values."""
        return next(self._run.unique)

    def rounds(self, most: int = ROUNDS_DEFAULT) -> Iterator[int]:
        """For `for _ in client.rounds(10)`: 1 to `most` rounds, drawn; a smaller failure has fewer."""
        if type(most) is not int or not 1 <= most <= ROUNDS_MAX:
            raise Invalid("There are 1 to 10,000 rounds.", most=most)
        stream = self._run.choices.stream(f"rounds of {self.name}")
        return iter(range(1 + stream.take(most, lambda dice: dice.randrange(most))))

    def operation(self, f: str, value: Any = None) -> AbstractContextManager[Entry]:
        """Write what the block does into the history as one operation, for a checker.

            with client.operation("read") as op:
                op["value"] = client.run(read, "x")

        It ends "ok" where the block ends, "fail" where a OnefoldError leaves it, "info" where that is
        Unknown or the process dies. Transactions outside of any block are operations by themselves, and marked
        with `transaction`.
        """  # fmt: skip
        return _Recorded(self, f, value, {})

    def _may_crash(self) -> bool:
        return self.incarnation <= self._run.faults.crashes_max


class _Recorded:
    """See `Client.operation`. No generator: that would cost a tenth of a small transaction."""

    __slots__ = ("_client", "_f", "_mark", "_op", "_process")

    def __init__(self, client: Client, f: str, value: Any, mark: Entry) -> None:
        self._client = client
        self._f = f
        self._mark = mark
        self._op: Entry = {"value": value}

    def __enter__(self) -> Entry:
        """It is asked."""
        client = self._client
        assert client._operation is None, "a client does one thing at a time"
        self._process = client._run.process_of(client._actor)
        self._add("invoke", self._mark)
        client._operation = self._op
        return self._op

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """It is told."""
        self._client._operation = None
        if error is None:
            self._add("ok", self._mark)
        elif isinstance(error, OnefoldError) and not isinstance(error, Unknown):
            self._add("fail", {"error": f"{type(error).__name__} {error.code}", **self._mark})
        elif not isinstance(error, Stopped):
            told = type(error).__name__ if isinstance(error, (Unknown, Crashed)) else repr(error)
            self._add("info", {"error": told, **self._mark})
            self._client._run.new_process(self._client._actor)

    def _add(self, kind: str, more: Entry) -> None:
        client = self._client
        client._run.history.add(self._process, kind, self._f, self._op["value"], client=client.name, more=more)


def _undone(call: Call) -> Callable[..., Any]:
    """The function of `call`, undone when it is through."""
    fn = call.fn

    def undone(tx: Any, *args: Any, **kwargs: Any) -> None:
        result = fn(tx, *args, **kwargs)
        if result is not None:
            refuse_awaitable(call, result)
        if tx._doom is not None:
            tx._check_alive()
        raise _Undo

    return undone
