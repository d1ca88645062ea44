"""The algebra of one row of seats: a whole number is a set of seats, bit n is seat n + 1.

Pure functions, no database. A run of seats is found by shifting the row over itself, in a
logarithm of the run's length, for all places at once.
"""

from __future__ import annotations

from collections.abc import Iterable

SEATS_PER_ROW_MAX = 63  # A row is one signed 64-bit column; longer rows are entered as two.


def mask_of(seats: Iterable[int]) -> int:
    """The set of the seats with these numbers, counted from 1."""
    mask = 0
    for seat in seats:
        mask |= 1 << (seat - 1)
    return mask


def seats_of(mask: int) -> list[int]:
    """The numbers of the seats in the set, ascending."""
    seats: list[int] = []
    while mask:
        low = mask & -mask
        seats.append(low.bit_length())
        mask ^= low
    return seats


def starts(free: int, aisles: int, count: int) -> int:
    """Where `count` adjacent free seats begin: bit s for the seats s + 1 to s + count.

    Seats on two sides of an aisle are not adjacent; bit n of `aisles` is the aisle after seat n + 1.
    """
    if count == 1:
        return free
    found = free & (free >> 1) & ~aisles  # Two adjacent seats: one link.
    links = 1
    while links < count - 1 and found:
        step = min(links, count - 1 - links)
        found &= found >> step
        links += step
    return found


def longest_run(free: int, aisles: int) -> int:
    """How many adjacent seats are free at most."""
    if not free:
        return 0
    run, seats = free & (free >> 1) & ~aisles, 1
    while run:
        seats += 1
        run &= run >> 1
    return seats


def tidy_starts(free: int, aisles: int, count: int) -> int:
    """The `starts` that leave no single free seat beside the block: the orphan rule.

    A seat is orphaned when it is free, neither neighbour is, and taking the block made it so.
    """
    linked_right = free & (free >> 1) & ~aisles
    linked_left = linked_right << 1
    first = free & ~linked_left  # Seats at which a run begins,
    last = free & ~linked_right  # and at which one ends.
    orphan_left = (first & linked_right) << 1  # The block would begin right after a run's first seat,
    orphan_right = (last & linked_left) >> count  # or end right before a run's last.
    return starts(free, aisles, count) & ~orphan_left & ~orphan_right


def nearest(found: int, floor: int) -> int:
    """The set bit nearest to the point between `floor` and `floor + 1`, on either side: (below, above).

    Answers two candidates packed as a set: the highest bit at or below `floor` and the lowest above.
    """
    if floor < 0:
        return found & -found
    below = found & ((2 << floor) - 1)
    above = found >> (floor + 1) << (floor + 1)
    return (1 << (below.bit_length() - 1) if below else 0) | (above & -above)


def picture(whole: int, held: int, sold: int) -> str:
    """One digit for each seat from number 1: "0" free, "1" held, "2" sold."""
    # The digits of the sum of two decimal numbers that look binary: no carry, as no seat is both.
    digits = str(int(f"{held:b}") + 2 * int(f"{sold:b}"))
    return digits.zfill(whole.bit_length())[::-1]
