"""Server-sent events: a list of events that a client follows as it grows.

Ask for a route of `FOLLOWED` with Accept: text/event-stream. Each event's id is the cursor after it,
so who reconnects with Last-Event-ID, as browsers do by themselves, misses none and gets none twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

import msgspec

from onefold.core.errors import OnefoldError, Retry
from onefold.core.page import Page
from onefold.engine.database import Handle
from onefold.engine.wake import Waiter
from onefold.messaging import events
from onefold.server.problems import Headers, Refused

_log = logging.getLogger("onefold.http")

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Cursor = Callable[[events.Event], int | None]

HEARTBEAT_S = 15.0  # Shorter than what proxies take for silence.
POLL_S = 1.0  # Behind the wake-ups, which may be lost.
RECHECK_S = 5.0  # A revoked token's streams end after this and the time that a token is trusted.
LIFE_S = 900.0  # Then the client comes again: under a server that cannot drain, none lives for ever.
SEND_S_MAX = 30.0  # For a client that does not read.
LAST_EVENT_ID_LENGTH_MAX = 20
TOPIC = "events"

#: Which functions can be followed, and what stands in an event's id.
FOLLOWED: dict[Callable[..., Any], Cursor] = {
    events.read_all: lambda event: event.position,
    events.read_category: lambda event: event.position,
    events.read_stream: lambda event: event.version,
}

_HEADERS: Headers = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-accel-buffering", b"no"),  # Or nginx keeps events to itself.
]

_encode = msgspec.json.Encoder().encode


class Feed:
    """One subscriber: what it follows, and whether it still may."""

    def __init__(
        self, reader: Handle, fn: Callable[..., Page[events.Event]], arguments: dict[str, Any],
        still: Callable[[], Awaitable[object]],
    ) -> None:
        """Prepare; nothing is read yet.

        Args:
            reader: of the caller's space.
            fn: one of `FOLLOWED`.
            arguments: for it; `after` moves on with what was sent.
            still: raises once the caller's token has ended.
        """
        self._reader = reader
        self._fn = fn
        self._cursor = FOLLOWED[fn]
        self._arguments = arguments
        self._still = still
        self.waiter: Waiter = reader.waiter(TOPIC)
        self.ended = False

    def end(self) -> None:
        """Stop soon; from the loop's thread."""
        self.ended = True
        self.waiter.wake()

    async def page(self) -> Page[events.Event]:
        """What comes next; `after` moves on."""
        page = await self._reader.arun(self._fn, **self._arguments)
        if page.items:
            self._arguments["after"] = self._cursor(page.items[-1])
        return page

    async def run(self, first: Page[events.Event], send: Callable[[bytes], Awaitable[None]]) -> None:
        """Send pages until the end."""
        page: Page[events.Event] | None = first
        over = time.monotonic() + LIFE_S
        quiet_since = checked = time.monotonic()
        while not self.ended and time.monotonic() < over:
            if page is not None and page.items:
                await send(b"".join(map(self._told, page.items)))
                quiet_since = time.monotonic()
            if page is None or page.after is None:
                await self.waiter.await_(POLL_S)
            now = time.monotonic()
            if now >= checked + RECHECK_S:
                await self._still()
                checked = now
            if now >= quiet_since + HEARTBEAT_S:
                await send(b":\n\n")
                quiet_since = now
            try:
                page = None if self.ended else await self.page()
            except Retry as error:
                _log.info("an event stream waits: %s", error)
                page = None

    def _told(self, event: events.Event) -> bytes:
        # Line breaks outside of strings mean nothing in JSON and would end the field here.
        return b"id: %d\ndata: %b\n\n" % (self._cursor(event), _encode(event).replace(b"\n", b" ").replace(b"\r", b" "))


class Source(Protocol):
    """What a stream is fed from: `Feed`, or a page of the dashboard."""

    waiter: Waiter

    def end(self) -> None:
        """Stop soon; from the loop's thread."""

    async def page(self) -> Any:
        """What comes first; raises what the request is refused with."""

    async def run(self, first: Any, send: Callable[[bytes], Awaitable[None]]) -> None:
        """Send until the end."""


class Streams:
    """All open streams of a process."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: set[Source] = set()

    @property
    def count(self) -> int:
        """How many are open."""
        return len(self._open)

    def close(self) -> None:
        """End all streams; clients come again, elsewhere."""
        for feed in self._open:
            feed.end()

    async def serve(self, feed: Source, receive: Receive, send: Send) -> None:
        """Send until the client goes, the server drains, or `LIFE_S` is over.

        Raises:
            Refused: 503; too many are open.
            Whatever the first read raises: nothing was sent then.
        """
        try:
            if len(self._open) >= self._most:
                raise Refused(
                    503, "subscribers", "Too many event streams are open.", headers=[(b"retry-after", b"5")],
                    facts={"most": self._most},
                )
            self._open.add(feed)
            first = await feed.page()
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            watch = asyncio.get_running_loop().create_task(_until_gone(feed, receive))
            try:
                await self._run(feed, first, send)
            finally:
                watch.cancel()
        finally:
            self._open.discard(feed)
            feed.waiter.close()

    async def _run(self, feed: Source, first: Any, send: Send) -> None:
        async def chunk(data: bytes) -> None:
            async with asyncio.timeout(SEND_S_MAX):
                await send({"type": "http.response.body", "body": data, "more_body": True})

        try:
            await chunk(b"retry: 1000\n\n")
            await feed.run(first, chunk)
        except (OnefoldError, Refused) as error:  # The status is out; the client learns it when it comes again.
            _log.info("an event stream ended: %s", error)
        except TimeoutError:
            _log.info("an event stream ended: its client does not read")
        with contextlib.suppress(OSError):
            await send({"type": "http.response.body", "body": b""})


async def _until_gone(feed: Source, receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    feed.end()


def last_event_id(raw: bytes) -> int:
    """The cursor that a reconnecting client sends."""
    if not (raw.isdigit() and len(raw) <= LAST_EVENT_ID_LENGTH_MAX):
        raise Refused(400, "last_event_id", "Last-Event-ID is not one of ours.")
    return int(raw)
