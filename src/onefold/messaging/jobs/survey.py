"""Looking at a great many jobs without reading many: what a page of a dashboard shows, each within a bound.

`look` answers about one job, `listing` pages through whole ones, `counts` counts them; here every function says
how many rows it reads at most, and answers from those. None reads the arguments of a job.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec
import xxhash

from onefold.core.errors import Invalid
from onefold.core.page import LIMIT_DEFAULT, Limit, Page, checked_limit
from onefold.engine.tx import Row, Tx, operation
from onefold.messaging.jobs.kinds import Name, checked_name
from onefold.messaging.jobs.ops import checked_id
from onefold.messaging.jobs.rates import Ended, of_text
from onefold.messaging.jobs.records import ID_BEYOND, State

LOOKED_MAX = 2_000  # Rows read for one page of `glance`.
FAILURES_LOOKED_MAX = 2_000  # Dead jobs, the latest put, that `failure_groups` looks at.
COUNTED_MAX = 10_000  # Dead jobs that `preview_dead` counts.
EXAMPLES_MAX = 100
MINUTES_MAX = 60
DEATHS_LOOKED_MAX = 5_000  # For `deaths_per_minute`, the latest.
OVERDUE_LOOKED_MAX = 1_000
WORKERS_MAX = 1_000
_PATTERN_LENGTH_MAX = 200
_LOOKED_CHARS_MAX = 1_000  # Of an error; the texts below ask for no more of it.

# What differs between two failures of one cause: texts in quotes, addresses and ids, numbers.
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_LONG_HEX = re.compile(r"\b(?=[0-9a-fA-F]*\d)(?:0x)?[0-9a-fA-F-]{8,}\b|(?<=_)[0-9a-f]{32}\b")
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
FINGERPRINT_LENGTH = 16
_FINGERPRINT = re.compile(rf"[0-9a-f]{{{FINGERPRINT_LENGTH}}}")


class Glance(msgspec.Struct, frozen=True):
    """A job in a list: `Job` without its arguments and progress, and with the first 1,000 characters of its error."""

    id: str
    kind: str
    state: State
    queue: str
    attempt: int
    failures: int
    attempts_max: int
    put_at_ms: int
    at_ms: int
    error: str | None


class FailureGroup(msgspec.Struct, frozen=True):
    """Dead jobs of one kind that died of the same, by the look of their errors.

    Attributes:
        kind: of the jobs.
        fingerprint: 16 hexadecimal digits; the same for errors that differ only in numbers, ids and quotes.
        pattern: the error's first line with what differs left out.
        count: how many of those looked at.
        first_ms: when the first of them died.
        last_ms: when the last of them died.
        example: the id of one.
    """

    kind: str
    fingerprint: str
    pattern: str
    count: int
    first_ms: int
    last_ms: int
    example: str


class Preview(msgspec.Struct, frozen=True):
    """How many jobs something would be done to, and a few of them; `at_least`: there may be more than were counted."""

    count: int
    at_least: bool
    examples: list[Glance]


class LiveWorker(msgspec.Struct, frozen=True):
    """A worker whose lease is not over, and what it serves.

    Attributes:
        worker: its name.
        queues: that it serves.
        kinds: that it knows.
        started_at_ms: when it began.
        rates: by kind, how many jobs it finished and how many attempts failed in the minute before its last heartbeat.
    """

    worker: str
    queues: tuple[str, ...]
    kinds: tuple[str, ...]
    started_at_ms: int
    rates: dict[str, Ended] = {}


def pattern_of(error: str | None) -> str:
    """The first line of an error with numbers, ids and quoted texts left out; of its first 1,000 characters."""
    line = (error or "")[:_LOOKED_CHARS_MAX].strip().partition("\n")[0]
    line = _NUMBER.sub("0", _LONG_HEX.sub("0", _QUOTED.sub('"..."', line)))
    return line[:_PATTERN_LENGTH_MAX] or "(no error was noted)"


def fingerprint_of(error: str | None) -> str:
    """16 hexadecimal digits: equal for errors of equal pattern."""
    return _fingerprint(pattern_of(error))


@operation
def glance(
    tx: Tx,
    state: State,
    *,
    kind: str | None = None,
    fingerprint: str | None = None,
    after: str | None = None,
    limit: Limit = LIMIT_DEFAULT,
) -> Page[Glance]:
    """Jobs of this space in a state, in the order in which they were put.

    Where an index does not find them it looks at 2,000 jobs and answers those that fit. So a page may hold
    fewer than `limit`, or none, and still have an `after`, from which to look on.

    Args:
        state: "ready", "scheduled", "running" or "dead".
        kind: only of this kind.
        fingerprint: only with such an error, see `fingerprint_of`.
        after: the last page's `after`.
        limit: 1 to 1,000.

    Raises:
        Invalid: an argument is out of range.
    """
    if state not in _GLANCES:
        raise Invalid("A state is ready, scheduled, running or dead.", code="state")
    if fingerprint is not None:
        checked_fingerprint(fingerprint)
    checked_limit(limit)
    first = checked_id(after) if after else ""
    if kind is not None:
        checked_name(kind)
    if kind is not None and state == "dead":  # Found by an index: what is read is what is answered.
        most = limit if fingerprint is None else LOOKED_MAX
        rows = _dead_of_kind(tx, kind, first, most + 1)
    else:
        most = limit if kind is None and fingerprint is None else LOOKED_MAX
        rows = _GLANCES[state](tx, first, most + 1)
    found: list[Glance] = []
    for row in rows[:most]:
        if (kind is None or row[1] == kind) and (fingerprint is None or fingerprint_of(row[8]) == fingerprint):
            found.append(_glance(state, row))
            if len(found) == limit:
                more = row is not rows[-1]
                return Page(found, row[0] if more else None)
    return Page(found, rows[most - 1][0] if len(rows) > most else None)


@operation
def failure_groups(tx: Tx, *, kind: Name | None = None) -> list[FailureGroup]:
    """The latest 2,000 dead jobs of this space (by when they were put), grouped by kind and error; most first."""
    if kind is None:
        rows = tx.all(
            """SELECT id, kind, substr(error, 1, 1000), died_at_ms FROM onefold.jobs_dead WHERE space = :space
               ORDER BY id DESC LIMIT :most""",
            most=FAILURES_LOOKED_MAX,
        )
    else:
        rows = tx.all(
            """SELECT id, kind, substr(error, 1, 1000), died_at_ms FROM onefold.jobs_dead
               WHERE space = :space AND kind >= :kind AND (kind, id) < (:kind, :end)
               ORDER BY kind DESC, id DESC LIMIT :most""",
            kind=checked_name(kind), end=ID_BEYOND, most=FAILURES_LOOKED_MAX,
        )  # fmt: skip
    patterns: dict[str | None, str] = {}  # Many die of the very same.
    together: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for id, name, error, died_at_ms in rows:
        if error not in patterns:
            patterns[error] = pattern_of(error)
        together.setdefault((name, patterns[error]), []).append((id, died_at_ms))
    groups = [
        FailureGroup(
            name, _fingerprint(pattern), pattern, len(died), min(at for _, at in died), max(at for _, at in died),
            died[0][0],
        )
        for (name, pattern), died in together.items()
    ]  # fmt: skip
    return sorted(groups, key=lambda group: (-group.count, group.kind, group.pattern))


@operation
def preview_dead(tx: Tx, kind: str, *, fingerprint: str | None = None, examples: int = 5) -> Preview:
    """What doing one thing to the dead jobs of a kind would meet: how many, and a few of them.

    Of a kind 10,000 are counted, by its index alone. Of one error the latest 2,000 of the kind (by when
    they were put) are looked at, as `failure_groups` does.

    Args:
        kind: of which kind.
        fingerprint: only those with such an error, see `fingerprint_of`.
        examples: how many to show, 1 to 100.

    Raises:
        Invalid: an argument is out of range.
    """
    checked_name(kind)
    if not 1 <= examples <= EXAMPLES_MAX:
        raise Invalid("examples is out of range.", examples=examples, most=EXAMPLES_MAX)
    if fingerprint is None:
        row = tx.one(
            """SELECT count(*) FROM (
                   SELECT 1 FROM onefold.jobs_dead WHERE space = :space AND kind = :kind LIMIT :most) counted""",
            kind=kind, most=COUNTED_MAX + 1,
        )  # fmt: skip
        count = row[0] if row else 0
        found = [_glance("dead", row) for row in _dead_of_kind(tx, kind, "", examples)]
        return Preview(min(count, COUNTED_MAX), count > COUNTED_MAX, found)
    checked_fingerprint(fingerprint)
    rows = tx.all(
        """SELECT id, kind, queue, attempt, failures, attempts_max, put_at_ms, died_at_ms, substr(error, 1, 1000)
           FROM onefold.jobs_dead WHERE space = :space AND kind >= :kind AND (kind, id) < (:kind, :end)
           ORDER BY kind DESC, id DESC LIMIT :most""",
        kind=kind, end=ID_BEYOND, most=FAILURES_LOOKED_MAX + 1,
    )  # fmt: skip
    same = [row for row in rows[:FAILURES_LOOKED_MAX] if fingerprint_of(row[8]) == fingerprint]
    return Preview(len(same), len(rows) > FAILURES_LOOKED_MAX, [_glance("dead", row) for row in same[:examples]])


@operation
def deaths_per_minute(tx: Tx, *, minutes: int = MINUTES_MAX) -> list[int]:
    """How many jobs of this space were given up in each of the last `minutes` (1 to 60), the oldest minute first.

    It looks at the latest 5,000 deaths of all spaces, and at none that were retried or purged since.
    """
    if not 1 <= minutes <= MINUTES_MAX:
        raise Invalid("minutes is out of range.", minutes=minutes, most=MINUTES_MAX)
    rows = tx.all(
        """SELECT died_at_ms FROM (
               SELECT space, died_at_ms FROM onefold.jobs_dead
               WHERE died_at_ms > :since_ms ORDER BY died_at_ms DESC LIMIT :most) latest
           WHERE space = :space""",
        since_ms=tx.now_ms - minutes * 60_000, most=DEATHS_LOOKED_MAX,
    )  # fmt: skip
    counts = [0] * minutes
    for (died_at_ms,) in rows:
        counts[minutes - 1 - min(max(0, tx.now_ms - died_at_ms) // 60_000, minutes - 1)] += 1
    return counts


@operation
def overdue_ms(tx: Tx) -> int:
    """By how much the job is late that waits longest beyond its time, in this space; 0 when none is.

    Promoting them is a loop's work. It looks at 1,000 late jobs of all spaces.
    """
    row = tx.one(
        """SELECT min(at_ms) FROM (
               SELECT space, at_ms FROM onefold.jobs_scheduled
               WHERE at_ms <= :now_ms ORDER BY at_ms LIMIT :most) late
           WHERE space = :space""",
        most=OVERDUE_LOOKED_MAX,
    )
    return tx.now_ms - row[0] if row and row[0] is not None else 0


@operation
def live_workers(tx: Tx) -> list[LiveWorker]:
    """The workers that are alive, in any space, at most 1,000."""
    rows = tx.all(
        """SELECT worker, queues, kinds, started_at_ms, rates FROM onefold.jobs_workers
           WHERE expires_at_ms > :now_ms ORDER BY worker LIMIT :most -- all spaces""",
        most=WORKERS_MAX,
    )
    return [LiveWorker(row[0], _names(row[1]), _names(row[2]), row[3], of_text(row[4])) for row in rows]


def checked_fingerprint(fingerprint: str) -> str:
    """`fingerprint` itself; Invalid when it is not one."""
    if not _FINGERPRINT.fullmatch(fingerprint):
        raise Invalid("A fingerprint is 16 hexadecimal digits.", code="fingerprint")
    return fingerprint


def _fingerprint(pattern: str) -> str:
    return xxhash.xxh3_64_hexdigest(pattern.encode("utf-8", "replace"))


def _glance_ready(tx: Tx, after: str, most: int) -> list[Row]:
    return tx.all(
        """SELECT id, kind, queue, attempt, failures, attempts_max, put_at_ms, ready_at_ms, substr(error, 1, 1000)
           FROM onefold.jobs_ready WHERE space = :space AND id > :after ORDER BY id LIMIT :most""",
        after=after, most=most,
    )  # fmt: skip


def _glance_scheduled(tx: Tx, after: str, most: int) -> list[Row]:
    return tx.all(
        """SELECT id, kind, queue, attempt, failures, attempts_max, put_at_ms, at_ms, substr(error, 1, 1000)
           FROM onefold.jobs_scheduled WHERE space = :space AND id > :after ORDER BY id LIMIT :most""",
        after=after, most=most,
    )  # fmt: skip


def _glance_running(tx: Tx, after: str, most: int) -> list[Row]:
    return tx.all(
        """SELECT id, kind, queue, attempt, failures, attempts_max, put_at_ms, claimed_at_ms, substr(error, 1, 1000)
           FROM onefold.jobs_running WHERE space = :space AND id > :after ORDER BY id LIMIT :most""",
        after=after, most=most,
    )  # fmt: skip


def _glance_dead(tx: Tx, after: str, most: int) -> list[Row]:
    return tx.all(
        """SELECT id, kind, queue, attempt, failures, attempts_max, put_at_ms, died_at_ms, substr(error, 1, 1000)
           FROM onefold.jobs_dead WHERE space = :space AND id > :after ORDER BY id LIMIT :most""",
        after=after, most=most,
    )  # fmt: skip


def _dead_of_kind(tx: Tx, kind: str, after: str, most: int) -> list[Row]:
    # A range, not `kind = :kind AND id > :after`: for that SQLite takes the primary key, and walks past all others.
    return tx.all(
        """SELECT id, kind, queue, attempt, failures, attempts_max, put_at_ms, died_at_ms, substr(error, 1, 1000)
           FROM onefold.jobs_dead WHERE space = :space AND (kind, id) > (:kind, :after) AND kind <= :kind
           ORDER BY kind, id LIMIT :most""",
        kind=kind, after=after, most=most,
    )  # fmt: skip


_GLANCES: dict[str, Callable[[Tx, str, int], list[Row]]] = {
    "ready": _glance_ready, "scheduled": _glance_scheduled, "running": _glance_running, "dead": _glance_dead,
}  # fmt: skip


def _glance(state: State, row: tuple[Any, ...]) -> Glance:
    return Glance(row[0], row[1], state, *row[2:])


def _names(stored: str) -> tuple[str, ...]:
    return tuple(name for name in stored.split(",") if name)
