"""The algebra of a row, and the choice of seats, against brute force."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from onefold.products.booking.choose import EPSILON_2CM, Place, Shape, best_place, best_split, preferred, reach
from onefold.products.booking.seats import (
    SEATS_PER_ROW_MAX,
    longest_run,
    mask_of,
    picture,
    seats_of,
    starts,
    tidy_starts,
)

rows = st.integers(1, SEATS_PER_ROW_MAX).flatmap(
    lambda seats: st.tuples(st.just(seats), st.integers(0, (1 << seats) - 1), st.integers(0, (1 << seats) - 1))
)
# Few aisles are more like a hall, and leave longer runs.
halls = st.tuples(rows, st.booleans()).map(lambda drawn: (drawn[0][0], drawn[0][1], drawn[0][2] if drawn[1] else 0))


def runs_of(seats: int, free: int, aisles: int) -> list[list[int]]:
    """The runs of adjacent free seats, seat by seat."""
    runs: list[list[int]] = [[]]
    for seat in range(1, seats + 1):
        if free >> (seat - 1) & 1:
            runs[-1].append(seat)
        if not free >> (seat - 1) & 1 or aisles >> (seat - 1) & 1:
            runs.append([])
    return [run for run in runs if run]


@given(st.sets(st.integers(1, SEATS_PER_ROW_MAX)))
def test_a_set_of_seats_goes_to_a_mask_and_back(seats: set[int]) -> None:
    assert seats_of(mask_of(seats)) == sorted(seats)


@given(halls, st.integers(1, 10))
def test_starts_are_those_of_brute_force(row: tuple[int, int, int], count: int) -> None:
    seats, free, aisles = row
    expected = [run[i] for run in runs_of(seats, free, aisles) for i in range(len(run) - count + 1)]
    assert seats_of(starts(free, aisles, count)) == expected


@given(halls)
def test_the_longest_run_is_that_of_brute_force(row: tuple[int, int, int]) -> None:
    seats, free, aisles = row
    assert longest_run(free, aisles) == max(map(len, runs_of(seats, free, aisles)), default=0)


@given(halls, st.integers(1, 10))
def test_the_orphan_rule_is_that_of_brute_force(row: tuple[int, int, int], count: int) -> None:
    seats, free, aisles = row
    singles = {run[0] for run in runs_of(seats, free, aisles) if len(run) == 1}
    expected = []
    for start in seats_of(starts(free, aisles, count)):
        block = mask_of(range(start, start + count))
        left = {run[0] for run in runs_of(seats, free & ~block, aisles) if len(run) == 1}
        if left <= singles:
            expected.append(start)
    assert seats_of(tidy_starts(free, aisles, count)) == expected


@given(halls, st.data())
def test_the_picture_shows_every_seat(row: tuple[int, int, int], data: st.DataObject) -> None:
    seats, held, _ = row
    sold = data.draw(st.integers(0, (1 << seats) - 1)) & ~held
    drawn = picture((1 << seats) - 1, held, sold)
    assert len(drawn) == seats
    assert [i + 1 for i, c in enumerate(drawn) if c == "1"] == seats_of(held)
    assert [i + 1 for i, c in enumerate(drawn) if c == "2"] == seats_of(sold)


def shape_of(row: tuple[int, int, int], *, number: int, x2: int, y2: int, pitch: int) -> Shape:
    seats, free, aisles = row
    across = max(0, x2, -(x2 + 2 * pitch * (seats - 1)))
    return Shape(number, number, "Stalls", aisles, pitch, x2, y2, across * across + y2 * y2, free)


geometry = {"x2": st.integers(-9_000, 9_000), "y2": st.integers(-9_000, 9_000), "pitch": st.integers(1, 99)}


@given(halls, st.integers(1, 10), st.fixed_dictionaries(geometry))
def test_the_best_place_of_a_row_is_that_of_brute_force(
    row: tuple[int, int, int], count: int, at: dict[str, int]
) -> None:
    shape = shape_of(row, number=1, **at)
    found = best_place(shape, count)
    tidy = tidy_starts(shape.free, shape.aisles, count)
    candidates = seats_of(tidy or starts(shape.free, shape.aisles, count))
    if not candidates:
        assert found is None
        return
    assert found is not None
    assert found.orphan == (not tidy)
    across = [abs(at["x2"] + at["pitch"] * (2 * (seat - 1) + count - 1)) for seat in candidates]
    assert int((min(across) ** 2 + at["y2"] ** 2) ** 0.5) in range(found.distance - 1, found.distance + 2)
    assert found.start + 1 in candidates
    assert shape.near <= reach(found), "the row itself would have been passed over"


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3_000)), min_size=1, max_size=30), st.integers(0, 9))
def test_the_crowd_is_spread_over_places_as_good_as_the_best(drawn: list[tuple[bool, int]], seed: int) -> None:
    places = [Place(orphan, distance, row, 0) for row, (orphan, distance) in enumerate(drawn)]
    first = preferred(places, Random(seed), 12)[0]
    best = min(places)
    assert first.orphan == best.orphan
    assert first.distance <= best.distance + EPSILON_2CM


def test_different_buyers_are_sent_to_different_rows() -> None:
    places = [Place(False, 100 * row, row, 0) for row in range(20)]
    assert {preferred(places, Random(seed), 12)[0].row for seed in range(100)} == set(range(7))


@given(st.lists(halls, min_size=1, max_size=5), st.integers(2, 10))
def test_a_split_party_sits_in_adjacent_rows(drawn: list[tuple[int, int, int]], count: int) -> None:
    shapes = [shape_of(row, number=n, x2=-500, y2=180 * n, pitch=55) for n, row in enumerate(drawn)]
    pair = best_split(shapes, count)
    least = 2 if count >= 4 else 1
    possible = any(
        longest_run(a.free, a.aisles) >= first and longest_run(b.free, b.aisles) >= count - first
        for a, b in zip(shapes, shapes[1:], strict=False)
        for first in range(least, count - least + 1)
    )
    assert (pair is not None) == possible
    if pair is None:
        return
    (front, few), (behind, many) = pair
    assert behind.row == front.row + 1
    assert few + many == count
    for place, size in pair:
        shape = shapes[place.row]
        assert starts(shape.free, shape.aisles, size) >> place.start & 1
