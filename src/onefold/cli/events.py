"""`onefold events tail | retry-parked | drop-parked`: what happens, and what a subscription could not handle."""

from __future__ import annotations

import argparse
import sys

import msgspec

from onefold.cli.answer import opened, say
from onefold.core.page import Page
from onefold.engine.database import Handle
from onefold.engine.tx import Tx
from onefold.messaging import events
from onefold.messaging.events import Event, Parked

PAGE_EVENTS = 500
SAMPLE_EVENTS = 10  # Shown by --dry-run.
POLL_S = 0.5  # Wake-ups are hints; this often it looks by itself.


def tail(options: argparse.Namespace) -> int:
    """Print events by position, live until Ctrl-C, or to the end of what there is."""
    with opened(options.url) as db:
        handle = db.at(options.space)
        waiter = db.waiter("events")
        at = options.after
        if at is None:
            at = handle.reader().run(events.head)
        try:
            while True:
                at, more = _print_page(options, handle, at)
                if more:
                    continue
                if not options.follow:
                    return 0
                waiter.wait(POLL_S)
        except KeyboardInterrupt:
            if not options.json:
                print(f"To go on: onefold events tail --after {at}", file=sys.stderr)
            raise
        finally:
            waiter.close()


def drop_parked(options: argparse.Namespace) -> int:
    """Give up the parked events of one stream; the subscription goes on with those that follow."""
    with opened(options.url) as db:
        handle = db.at(options.space)
        if options.dry_run:
            found = handle.reader().run(_parked, options.name, options.stream)
            shown = found[:SAMPLE_EVENTS]
            lines = [f"{len(found):,} would be dropped.", *(f"{one.position}: {one.error}" for one in shown)]
            say(options, {"dry_run": True, "count": len(found), "sample": shown}, lambda: lines)
            return 0
        count = handle.run(events.drop_parked, options.name, stream=options.stream)
    say(options, {"dropped": count}, lambda: [f"{count:,} dropped."])
    return 0


def retry_parked(options: argparse.Namespace) -> int:
    """Have the subscription try its parked events again; whoever runs it does."""
    with opened(options.url) as db:
        count = db.at(options.space).run(events.request_retry, options.name, stream=options.stream)
    said = f"Asked for {count:,} streams: the subscription tries them in its next steps, wherever it runs."
    say(options, {"streams": count}, lambda: [said])
    return 0


def _parked(tx: Tx, name: str, stream: str) -> list[Parked]:
    found: list[Parked] = []
    after: str | None = None
    while True:
        page = events.list_parked(tx, name, after=after or 0, limit=PAGE_EVENTS)
        found += [one for one in page.items if one.stream == stream]
        if (after := page.after) is None:
            return found


def _print_page(options: argparse.Namespace, handle: Handle, at: int) -> tuple[int, bool]:
    page: Page[Event] = handle.reader().run(_read, options.category, after=at)
    for event in page.items:
        say(options, event, lambda event=event: [_line(event)])
        at = event.position or at
    return at, page.after is not None


def _read(tx: Tx, category: str | None, *, after: int) -> Page[Event]:
    if category is None:
        return events.read_all(tx, after=after, limit=PAGE_EVENTS)
    return events.read_category(tx, category, after=after, limit=PAGE_EVENTS)


def _line(event: Event) -> str:
    return f"{event.position}  {event.id}  {event.kind}  {msgspec.json.encode(event.data).decode()}"
