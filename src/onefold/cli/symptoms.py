"""What a healthy database may hold that waits for a person: dead jobs, parked events, receivers, idle loops."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Literal

import msgspec

from onefold.cli.answer import moment
from onefold.core.errors import OnefoldError
from onefold.engine.connect import connect
from onefold.engine.tx import Tx
from onefold.messaging import events, jobs, webhooks

OVERDUE_MS = 60_000  # A due job that is not promoted for so long has no supervisor.
READ_MS = 5_000
FAILING_MS = 300_000  # An endpoint of webhooks that fails, or waits, for so long is told.
ENDPOINTS_LOOKED_MAX = 1_000
ENDPOINTS_SHOWN_MAX = 10


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
            dead, stuck, troubles, overdue_ms = db.options(deadline_ms=READ_MS).reader().run(_ask)
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
    for row in troubles[:ENDPOINTS_SHOWN_MAX]:
        yield _receiver(row, at)
    if not troubles:
        yield Finding("webhooks", "ok", "no endpoint fails or waits")
    if overdue_ms > OVERDUE_MS:
        yield Finding(
            "loops", "warn", f"a scheduled job is due for {overdue_ms // 1_000} s and was not promoted: no loops run",
            f"onefold serve {at} (without --no-loops), or a Supervisor in your program",
        )  # fmt: skip
    else:
        yield Finding("loops", "ok", "no scheduled job is overdue")


def _receiver(row: webhooks.Trouble, at: str) -> Finding:
    where = f" --space {_quoted(row.space_name)}" if row.space_name else ""
    who = f"{row.url} in the space {row.space_name!r}"
    look = f"onefold webhooks attempts {row.endpoint_id}{where} {at}"
    if row.disabled_why is not None:
        fix = f"{look}; then onefold webhooks enable {row.endpoint_id}{where} {at}, and replay what was sent meanwhile"
        return Finding("webhooks", "warn", f"{who} is disabled, as {row.disabled_why}", fix)
    if row.failing_since_ms is not None:
        return Finding("webhooks", "warn", f"{who} fails since {moment(row.failing_since_ms)} UTC", look)
    text = f"messages for {who} wait since {moment(row.due_at_ms)} UTC: nobody delivers, or not fast enough"
    return Finding("webhooks", "warn", text, "a webhooks.Dispatcher in your program, or more of them")


def _ask(tx: Tx) -> tuple[list[jobs.DeadLetters], list[events.Stuck], list[webhooks.Trouble], int]:
    census = jobs.census(tx)
    soonest = [found.oldest_ms for found in census if found.state == "scheduled"]
    troubles = webhooks.troubles(tx, by_ms=FAILING_MS, limit=ENDPOINTS_LOOKED_MAX)
    return jobs.dead_letters(tx), events.stuck(tx), troubles, tx.now_ms - min(soonest, default=tx.now_ms)


def _quoted(text: str) -> str:
    return shlex.quote(text)
