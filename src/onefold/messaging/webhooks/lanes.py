"""A dispatcher's memory of the endpoints that it delivers to, and whose turn it is.

Each lane has limits of its own: requests at once, requests a second, and a breaker. Lanes that could go
on share the dispatcher's slots one delivery at a time, in turn; lanes whose breaker opened share half of
them at most. So whoever stalls waits for himself.
"""

from __future__ import annotations

import time
from collections import deque

from onefold.messaging.webhooks.delivering import Item, Lane
from onefold.messaging.webhooks.records import Endpoint

BREAK_AFTER = 5  # Failures in a row that are the endpoint's, not the message's; then one request at a time.
PAUSE_S_FIRST, PAUSE_S_MAX = 0.5, 60.0  # Between those; doubled each time.
RETRY_AFTER_S_MAX = 300.0  # How long an answer with Retry-After may stop the whole lane.
AHEAD_PER_SLOT = 8  # Deliveries kept here for each request at once. More: fewer reads; less: less memory.
IDLE_S = 10.0  # After this long without work a lane is given back.


class Held:
    """One lane."""

    __slots__ = (
        "endpoint", "flying", "known", "lane", "more", "next_at", "paused_until", "secrets", "streak", "until",
        "used_at", "waiting",
    )  # fmt: skip

    def __init__(self, lane: Lane, *, until: float) -> None:
        self.lane = lane
        self.until = until  # Monotonic, like all here: no request begins after that, unless the lease is renewed.
        self.endpoint: Endpoint | None = None  # None until something is fetched.
        self.secrets: list[str] = []
        self.waiting: deque[Item] = deque()
        self.known: set[str] = set()  # Messages that wait here, fly, or are not noted yet.
        self.flying = 0
        self.more = False  # The last fetch left something in the database.
        self.streak = 0
        self.paused_until = 0.0
        self.next_at = 0.0  # By the rate limit.
        self.used_at = time.monotonic()

    @property
    def broken(self) -> bool:
        """Whether the breaker is open: one request at a time, until one goes well."""
        return self.streak >= BREAK_AFTER

    def may_begin(self, now: float) -> bool:
        """Whether the lane's own limits let a request begin."""
        if self.endpoint is None or not self.waiting or not max(self.paused_until, self.next_at) <= now < self.until:
            return False
        return self.flying < (1 if self.broken else self.endpoint.concurrency)

    def begin(self, now: float) -> Item:
        """Take the next delivery."""
        assert self.endpoint is not None
        self.flying += 1
        self.used_at = now
        if self.endpoint.per_second:
            self.next_at = max(self.next_at, now - 1.0) + 1.0 / self.endpoint.per_second
        return self.waiting.popleft()

    def wants(self, now: float) -> bool:
        """Whether to fetch for it."""
        return now >= self.paused_until and len(self.waiting) * 2 <= self.ahead

    @property
    def ahead(self) -> int:
        """How many deliveries to keep here."""
        return AHEAD_PER_SLOT * (self.endpoint.concurrency if self.endpoint is not None and not self.broken else 1)

    def fill(
        self, endpoint: Endpoint, secrets: list[str], items: list[Item], *, known_before: set[str], asked: int
    ) -> None:
        """Add what was fetched, less what was known before or is known by now: it may be noted meanwhile."""
        self.endpoint, self.secrets = endpoint, secrets
        self.more = len(items) >= asked
        for item in items:
            if item.message_id not in known_before and item.message_id not in self.known:
                self.known.add(item.message_id)
                self.waiting.append(item)

    def ended(self, now: float, *, overloaded: bool, retry_after_s: float) -> None:
        """Learn from the end of a request."""
        self.flying -= 1
        self.used_at = now
        if not overloaded:
            self.streak = 0
            return
        self.streak += 1
        pause = min(retry_after_s, RETRY_AFTER_S_MAX)
        if self.broken:
            pause = max(pause, min(PAUSE_S_FIRST * 2.0 ** min(self.streak - BREAK_AFTER, 20), PAUSE_S_MAX))
        if pause > 0:
            self.paused_until = max(self.paused_until, now + pause)
            self.forget_waiting()

    def forget_waiting(self) -> None:
        """Leave to the database what has not begun: it is fetched again, as it will be then."""
        self.known.difference_update(item.message_id for item in self.waiting)
        self.more = self.more or bool(self.waiting)
        self.waiting.clear()

    def idle(self, now: float) -> bool:
        """Whether nothing has happened for a while."""
        return not self.known and not self.flying and now - self.used_at > IDLE_S and now >= self.paused_until


class Turns:
    """The lanes that have something to send, in turn; the broken ones apart."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._sound: dict[str, Held] = {}
        self._broken: dict[str, Held] = {}
        self.flying = 0
        self.flying_broken = 0

    def add(self, held: Held) -> None:
        """The lane may have something to send."""
        if held.waiting:
            (self._broken if held.broken else self._sound).setdefault(held.lane.endpoint_id, held)

    def drop(self, held: Held) -> None:
        """The lane has nothing to send any more."""
        for queue in (self._sound, self._broken):
            if queue.get(held.lane.endpoint_id) is held:
                del queue[held.lane.endpoint_id]

    def next(self, now: float) -> Held | None:
        """The lane whose turn it is, if a slot is free. Who cannot go on leaves the queue until it is added again."""
        if self.flying >= self._slots:
            return None
        for queue, free in ((self._sound, True), (self._broken, self.flying_broken < max(1, self._slots // 2))):
            while queue and free:
                endpoint_id, held = next(iter(queue.items()))
                del queue[endpoint_id]
                if held.broken and queue is self._sound:
                    self._broken[endpoint_id] = held
                elif held.may_begin(now):
                    return held
        return None
