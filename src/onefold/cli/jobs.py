"""`onefold jobs ls | stats | why | failures | retry | cancel | purge | pause | resume`: straight to the database.

What changes many goes in bounded steps, each its own transaction: one that is interrupted has done what
its last step says, and is called again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any, cast, get_args

from onefold.cli.answer import moment, opened, say, table
from onefold.cli.progress import Progress
from onefold.cli.undone import undone
from onefold.core.errors import Conflict, Invalid, NotFound
from onefold.core.page import Page
from onefold.engine.database import Handle
from onefold.engine.tx import Tx
from onefold.messaging import jobs
from onefold.messaging.jobs import Counted, Job, State, Step

STATES: tuple[State, ...] = get_args(State)
STEP_JOBS = 500  # Changed in one transaction.
SAMPLE_JOBS = 10  # Shown by --dry-run.
ERROR_SHOWN_CHARS = 60


def ls(options: argparse.Namespace) -> int:
    """One page of jobs, state by state; `after` goes on where it ended."""
    with opened(options.url) as db:
        reader = db.at(options.space).reader()
        with Progress(options) as tell:
            page = _filled(reader, options.state, options.kind, tell, after=options.after, limit=options.limit)

    def lines() -> list[str]:
        found = [*table(("ID", "KIND", "STATE", "QUEUE", "TRIED", "AT", "ERROR"), [_row(job) for job in page.items])]
        return found if page.after is None else [*found, f"More: --after {page.after}"]

    say(options, page, lines)
    return 0


def stats(options: argparse.Namespace) -> int:
    """How many jobs of each kind are in each state."""
    with opened(options.url) as db:
        found = db.at(options.space).reader().run(jobs.stats)
    rows = [(s.kind, s.state, f"{s.count:,}{'+' if s.at_least else ''}", moment(s.oldest_ms)) for s in found]
    say(options, found, lambda: table(("KIND", "STATE", "COUNT", "OLDEST"), rows))
    return 0


def why(options: argparse.Namespace) -> int:
    """Why a job is not running, in one sentence."""
    with opened(options.url) as db:
        sentence = db.at(options.space).reader().run(jobs.why, options.job_id)
    say(options, {"id": options.job_id, "why": sentence}, lambda: [sentence])
    return 0


def failures(options: argparse.Namespace) -> int:
    """The attempts of a job that failed, the latest first."""
    with opened(options.url) as db:
        page = db.at(options.space).reader().run(
            jobs.list_failures, options.job_id, after=options.after, limit=options.limit
        )  # fmt: skip

    def lines() -> list[str]:
        rows = [
            (
                str(one.attempt), moment(one.started_at_ms), f"{one.ended_at_ms - one.started_at_ms:,}", one.worker,
                _line(one.error),
            )
            for one in page.items
        ]  # fmt: skip
        found = [*table(("ATTEMPT", "STARTED", "MS", "WORKER", "ERROR"), rows)]
        return found if page.after is None else [*found, f"More: --after {page.after}"]

    say(options, page, lines)
    return 0


def retry(options: argparse.Namespace) -> int:
    """Run jobs again: those named, or all dead ones of a kind."""
    _one_way(options)
    with opened(options.url) as db:
        handle = db.at(options.space)
        if options.ids:
            return _each(options, handle, jobs.retry, "retried")
        return _dead(options, handle, jobs.retry_dead, "retried")


def purge(options: argparse.Namespace) -> int:
    """Forget the dead jobs of a kind."""
    with opened(options.url) as db:
        return _dead(options, db.at(options.space), jobs.purge_dead, "purged")


def cancel(options: argparse.Namespace) -> int:
    """Cancel jobs: those named, or all of a kind that are in a state."""
    _one_way(options)
    with opened(options.url) as db:
        handle = db.at(options.space)
        if options.ids:
            return _each(options, handle, jobs.cancel, "cancelled")
        counted = handle.reader().run(jobs.count_live, options.state, options.kind)
        if options.dry_run:
            with Progress(options) as tell:
                page = _filled(handle.reader(), options.state, options.kind, tell, after=None, limit=SAMPLE_JOBS)
            return _show(options, page.items, counted, "cancelled")
        return _stepwise(options, handle, jobs.cancel_many, "cancelled", counted, state=options.state)


def pause(options: argparse.Namespace) -> int:
    """Let nothing of a queue begin."""
    return _queue(options, jobs.pause, "paused")


def resume(options: argparse.Namespace) -> int:
    """Let a paused queue go on."""
    return _queue(options, jobs.resume, "resumed")


def _queue(options: argparse.Namespace, act: Callable[..., None], word: str) -> int:
    with opened(options.url) as db:
        db.at(options.space).run(act, options.queue)
    say(options, {word: options.queue}, lambda: [f"{options.queue} {word}."])
    return 0


def _one_way(options: argparse.Namespace) -> None:
    if bool(options.ids) == bool(options.kind):
        raise Invalid("Say which: ids, or --kind for all of a kind.")


def _filled(
    reader: Handle, state: State | None, kind: str | None, tell: Progress, *, after: str | None, limit: int
) -> Page[Job]:
    """A page that is full or the last: looks on, a bounded step each, past jobs of other kinds."""
    found: list[Job] = []
    while True:
        page = reader.run(_listed, state, kind, after=after, limit=limit - len(found))
        found += page.items
        if page.after is None or len(found) == limit:
            return Page(found, page.after)
        after = page.after
        tell("found", len(found), 0)


def _listed(
    tx: Tx, state: State | None, kind: str | None, *, after: str | None, limit: int
) -> Page[Job]:
    """A page over all states, one after the other; its cursor is "state/id"."""
    states = STATES if state is None else (state,)
    first, mark, last = (after or "").partition("/")
    if after is not None and (not mark or first not in states):
        raise Invalid("after is what the page before said.", after=after[:100])
    found: list[Job] = []
    for name in states[states.index(cast("State", first)) if mark else 0 :]:
        left = limit - len(found)
        if not left:
            return Page(found, f"{name}/")
        page = jobs.list_jobs(tx, state=name, kind=kind, after=last or None, limit=left)
        found += page.items
        if page.after is not None:  # The page is full, or enough was looked at.
            return Page(found, f"{name}/{page.after}")
        last = ""
    return Page(found)


def _dead(options: argparse.Namespace, handle: Handle, act: Callable[..., Step], word: str) -> int:
    """Act on the dead jobs of a kind, or on those of them with one error."""
    reader = handle.reader()
    found = reader.run(jobs.preview_dead, options.kind, fingerprint=options.error, examples=SAMPLE_JOBS)
    counted = Counted(found.count, found.at_least)
    if options.dry_run:
        return _show(options, [reader.run(jobs.get, job.id) for job in found.examples], counted, word)
    return _stepwise(options, handle, act, word, counted, fingerprint=options.error)


def _stepwise(
    options: argparse.Namespace, handle: Handle, act: Callable[..., Step], word: str, counted: Counted, **which: Any
) -> int:
    """All of a kind, step by step, each a transaction."""
    done, after = 0, None
    with Progress(options) as tell:
        while True:
            step = handle.run(act, options.kind, after=after, limit=STEP_JOBS, **which)
            done += step.done
            tell(word, done, counted.count)
            if (after := step.after) is None:
                break
    say(options, {word: done}, lambda: [f"{done:,} {word}."])
    return 0


def _each(options: argparse.Namespace, handle: Handle, act: Callable[..., Any], word: str) -> int:
    """Act on the jobs that are named, each in its own transaction; code 3 or 4 when one refused."""
    done: list[str] = []
    refused: list[dict[str, str]] = []
    worst = 0
    for job_id in options.ids:
        try:
            if options.dry_run:
                undone(handle, act, job_id)
            else:
                handle.run(act, job_id)
            done.append(job_id)
        except (NotFound, Conflict) as error:
            refused.append({"id": job_id, "code": error.code, "text": error.text})
            worst = max(worst, 3 if isinstance(error, NotFound) else 4)
    told = [f"{no['id']}: {no['text']}" for no in refused]
    if options.dry_run:
        sample = [handle.reader().run(jobs.get, job_id) for job_id in done[:SAMPLE_JOBS]]
        _show(options, sample, Counted(len(done), at_least=False), word, refused=refused, told=told)
        return worst
    lines = [*(f"{job_id} {word}" for job_id in done), *told]
    say(options, {word: len(done), "refused": refused}, lambda: lines)
    return worst


def _show(
    options: argparse.Namespace, sample: list[Job], counted: Counted, word: str, *,
    refused: Sequence[dict[str, str]] = (), told: Sequence[str] = (),
) -> int:  # fmt: skip
    least = "at least " if counted.at_least else ""
    say(
        options,
        {
            "dry_run": True, "count": counted.count, "at_least": counted.at_least, "sample": sample,
            **({"refused": refused} if refused else {}),
        },
        lambda: [
            f"{least}{counted.count:,} would be {word}.",
            *table(("ID", "KIND", "STATE", "QUEUE", "TRIED", "AT", "ERROR"), [_row(job) for job in sample]),
            *told,
        ],
    )
    return 0


def _row(job: Job) -> tuple[str, ...]:
    tried = f"{job.failures}/{job.attempts_max}"
    return job.id, job.kind, job.state, job.queue, tried, moment(job.at_ms), _line(job.error)


def _line(error: str | None) -> str:
    return (error or "").partition("\n")[0][:ERROR_SHOWN_CHARS]
