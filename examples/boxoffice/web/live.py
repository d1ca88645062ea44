"""The seat maps that people watch: one reader for each show in a process, however many look on.

The reader is woken by "booking/SHOW" and asks for what changed; viewers take from what it has,
each at most five times a second, and none has a queue that could grow: a slow one gets the latest.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import MutableMapping
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from onefold import Database, OnefoldError, Retry, booking

VIEWERS_MAX = 500
FEEDS_MAX = 200
FRESH_S = 0.25  # A map that was read within this time serves all who ask.
PACE_S = 0.2
POLL_S = 2.0  # Behind the wake-ups, which may be lost; holds lapse without one.
HEARTBEAT_S = 15.0
LIFE_S = 900.0  # Then the browser comes again.

_encode = msgspec.json.Encoder().encode


class Feed:
    """What one show looks like, and what changed when."""

    def __init__(self, db: Database, show_id: str) -> None:
        self._reader = db.reader()
        self._db = db
        self.show_id = show_id
        self.rows: dict[int, booking.RowMap] = {}
        self.counts = (0, 0, 0)
        self.step = 0
        self.viewers = 0
        self.read_at = 0.0
        self._changed: dict[int, int] = {}
        self._version: str | None = None
        self._moved = asyncio.Event()
        self._reading = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def fresh(self) -> None:
        """Make sure that the map is at most `FRESH_S` old; one reads, the others wait for it."""
        if time.monotonic() - self.read_at <= FRESH_S:
            return
        async with self._reading:
            if time.monotonic() - self.read_at > FRESH_S:
                await self._read()

    async def moved(self, step: int) -> None:
        """Wait until something changed since `step`."""
        while self.step == step:
            await self._moved.wait()

    def whole(self) -> dict[str, Any]:
        """Everything, as viewers get it."""
        return self._message(self.rows, whole=True)

    def since(self, step: int) -> dict[str, Any]:
        """The rows that changed after `step`."""
        rows = {number: self.rows[number] for number, at in self._changed.items() if at > step}
        return self._message(rows, whole=False)

    def watch(self) -> None:
        """Somebody looks on: keep reading."""
        self.viewers += 1
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._follow())

    def unwatch(self) -> None:
        """Somebody left; nobody reads for nobody."""
        self.viewers -= 1
        if self.viewers == 0 and self._task is not None:
            self._task.cancel()
            self._task = None

    async def _follow(self) -> None:
        waiter = self._db.waiter(f"booking/{self.show_id}")
        try:
            while True:
                await waiter.await_(POLL_S)
                try:
                    async with self._reading:
                        await self._read()
                except OnefoldError:  # The database is away; viewers keep what they have.
                    await asyncio.sleep(POLL_S)
                await asyncio.sleep(PACE_S / 2)
        finally:
            waiter.close()

    async def _read(self) -> None:
        if self._version is None:
            found = await self._reader.arun(booking.seat_map, self.show_id)
        else:
            found = await self._reader.arun(booking.seat_map_since, self.show_id, version=self._version)
        self._version = found.version
        self.read_at = time.monotonic()
        counts = (found.free, found.held, found.sold)
        changed = {row.row: row for row in found.rows if self.rows.get(row.row) != row}
        if not changed and counts == self.counts:
            return
        self.step += 1
        self.counts = counts
        for number, row in changed.items():
            self.rows[number] = row
            self._changed[number] = self.step
        self._moved.set()
        self._moved = asyncio.Event()

    def _message(self, rows: dict[int, booking.RowMap], *, whole: bool) -> dict[str, Any]:
        free, held, sold = self.counts
        seats = {number: row.seats for number, row in rows.items()}
        return {"whole": whole, "free": free, "held": held, "sold": sold, "rows": seats}


class Live:
    """All feeds of a process."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._feeds: dict[str, Feed] = {}
        self._viewers = 0
        self._end = asyncio.Event()

    async def map_of(self, show_id: str) -> Feed:
        """The show's feed, fresh; NotFound when there is no such show."""
        feed = self._feeds.get(show_id) or Feed(self._db, show_id)
        await feed.fresh()
        if show_id not in self._feeds:
            feed = self._kept(feed)
        return feed

    def close(self) -> None:
        """End all streams; browsers come again, elsewhere."""
        self._end.set()

    async def stream(self, show_id: str, receive: Receive, send: Send) -> None:
        """Answer one request with the map and then what changes, until the viewer goes.

        Raises:
            NotFound: there is no such show.
            Retry: too many look on already.
        """
        if self._viewers >= VIEWERS_MAX:
            raise Retry("Too many viewers.", code="viewers", retry_after_ms=5_000, most=VIEWERS_MAX)
        self._viewers += 1
        try:
            feed = await self.map_of(show_id)
            feed.watch()
            try:
                await self._until_gone(self._send(feed, send), receive)
            finally:
                feed.unwatch()
        finally:
            self._viewers -= 1

    def _kept(self, feed: Feed) -> Feed:
        if len(self._feeds) >= FEEDS_MAX:
            idle = [name for name, known in self._feeds.items() if known.viewers == 0]
            for name in sorted(idle, key=lambda name: self._feeds[name].read_at)[: FEEDS_MAX // 4]:
                del self._feeds[name]
        return self._feeds.setdefault(feed.show_id, feed)

    async def _send(self, feed: Feed, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _EVENT_STREAM})
        step = feed.step
        await _event(send, b"retry: 2000\n\n")
        await _event(send, _frame(feed.whole()))
        until = time.monotonic() + LIFE_S
        while time.monotonic() < until:
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    await feed.moved(step)
            except TimeoutError:
                await _event(send, b": still here\n\n")
                continue
            news, step = feed.since(step), feed.step
            await _event(send, _frame(news))
            await asyncio.sleep(PACE_S)

    async def _until_gone(self, sending: Any, receive: Receive) -> None:
        """Send until it ends, the viewer goes, or the server does."""
        tasks: list[asyncio.Future[Any]] = [
            asyncio.ensure_future(sending),
            asyncio.ensure_future(_gone(receive)),
            asyncio.ensure_future(self._end.wait()),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


class EventStream:
    """The response of the live route, for Starlette."""

    def __init__(self, live: Live, show_id: str) -> None:
        self._live = live
        self._show_id = show_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        del scope
        await self._live.stream(self._show_id, receive, send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


_EVENT_STREAM = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


def _frame(message: dict[str, Any]) -> bytes:
    return b"event: seats\ndata: " + _encode(message) + b"\n\n"


async def _event(send: Send, body: bytes) -> None:
    message: MutableMapping[str, Any] = {"type": "http.response.body", "body": body, "more_body": True}
    await send(message)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
