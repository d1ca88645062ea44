"""A background loop as data: what to do over and over, how often, and woken by what.

The supervisor (`onefold.runtime`) runs it: bounded, restarted with backoff, drained at the end,
one process at a time when `leased`. Correctness never depends on a loop: it only tidies,
numbers or folds, and may run twice at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Loop:
    """One loop of a block.

    Attributes:
        name: "events.sequencer"; unique among all loops.
        step: a function over tx, bounded; True says that more is waiting right now. It works
            for all spaces at once, so its SQL is marked "-- all spaces".
        every_ms: the longest rest between two steps; more means later tidying, less means load.
        topic: a wake-up that ends the rest early; None rests the whole time.
        isolation: "read_committed" for one deciding statement, "repeatable_read" for a sequencer.
        leased: one process at a time does it; the others stand by.
    """

    name: str
    step: Callable[[Any], bool]
    every_ms: int
    topic: str | None = None
    isolation: Literal["serializable", "repeatable_read", "read_committed"] = "read_committed"
    leased: bool = True
