"""`onefold jobs ls | stats | why | retry | cancel | purge`: straight to the database.

What changes many goes in bounded steps, each its own transaction: one that is interrupted has done what
its last step says, and is called again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, cast, get_args

from onefold.cli.answer import moment, opened, say, table
from onefold.cli.progress import Progress
from onefold.core.errors import Conflict, Invalid, NotFound
from onefold.core.page import Page
from onefold.engine.database import Handle
from onefold.engine.tx import Tx
from onefold.messaging import jobs
from onefold.messaging.jobs import Job, State

STATES: tuple[State, ...] = get_args(State)
STEP_JOBS = 500  # Changed in one transaction.
SAMPLE_JOBS = 10  # Shown by --dry-run.
ERROR_SHOWN_CHARS = 60


def ls(options: argparse.Namespace) -> int:
    """One page of jobs, state by state; `after` goes on where it ended."""
    with opened(options.url) as db:
        page = db.at(options.space).reader().run(
            _listed, options.state, options.kind, after=options.after, limit=options.limit
        )  # fmt: skip

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


def retry(options: argparse.Namespace) -> int:
    """Run jobs again: those named, or all dead ones of a kind."""
    _one_way(options)
    with opened(options.url) as db:
        handle = db.at(options.space)
        if options.ids:
            return _each(options, handle, jobs.retry, "retried")
        if options.dry_run:
            return _sample(options, handle, "dead", "retried")
        return _dead(options, handle, jobs.retry_dead, "retried")


def purge(options: argparse.Namespace) -> int:
    """Forget the dead jobs of a kind."""
    with opened(options.url) as db:
        handle = db.at(options.space)
        if options.dry_run:
            return _sample(options, handle, "dead", "purged")
        return _dead(options, handle, jobs.purge_dead, "purged")


def cancel(options: argparse.Namespace) -> int:
    """Cancel jobs: those named, or all of a kind that are in a state."""
    _one_way(options)
    with opened(options.url) as db:
        handle = db.at(options.space)
        if options.ids:
            return _each(options, handle, jobs.cancel, "cancelled")
        if options.dry_run:
            return _sample(options, handle, options.state, "cancelled")
        total = _count(handle, options.state, options.kind)[0]
        done, after = 0, None
        with Progress(options) as tell:
            while True:
                count, after = handle.run(_cancel_page, options.state, options.kind, after=after)
                done += count
                tell("cancelling", done, total)
                if after is None:
                    break
    say(options, {"cancelled": done}, lambda: [f"{done:,} cancelled."])
    return 0


def _one_way(options: argparse.Namespace) -> None:
    if bool(options.ids) == bool(options.kind):
        raise Invalid("Say which: ids, or --kind for all of a kind.")


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
        if page.after is not None:
            return Page(found, f"{name}/{page.after}")
        last = ""
    return Page(found)


def _cancel_page(tx: Tx, state: State, kind: str, *, after: str | None) -> tuple[int, str | None]:
    page = jobs.list_jobs(tx, state=state, kind=kind, after=after, limit=STEP_JOBS)
    done = 0
    for job in page.items:
        try:
            with tx.savepoint():
                jobs.cancel(tx, job.id)
            done += 1
        except NotFound:  # It ended meanwhile, which READ COMMITTED lets us see.
            continue
    return done, page.after


def _dead(options: argparse.Namespace, handle: Handle, act: Callable[..., int], word: str) -> int:
    """Act on the dead jobs of a kind, those that were dead when this began."""
    until_ms = handle.reader().run(_now)
    total = _count(handle, "dead", options.kind)[0]
    done = 0
    with Progress(options) as tell:
        while count := handle.run(act, options.kind, limit=STEP_JOBS, died_until_ms=until_ms):
            done += count
            tell(word, done, total)
    say(options, {word: done}, lambda: [f"{done:,} {word}."])
    return 0


def _each(options: argparse.Namespace, handle: Handle, act: Callable[..., Any], word: str) -> int:
    """Act on the jobs that are named, each in its own transaction; code 3 or 4 when one refused."""
    if options.dry_run:
        found = [handle.reader().run(jobs.get, job_id) for job_id in options.ids]
        return _show(options, found, len(found), word, at_least=False)
    done: list[str] = []
    refused: list[dict[str, str]] = []
    worst = 0
    for job_id in options.ids:
        try:
            handle.run(act, job_id)
            done.append(job_id)
        except (NotFound, Conflict) as error:
            refused.append({"id": job_id, "code": error.code, "text": error.text})
            worst = max(worst, 3 if isinstance(error, NotFound) else 4)
    lines = [*(f"{job_id} {word}" for job_id in done), *(f"{no['id']}: {no['text']}" for no in refused)]
    say(options, {word: len(done), "refused": refused}, lambda: lines)
    return worst


def _sample(options: argparse.Namespace, handle: Handle, state: State, word: str) -> int:
    count, at_least = _count(handle, state, options.kind)
    page = handle.reader().run(jobs.list_jobs, state=state, kind=options.kind, limit=SAMPLE_JOBS)
    return _show(options, page.items, count, word, at_least=at_least)


def _show(options: argparse.Namespace, sample: list[Job], count: int, word: str, *, at_least: bool) -> int:
    least = "at least " if at_least else ""
    say(
        options,
        {"dry_run": True, "count": count, "at_least": at_least, "sample": sample},
        lambda: [
            f"{least}{count:,} would be {word}.",
            *table(("ID", "KIND", "STATE", "QUEUE", "TRIED", "AT", "ERROR"), [_row(job) for job in sample]),
        ],
    )
    return 0


def _count(handle: Handle, state: State, kind: str) -> tuple[int, bool]:
    """How many there are, and whether more were not counted."""
    of_state = [found for found in handle.reader().run(jobs.stats) if found.state == state]
    return sum(found.count for found in of_state if found.kind == kind), any(found.at_least for found in of_state)


def _now(tx: Tx) -> int:
    return tx.now_ms


def _row(job: Job) -> tuple[str, ...]:
    error = (job.error or "").partition("\n")[0][:ERROR_SHOWN_CHARS]
    tried = f"{job.failures}/{job.attempts_max}"
    return job.id, job.kind, job.state, job.queue, tried, moment(job.at_ms), error
