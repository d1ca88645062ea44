"""`onefold webhooks ls | create | attempts | failed | pending | replay | rotate | enable | disable | delete`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from onefold.cli.answer import moment, opened, say, table
from onefold.cli.progress import Progress
from onefold.cli.undone import undone
from onefold.core.errors import Invalid
from onefold.core.page import Page
from onefold.engine.database import Handle
from onefold.messaging import webhooks

T = TypeVar("T")

STEP_MESSAGES = 500  # Replayed in one transaction.
SAMPLE_MESSAGES = 10  # Shown by --dry-run.
DETAIL_SHOWN_CHARS = 60


def ls(options: argparse.Namespace) -> int:
    """One page of endpoints."""
    with opened(options.url) as db:
        page = db.at(options.space).reader().run(webhooks.list_endpoints, after=options.after, limit=options.limit)

    def row(one: webhooks.Endpoint) -> tuple[str, ...]:
        since = one.failing_since_ms if one.disabled_at_ms is None else one.disabled_at_ms
        state = "disabled" if one.disabled_at_ms is not None else "ok" if since is None else "failing"
        return one.id, one.url, ",".join(one.types) or "all", state, moment(since), one.disabled_why or ""

    return _paged(options, page, ("ID", "URL", "TYPES", "STATE", "SINCE", "WHY"), row)


def create(options: argparse.Namespace) -> int:
    """Make an endpoint, with the newest key of a file, and show its secret, once."""
    keys = webhooks.Keys.open(options.keys)
    with opened(options.url) as db:
        made = db.at(options.space).run(
            webhooks.create, options.to, key_id=keys.newest, types=tuple(options.types),
            concurrency=options.concurrency, per_second=options.per_second,
        )  # fmt: skip
    secret = keys.secrets_of(made, now_ms=made.created_at_ms)[0]
    say(
        options, {"id": made.id, "url": made.url, "key_id": made.key_id, "secret": secret},
        lambda: [made.id, secret, "Give the secret to the receiver; no command shows it again."],
    )  # fmt: skip
    return 0


def attempts(options: argparse.Namespace) -> int:
    """One page of what was tried."""

    def row(one: webhooks.Attempt) -> tuple[str, ...]:
        status = "" if one.status is None else str(one.status)
        detail = one.detail.partition("\n")[0][:DETAIL_SHOWN_CHARS]
        return one.message_id, str(one.attempt), one.outcome, status, f"{one.took_ms} ms", moment(one.at_ms), detail

    head = ("MESSAGE", "ATTEMPT", "OUTCOME", "STATUS", "TOOK", "AT", "DETAIL")
    return _of_endpoint(options, webhooks.list_attempts, head, row)


def failed(options: argparse.Namespace) -> int:
    """One page of what was given up."""
    return _of_endpoint(
        options, webhooks.list_failed, ("MESSAGE", "TYPE", "GIVEN UP"),
        lambda one: (one.message_id, one.type or "(gone)", moment(one.failed_at_ms)),
    )  # fmt: skip


def pending(options: argparse.Namespace) -> int:
    """One page of what waits or is on its way."""
    return _of_endpoint(
        options, webhooks.list_pending, ("MESSAGE", "NOT BEFORE", "ATTEMPT", "FAILURES"),
        lambda one: (one.message_id, moment(one.at_ms), str(one.attempt), str(one.failures)),
    )  # fmt: skip


def replay(options: argparse.Namespace) -> int:
    """Deliver again: the messages named, what was given up, or what was sent in a time."""
    ways = (bool(options.messages), options.failed, options.since is not None or options.until is not None)
    if sum(ways) != 1 or (options.since is None) != (options.until is None):
        raise Invalid("Say which: ids of messages, or --failed, or --since and --until.")
    with opened(options.url) as db:
        handle = db.at(options.space)
        if options.dry_run:
            return _dry(options, handle)
        with Progress(options) as tell:
            done = 0
            for count in _replayed(options, handle):
                done += count
                tell("replaying", done, len(options.messages))
    say(options, {"replayed": done}, lambda: [f"{done:,} replayed."])
    return 0


def _replayed(options: argparse.Namespace, handle: Handle) -> Any:
    """Step by step, each a transaction."""
    if options.messages:
        for message_id in options.messages:
            handle.run(webhooks.replay, options.endpoint_id, message_id=message_id)
            yield 1
    elif options.failed:
        while count := handle.run(webhooks.replay_failed, options.endpoint_id, limit=STEP_MESSAGES):
            yield count
    else:
        yield from map(len, _in_time(options, handle, webhooks.replay_range))


def _in_time(options: argparse.Namespace, handle: Handle, fn: Callable[..., Page[str]]) -> Iterator[list[str]]:
    """What was sent from --since until --until, page by page, as `fn` answers it."""
    after = None
    while True:
        page = handle.run(
            fn, options.endpoint_id, since_ms=options.since, until_ms=options.until, after=after, limit=STEP_MESSAGES
        )
        yield page.items
        if (after := page.after) is None:
            return


def _dry(options: argparse.Namespace, handle: Handle) -> int:
    sample: Sequence[str] = options.messages
    more = False
    for message_id in sample:
        undone(handle, webhooks.replay, options.endpoint_id, message_id=message_id)
    if options.since is not None:
        with Progress(options) as tell:
            found: list[str] = []
            for page in _in_time(options, handle.reader(), webhooks.list_range):
                found += page
                tell("found", len(found), 0)
        sample = found
    elif options.failed:
        handle.reader().run(webhooks.list_range, options.endpoint_id, since_ms=0, until_ms=0)  # It may be disabled.
        page = handle.reader().run(webhooks.list_failed, options.endpoint_id, limit=1_000)
        sample, more = [one.message_id for one in page.items], page.after is not None
    least = "at least " if more else ""
    say(
        options, {"dry_run": True, "count": len(sample), "at_least": more, "sample": sample[:SAMPLE_MESSAGES]},
        lambda: [f"{least}{len(sample):,} would be replayed.", *sample[:SAMPLE_MESSAGES]],
    )  # fmt: skip
    return 0


def enable(options: argparse.Namespace) -> int:
    """Let messages go to an endpoint again."""
    with opened(options.url) as db:
        made = db.at(options.space).run(webhooks.enable, options.endpoint_id)
    say(options, made, lambda: [f"{made.id} enabled."])
    return 0


def rotate(options: argparse.Namespace) -> int:
    """Give an endpoint a new secret, from the newest key of a file, and show it, once."""
    keys = webhooks.Keys.open(options.keys)
    with opened(options.url) as db:
        made = db.at(options.space).run(
            webhooks.rotate, options.endpoint_id, key_id=keys.newest, overlap_ms=options.overlap_ms
        )
    secret = keys.secrets_of(made, now_ms=made.old_until_ms or 0)[0]
    say(
        options, {"id": made.id, "key_id": made.key_id, "secret": secret, "old_until_ms": made.old_until_ms},
        lambda: [secret, f"Give it to the receiver. The one before signs beside it until {moment(made.old_until_ms)}."],
    )  # fmt: skip
    return 0


def disable(options: argparse.Namespace) -> int:
    """Send nothing to an endpoint until it is enabled."""
    with opened(options.url) as db:
        made = db.at(options.space).run(webhooks.disable, options.endpoint_id, why=options.reason)
    say(options, made, lambda: [f"{made.id} disabled."])
    return 0


def delete(options: argparse.Namespace) -> int:
    """Remove an endpoint for good."""
    with opened(options.url) as db:
        handle = db.at(options.space)
        one = handle.reader().run(webhooks.get, options.endpoint_id)
        waits = handle.reader().run(webhooks.backlog, options.endpoint_id).waiting
        if not options.dry_run:
            handle.run(webhooks.delete, options.endpoint_id)
    what = "would be deleted" if options.dry_run else "deleted"
    many = f"{min(waits, webhooks.BACKLOG_MAX):,}{'+' if waits > webhooks.BACKLOG_MAX else ''}"
    said = {"dry_run": options.dry_run, "id": one.id, "url": one.url, "waiting": waits}
    say(options, said, lambda: [f"{one.id} ({one.url}) {what}; {many} messages waited for it."])
    return 0


def _of_endpoint(
    options: argparse.Namespace, read: Callable[..., Page[T]], head: Sequence[str], row: Callable[[T], tuple[str, ...]]
) -> int:
    with opened(options.url) as db:
        reader = db.at(options.space).reader()
        page = reader.run(read, options.endpoint_id, after=options.after, limit=options.limit)
    return _paged(options, page, head, row)


def _paged(
    options: argparse.Namespace, page: Page[T], head: Sequence[str], row: Callable[[T], tuple[str, ...]]
) -> int:
    more = [f"More: --after {page.after}"] if page.after is not None else []
    say(options, page, lambda: [*table(head, [row(one) for one in page.items]), *more])
    return 0
