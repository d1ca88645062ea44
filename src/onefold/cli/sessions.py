"""`onefold sessions ls | end`: who is logged in to the dashboard, and logging somebody out."""

from __future__ import annotations

import argparse

from onefold.cli.answer import moment, opened, say, table
from onefold.cli.undone import undone
from onefold.identity import sessions
from onefold.identity.sessions import Session

_HEAD = ("ID", "TOKEN", "BEGAN", "ENDS")


def ls(options: argparse.Namespace) -> int:
    """One page of the sessions that are not over."""
    with opened(options.url) as db:
        page = db.reader().run(sessions.list_sessions, after=options.after, limit=options.limit)
    more = [f"More: --after {page.after}"] if page.after is not None else []
    say(options, page, lambda: [*table(_HEAD, [_row(one) for one in page.items]), *more])
    return 0


def end(options: argparse.Namespace) -> int:
    """End one session at once; its token can log in again until it is revoked."""
    with opened(options.url) as db:
        if options.dry_run:
            one = undone(db, sessions.end, options.session_id)
            rows = table(_HEAD, [_row(one)])
            say(options, {"dry_run": True, "count": 1, "sample": [one]}, lambda: ["1 would be ended.", *rows])
            return 0
        one = db.run(sessions.end, options.session_id)
    say(options, one, lambda: [f"Ended {one.id} of {one.token_id}."])
    return 0


def _row(one: Session) -> tuple[str, ...]:
    return one.id, one.token_id, moment(one.created_at_ms), moment(one.expires_at_ms)
