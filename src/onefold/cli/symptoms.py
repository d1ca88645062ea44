"""What a healthy database may hold that waits for a person: dead jobs, parked events, loops that nobody runs."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Literal

import msgspec

from onefold.core.errors import OnefoldError
from onefold.engine.connect import connect
from onefold.engine.tx import Tx
from onefold.messaging import events, jobs

OVERDUE_MS = 60_000  # A due job that is not promoted for so long has no supervisor.
READ_MS = 5_000


class Finding(msgspec.Struct, frozen=True):
    """One thing looked at. `fix` is the command, or what else to do; "" when all is well."""

    check: str
    level: Literal["ok", "note", "warn", "bad"]
    text: str
    fix: str = ""


def symptoms(url: str, shown: str) -> Iterator[Finding]:
    """Ask the blocks of a database whose schema is up to date. `shown` is its URL without a password."""
    try:
        with connect(url) as db:
            dead, stuck, overdue_ms = db.options(deadline_ms=READ_MS).reader().run(_ask)
    except OnefoldError as error:
        fix = f"onefold doctor --check --url {_quoted(shown)}"
        yield Finding("blocks", "warn", f"they do not answer: {error}", fix)
        return
    at = f"--url {_quoted(shown)}"
    for found in dead:
        least = "at least " if found.at_least else ""
        where = f" --space {_quoted(found.space_name)}" if found.space_name else ""
        yield Finding(
            "dead jobs", "warn", f"{least}{found.count:,} of {found.kind} in the space {found.space_name!r}",
            f"onefold jobs ls --state dead --kind {found.kind}{where} {at}; then the same with "
            f"onefold jobs retry, or purge, --kind {found.kind} --dry-run",
        )  # fmt: skip
    if not dead:
        yield Finding("dead jobs", "ok", "none")
    for row in stuck:
        where = f" --space {_quoted(row.space_name)}" if row.space_name else ""
        yield Finding(
            "parked events", "warn", f"{row.parked:,} of the subscription {row.name!r} in the space {row.space_name!r}",
            f"mend its handler, then onefold events retry-parked {_quoted(row.name)}{where} {at}, or drop-parked "
            "with --stream; which: /dashboard/streams, or GET /v1/events/parked",
        )  # fmt: skip
    if not stuck:
        yield Finding("parked events", "ok", "none")
    if overdue_ms > OVERDUE_MS:
        yield Finding(
            "loops", "warn", f"a scheduled job is due for {overdue_ms // 1_000} s and was not promoted: no loops run",
            f"onefold serve {at} (without --no-loops), or a Supervisor in your program",
        )  # fmt: skip
    else:
        yield Finding("loops", "ok", "no scheduled job is overdue")


def _ask(tx: Tx) -> tuple[list[jobs.DeadLetters], list[events.Stuck], int]:
    census = jobs.census(tx)
    soonest = [found.oldest_ms for found in census if found.state == "scheduled"]
    return jobs.dead_letters(tx), events.stuck(tx), tx.now_ms - min(soonest, default=tx.now_ms)


def _quoted(text: str) -> str:
    return shlex.quote(text)
