"""What a job looks like: as it is stored, as it is worked on, and as people see it."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from onefold.core.limits import text

State = Literal["ready", "scheduled", "running", "dead", "done"]

ID_LENGTH_MAX = 60
JobId = Annotated[str, text(1, ID_LENGTH_MAX)]
JobCursor = Annotated[str, text(0, ID_LENGTH_MAX)]
Fingerprint = Annotated[str, text(16, 16, "^[0-9a-f]{16}$")]
ID_BEYOND = "~"  # Sorts after every id.
ERROR_LENGTH_MAX = 2_000
PROGRESS_LENGTH_MAX = 4_096


class Body(msgspec.Struct, frozen=True):
    """The columns that a job takes along from table to table; see schema/001.sql."""

    job_space: int
    space_name: str
    id: str
    kind: str
    queue: str
    priority: int
    args: str
    attempt: int
    failures: int
    attempts_max: int
    unique_key: str | None
    put_at_ms: int
    progress: str | None
    error: str | None


class Attempt(Body, frozen=True):
    """One start of one job: what a worker holds, and what fences its effects."""

    worker: str
    seq: int  # Where in its lane it was; tells the worker how far the lane is dealt with.


class Job(msgspec.Struct, frozen=True):
    """A job as people see it.

    `at_ms` says since when (ready, running, dead, done) or until when (scheduled). `args` and
    `progress` are JSON.
    """

    id: str
    kind: str
    state: State
    queue: str
    priority: int
    args: str
    attempt: int
    failures: int
    attempts_max: int
    put_at_ms: int
    at_ms: int
    unique: str | None = None
    progress: str | None = None
    error: str | None = None
    worker: str | None = None


class Failure(msgspec.Struct, frozen=True):
    """An attempt that failed: on which worker, from when until when, and why."""

    attempt: int
    worker: str
    started_at_ms: int
    ended_at_ms: int
    error: str


class KindStats(msgspec.Struct, frozen=True):
    """How many jobs of a kind are in a state, and since when the oldest is (or the soonest is due).

    `at_least`: the state holds more rows than are counted, so `count` is a lower bound.
    """

    kind: str
    state: State
    count: int
    oldest_ms: int
    at_least: bool


class Counted(msgspec.Struct, frozen=True):
    """A number, and whether there may be more than were counted."""

    count: int
    at_least: bool


class DeadLetters(msgspec.Struct, frozen=True):
    """How many dead jobs of a kind a space has; `at_least`: more were not counted."""

    space_name: str
    kind: str
    count: int
    at_least: bool


class PausedQueue(msgspec.Struct, frozen=True):
    """A queue that is not served in this space, and since when."""

    queue: str
    paused_at_ms: int
