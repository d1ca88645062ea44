"""What a handler holds of its job: the arguments, the time left, and the ways to write under its attempt."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

import msgspec

from onefold.core import codec
from onefold.engine.database import Handle
from onefold.engine.tx import Tx
from onefold.messaging.jobs.attempts import checked_with, finish, finish_with, note
from onefold.messaging.jobs.records import Attempt

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class _Held(Generic[T]):
    """What both colours share."""

    def __init__(
        self, attempt: Attempt, args: T, *, composed: Handle, plain: Handle, keep_done_ms: int, timeout_ms: int
    ) -> None:
        self._attempt = attempt
        self._composed = composed  # For effects: serializable.
        self._plain = plain  # For our own single statements: read committed is enough.
        self._keep_done_ms = keep_done_ms
        self._until = time.monotonic() + timeout_ms / 1_000
        #: The record that was put.
        self.args: T = args
        #: Whether `finish` has committed.
        self.finished = False

    @property
    def id(self) -> str:
        """The job's id, the same in every attempt: an idempotency key for the world outside."""
        return self._attempt.id

    @property
    def attempt(self) -> int:
        """How often the job was started, this time included; 1 or more."""
        return self._attempt.attempt

    @property
    def failures(self) -> int:
        """How often it failed before."""
        return self._attempt.failures

    @property
    def put_at_ms(self) -> int:
        """When it was put, on the database's clock."""
        return self._attempt.put_at_ms

    @property
    def space_name(self) -> str:
        """The space in which it was put, and in which `finish` and `run` write."""
        return self._attempt.space_name

    @property
    def left_s(self) -> float:
        """Seconds until the attempt times out, at least a millisecond."""
        return max(0.001, self._until - time.monotonic())

    @property
    def saved(self) -> Any:
        """What an earlier attempt saved, or None."""
        saved = self._attempt.progress
        return None if saved is None else msgspec.json.decode(saved)


class Run(_Held[T]):
    """The job as an async handler has it."""

    @overload
    async def finish(self, /) -> None: ...

    @overload
    async def finish(self, fn: Callable[Concatenate[Tx, P], R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...

    async def finish(self, fn: Callable[..., Any] | None = None, /, *args: Any, **kwargs: Any) -> Any:
        """Commit `fn(tx, *args, **kwargs)` together with the end of the job, or neither.

        Raises:
            Conflict: the attempt is no longer the job's ("attempt_lost"); nothing was written.
        """
        if fn is None:
            result = await self._plain.arun(finish, self._attempt, keep_done_ms=self._keep_done_ms)
        else:
            result = await self._composed.arun(finish_with, self._attempt, self._keep_done_ms, fn, *args, **kwargs)
        self.finished = True
        return result

    async def run(self, fn: Callable[Concatenate[Tx, P], R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Commit `fn(tx, *args, **kwargs)` if the attempt is still the job's. The job goes on.

        Raises:
            Conflict: it is not ("attempt_lost"); nothing was written.
        """
        return await self._composed.arun(checked_with, self._attempt, fn, *args, **kwargs)

    async def save(self, value: Any) -> None:
        """Keep up to 4 KiB of JSON with the job: people see it, and the next attempt has it in `saved`."""
        await self._plain.arun(note, self._attempt, codec.encode(value, what="progress"))


class ThreadRun(_Held[T]):
    """The job as a plain handler has it, which runs in a thread of its own."""

    @overload
    def finish(self, /) -> None: ...

    @overload
    def finish(self, fn: Callable[Concatenate[Tx, P], R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...

    def finish(self, fn: Callable[..., Any] | None = None, /, *args: Any, **kwargs: Any) -> Any:
        """See `Run.finish`."""
        if fn is None:
            result = self._plain.run(finish, self._attempt, keep_done_ms=self._keep_done_ms)
        else:
            result = self._composed.run(finish_with, self._attempt, self._keep_done_ms, fn, *args, **kwargs)
        self.finished = True
        return result

    def run(self, fn: Callable[Concatenate[Tx, P], R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """See `Run.run`."""
        return self._composed.run(checked_with, self._attempt, fn, *args, **kwargs)

    def save(self, value: Any) -> None:
        """See `Run.save`."""
        self._plain.run(note, self._attempt, codec.encode(value, what="progress"))
