"""`onefold events tail`: what happens, as it happens; to go on later, from where it ended."""

from __future__ import annotations

import argparse
import sys

import msgspec

from onefold.cli.answer import opened, say
from onefold.core.page import Page
from onefold.engine.database import Handle
from onefold.engine.tx import Tx
from onefold.messaging import events
from onefold.messaging.events import Event

PAGE_EVENTS = 500
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
