"""How much of each kind a worker ended within the last minute; its heartbeat writes that down, for people."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from onefold.core import codec

SPAN_S = 60.0
KINDS_MAX = 200  # Of one worker that are noted; those of which it ended most.

Ended = tuple[int, int]  # Finished and failed.


class Rates:
    """Counts that only grow, and what they were at the beats of the last minute. Counted on a worker's loop."""

    def __init__(self, kinds: Iterable[str], now_s: float) -> None:
        self.finished = dict.fromkeys(kinds, 0)
        self.failed = dict(self.finished)
        self._past = deque([(now_s, self._counts())])

    def of_last_minute(self, now_s: float) -> dict[str, Ended]:
        """By kind, without those of which nothing ended; at most `KINDS_MAX`. To be asked again and again."""
        counts = self._counts()
        while len(self._past) > 1 and self._past[1][0] <= now_s - SPAN_S:
            self._past.popleft()
        began_s, before = self._past[0]
        self._past.append((now_s, counts))
        # Beats do not come by the minute: from a little more than one its share, from less all of it.
        share = SPAN_S / max(SPAN_S, now_s - began_s)
        found = {
            kind: (round((finished - before[kind][0]) * share), round((failed - before[kind][1]) * share))
            for kind, (finished, failed) in counts.items()
        }
        most = sorted(found.items(), key=lambda one: -sum(one[1]))[:KINDS_MAX]
        return {kind: ended for kind, ended in most if any(ended)}

    def _counts(self) -> dict[str, Ended]:
        return {kind: (finished, self.failed[kind]) for kind, finished in self.finished.items()}


def as_text(rates: dict[str, Ended]) -> str:
    """As it is stored."""
    return codec.encode(rates)


def of_text(stored: str) -> dict[str, Ended]:
    """As it was stored."""
    return codec.decode(stored, dict[str, tuple[int, int]])
