"""Which seats are best: the ladder from "adjacent, no orphan" down to "split over two rows".

Pure functions over what was read; the database decides afterwards whether they are still free.
Distances are exact whole numbers: twice the centimetres from the middle of the block to the
focal point, rounded down.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from random import Random
from typing import NamedTuple

from onefold.products.booking.seats import SEATS_PER_ROW_MAX, nearest, starts, tidy_starts

EPSILON_2CM = 600  # Three metres: within them one place is as good as another,
CROWD = 8  # and up to this many rows share the crowd.
FAR = 1 << 62


class Shape(NamedTuple):
    """What choosing needs to know of a row: where it stands, and which seats are free.

    `row` numbers it by nearness to the focal point, `place` from front to back.
    """

    row: int
    place: int
    section: str
    aisles: int
    pitch_cm: int
    x2: int
    y2: int
    near: int
    free: int


class Place(NamedTuple):
    """A block of adjacent seats: the better, the smaller in order."""

    orphan: bool
    distance: int
    row: int
    start: int


def best_place(shape: Shape, count: int) -> Place | None:
    """The best `count` adjacent seats of the row, or None when it has no room."""
    found = tidy_starts(shape.free, shape.aisles, count)
    orphan = not found
    if orphan:
        found = starts(shape.free, shape.aisles, count)
        if not found:
            return None
    return _nearest_place(shape, found, count, orphan=orphan)


def preferred(places: Sequence[Place], random: Random, tries: int) -> list[Place]:
    """The order in which to try: first those as good as the best, shuffled, then the others.

    A crowd that all wants the same best seat queues for one row; spread, it does not.
    """
    ranked = sorted(places)
    best = ranked[0]
    equal = [p for p in ranked if p.orphan == best.orphan and p.distance <= best.distance + EPSILON_2CM][:CROWD]
    rest = ranked[len(equal) :]
    random.shuffle(equal)
    return (equal + rest)[:tries]


def reach(place: Place) -> int:
    """Rows with a larger `near` hold no equal of this place."""
    # The distance was rounded down; one more makes sure.
    return FAR if place.orphan else (place.distance + EPSILON_2CM + 1) ** 2


def best_split(shapes: Sequence[Shape], count: int) -> tuple[tuple[Place, int], tuple[Place, int]] | None:
    """The party in two blocks with their sizes, one behind the other: as even, then as near as possible.

    Nobody sits alone unless the party has fewer than four.
    """
    by_place = {shape.place: shape for shape in shapes}
    pairs = [
        (shape, behind) for shape in shapes
        if (behind := by_place.get(shape.place + 1)) is not None and behind.section == shape.section
    ]  # fmt: skip
    for small in range(count // 2, (2 if count >= 4 else 1) - 1, -1):
        found = [
            pair for shape, behind in pairs for first in {small, count - small}
            if (pair := _pair(shape, behind, first, count - first)) is not None
        ]  # fmt: skip
        if found:
            best = min(found, key=lambda pair: (pair[0], pair[1].row, pair[3]))
            return (best[1], best[3]), (best[2], count - best[3])
    return None


def _pair(front: Shape, behind: Shape, first: int, second: int) -> tuple[int, Place, Place, int] | None:
    one = best_place(front, first)
    if one is None:
        return None
    # The second block is the nearest to the first one, not to the stage.
    middle = front.x2 + front.pitch_cm * (2 * one.start + first - 1)
    two = best_place(behind._replace(x2=behind.x2 - middle, y2=behind.y2 - front.y2), second)
    return (one.distance + two.distance, one, two, first) if two else None


def _nearest_place(shape: Shape, found: int, count: int, *, orphan: bool) -> Place:
    width = shape.pitch_cm * (count - 1)
    ideal = -(shape.x2 + width) // (2 * shape.pitch_cm)
    both = nearest(found, min(ideal, SEATS_PER_ROW_MAX))
    best: Place | None = None
    while both:
        low = both & -both
        both ^= low
        start = low.bit_length() - 1
        across = shape.x2 + width + 2 * shape.pitch_cm * start
        place = Place(orphan, isqrt(across * across + shape.y2 * shape.y2), shape.row, start)
        if best is None or place < best:
            best = place
    assert best is not None, "there is at least one start"
    return best
