"""What befalls a program, and how often."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, fields, replace
from itertools import accumulate
from random import Random
from typing import Self

from onefold.core.errors import Invalid

PAUSE_MS_MAX = 86_400_000
STEP_MS_MAX = 86_400_000


@dataclass(frozen=True, slots=True)
class Faults:
    """The chance of each fault, from 0 to 1: per transaction where nothing else is said.

    Attributes:
        crash_before: the process dies when the function has run and its COMMIT has not.
        crash_after: it dies when the COMMIT is done and nobody was told.
        unknown: the caller gets Unknown; half of these transactions are committed, half are not.
        refused: the caller gets Retry; nothing was written.
        again: the function is run, undone and run again, as after a conflict. On PostgreSQL the server's own
            conflicts do so instead.
        pause: the process stands still before the transaction, for 1 to `pause_ms` milliseconds; on PostgreSQL
            with the same chance before each statement as well.
        clock_step: the clock of the process jumps by up to `clock_step_ms`, either way. Within one life of the
            process the engine waits a step back out.
        late_reply: others may go on between the COMMIT and its answer.
        lost_wake: per wake-up and waiter; it never comes.
        late_wake: the same; it comes up to `late_wake_ms` late.
        pause_ms: the longest pause; short and long ones are equally likely.
        lease_ms: how long leases of the program run; half of the pauses end within a millisecond of one of them.
        clock_step_ms: the longest step.
        drift_ppm: how much faster or slower the clocks of processes run at most, in millionths.
        late_wake_ms: the latest wake-up.
        restart_ms: a process that died begins anew after 1 to so many milliseconds.
        crashes_max: how often one client dies at most, in one run.
    """

    crash_before: float = 0.01
    crash_after: float = 0.01
    unknown: float = 0.02
    refused: float = 0.01
    again: float = 0.03
    pause: float = 0.03
    clock_step: float = 0.01
    late_reply: float = 0.2
    lost_wake: float = 0.1
    late_wake: float = 0.1
    pause_ms: int = 60_000
    lease_ms: tuple[int, ...] = ()
    clock_step_ms: int = 5_000
    drift_ppm: int = 200
    late_wake_ms: int = 5_000
    restart_ms: int = 2_000
    crashes_max: int = 3

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "float" and not 0 <= value <= 1:
                raise Invalid("A chance lies between 0 and 1.", code="faults", name=field.name, given=value)
            if field.type == "int" and (type(value) is not int or not 0 <= value <= PAUSE_MS_MAX):
                raise Invalid("A length lies between 0 and a day.", code="faults", name=field.name, given=value)
        if sum(self.chances()) > 1:
            raise Invalid("The chances of what may befall one transaction add up to 1 at most.", code="faults")
        if any(type(ms) is not int or not 1 <= ms <= PAUSE_MS_MAX for ms in self.lease_ms):
            raise Invalid("A lease lasts 1 ms to a day.", code="faults", lease_ms=self.lease_ms)

    @classmethod
    def none(cls) -> Self:
        """Nothing befalls anybody: only the order of the transactions is left to chance."""
        return cls(**{f.name: 0 for f in fields(cls) if f.type == "float"}, drift_ppm=0)  # pyright: ignore[reportArgumentType]

    def but(self, **changes: float | tuple[int, ...]) -> Self:
        """The same with some changed."""
        return replace(self, **changes)  # pyright: ignore[reportArgumentType]

    def chances(self) -> tuple[float, ...]:
        """In the order of `KINDS`, for one transaction."""
        half = self.unknown / 2
        return (
            self.crash_before, self.crash_after, half, half, self.refused, self.again, self.pause, self.clock_step,
        )  # fmt: skip

    def thresholds(self) -> tuple[float, ...]:
        """What `drawn` takes: the sums of the chances up to each."""
        return tuple(accumulate(self.chances()))


#: What a number in a client's stream of faults stands for; 0 is nothing.
KINDS = (
    "", "crash before commit", "crash after commit", "unknown, not committed", "unknown, committed", "refused",
    "run again", "pause", "clock step",
)  # fmt: skip
CRASH_BEFORE, CRASH_AFTER, UNKNOWN_LOST, UNKNOWN_DONE, REFUSED, AGAIN, PAUSE, STEP = range(1, 9)


def drawn(thresholds: tuple[float, ...], dice: Random) -> int:
    """One throw: which fault, by its number in `KINDS`."""
    return (bisect_right(thresholds, dice.random()) + 1) % len(KINDS)


def drawn_pause_ms(faults: Faults, dice: Random) -> int:
    """How long a pause lasts: around a lease's end, or any order of magnitude."""
    if faults.lease_ms and dice.random() < 0.5:
        return max(0, dice.choice(faults.lease_ms) + dice.choice((-1, 0, 1)))
    return int(max(1, faults.pause_ms) ** dice.random())
