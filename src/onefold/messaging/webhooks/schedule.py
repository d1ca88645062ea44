"""When a failed delivery is tried again, and what an answer means."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from random import Random

# After the first, second, ... failure; then the message is given up, about three days after it was sent.
# The schedule that Standard Webhooks suggests.
SCHEDULE_MS = (
    5_000, 300_000, 1_800_000, 7_200_000, 18_000_000, 36_000_000, 50_400_000, 72_000_000, 86_400_000,
)  # fmt: skip
ATTEMPTS_MAX = len(SCHEDULE_MS) + 1
JITTER_PERCENT = 20  # To either side: what failed together does not come back together.
RETRY_AFTER_MS_MAX = 86_400_000
DISABLE_AFTER_MS = 5 * 86_400_000  # Of failures without one success in between.

GONE = 410
WHY_GONE = "it answered 410"
WHY_FAILING = "it failed for five days"
DISABLED_BY_ITSELF = frozenset((WHY_GONE, WHY_FAILING))  # Reasons that no person gave.
# Answers of somebody who is overloaded or away, rather than displeased with this message.
OVERLOADED = frozenset({408, 425, 429, 500, 502, 503, 504})

_SECONDS = re.compile(r"[0-9]{1,9}", re.ASCII)


def pause_ms(failures: int, retry_after_ms: int, random: Random) -> int | None:
    """How long to wait after the given number of failures, 1 or more; None: give it up.

    What the receiver asked for is waited for, up to a day, when it is longer than the schedule's pause.
    """
    if failures >= ATTEMPTS_MAX:
        return None
    pause = SCHEDULE_MS[failures - 1]
    spread = pause * JITTER_PERCENT // 100
    return max(pause + random.randint(-spread, spread), min(retry_after_ms, RETRY_AFTER_MS_MAX))


def retry_after_ms(value: str | None, *, now_ms: int) -> int:
    """What a header `Retry-After` asks for, 0 to a day; 0 when it is absent or unreadable."""
    if value is None:
        return 0
    text = value.strip()
    if _SECONDS.fullmatch(text):
        return min(int(text) * 1_000, RETRY_AFTER_MS_MAX)
    try:
        at = parsedate_to_datetime(text[:64])
    except (ValueError, TypeError, OverflowError):
        return 0
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    left_s = (at - datetime.fromtimestamp(now_ms / 1_000, UTC)).total_seconds()
    return min(max(0, int(left_s * 1_000)), RETRY_AFTER_MS_MAX)
