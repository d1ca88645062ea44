"""What the fake provider does by itself: callbacks, signed, told again until they are taken; and late successes."""

from __future__ import annotations

import heapq
import http.client
import itertools
import threading
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from onefold.products.payments import signature

TRIES_MAX = 600  # Of one callback: ten minutes of a shop that is down. Real ones go on for days.
TRY_AGAIN_S_FIRST, TRY_AGAIN_S_MAX = 0.05, 1.0
TIMEOUT_S = 5.0


class Later:
    """A thread that does things at their time; one at a time, so that order is what the times say."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._busy = False
        self._thread = threading.Thread(target=self._run, name="fake-provider-later", daemon=True)
        self._thread.start()

    def put(self, do: Callable[[], object], *, after_s: float = 0.0) -> None:
        """Do it then, on the thread."""
        with self._changed:
            heapq.heappush(self._heap, (time.monotonic() + after_s, next(self._numbers), do))
            self._changed.notify()

    def waiting(self) -> int:
        """How many things are not done yet."""
        with self._changed:
            return len(self._heap) + self._busy

    def _run(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                while not self._heap or self._heap[0][0] > time.monotonic():
                    self._changed.wait(self._heap[0][0] - time.monotonic() if self._heap else None)
                _, _, do = heapq.heappop(self._heap)
                self._busy = True
            do()


class Callbacks:
    """Tells one URL, at least once each time."""

    def __init__(self, later: Later, secret: bytes) -> None:
        self._later = later
        self._secret = secret
        self.url = ""
        self.told = 0
        self.given_up = 0

    def tell(self, event_id: str, body: bytes, *, after_s: float = 0.0, tries: int = 0) -> None:
        """Send it, and again when nobody takes it."""
        if self.url:
            self._later.put(lambda: self._send(event_id, body, tries), after_s=after_s)

    def _send(self, event_id: str, body: bytes, tries: int) -> None:
        if self._taken(event_id, body):
            self.told += 1
        elif tries + 1 < TRIES_MAX:
            self.tell(event_id, body, after_s=min(TRY_AGAIN_S_FIRST * 2**tries, TRY_AGAIN_S_MAX), tries=tries + 1)
        else:
            self.given_up += 1

    def _taken(self, event_id: str, body: bytes) -> bool:
        parts = urlsplit(self.url)
        stamp = str(int(time.time()))
        headers = {
            "Content-Type": "application/json", "webhook-id": event_id, "webhook-timestamp": stamp,
            "webhook-signature": signature(self._secret, event_id, stamp, body),
        }  # fmt: skip
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
        try:
            connection.request("POST", parts.path or "/", body, headers)
            return 200 <= connection.getresponse().status < 300
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
