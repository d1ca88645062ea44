"""`onefold locks ls | release`: who holds what, and taking it from a holder that is gone."""

from __future__ import annotations

import argparse

from onefold.cli.answer import moment, opened, say, table
from onefold.coordination import locks
from onefold.coordination.locks import Lock
from onefold.core.errors import NotFound

_HEAD = ("NAME", "OWNER", "TOKEN", "SINCE", "EXPIRES")


def ls(options: argparse.Namespace) -> int:
    """One page of the locks that are held now."""
    with opened(options.url) as db:
        page = db.at(options.space).reader().run(
            locks.list_locks, prefix=options.prefix, after=options.after, limit=options.limit
        )  # fmt: skip
    more = [f"More: --after {page.after}"] if page.after is not None else []
    say(options, page, lambda: [*table(_HEAD, [_row(lock) for lock in page.items]), *more])
    return 0


def release(options: argparse.Namespace) -> int:
    """Take a lock from its holder, whose checks fail from then on."""
    with opened(options.url) as db:
        handle = db.at(options.space)
        if options.dry_run:
            held = handle.reader().run(locks.lock_of, options.name)
            if held is None:
                raise NotFound("Nobody holds the lock.", code="not_held", name=options.name)
            say(
                options, {"dry_run": True, "count": 1, "sample": [held]},
                lambda: ["1 would be released.", *table(_HEAD, [_row(held)])],
            )  # fmt: skip
            return 0
        had = handle.run(locks.force_release, options.name, reason=options.reason)
    say(options, had, lambda: [f"Released {had.name}, which {had.owner} held with token {had.token}."])
    return 0


def _row(lock: Lock) -> tuple[str, ...]:
    return lock.name, lock.owner, str(lock.token), moment(lock.acquired_at_ms), moment(lock.expires_at_ms)
