"""Finding the best seats in a hall, and following its map."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from booking_hall import TTL_MS, audit, lapse, open_hall
from hypothesis import given, settings
from hypothesis import strategies as st

import onefold
from onefold import Conflict, Database, Invalid, Money, Tx, booking
from onefold.core.clock import FakeClock
from onefold.products.booking import Row, Section
from onefold.products.booking.choose import EPSILON_2CM


@pytest.fixture
def sqlite_db(tmp_path: Path, clock: FakeClock) -> Iterator[Database]:
    """For what needs the clock moved, or many steps: the logic is the same on both engines."""
    with onefold.connect(tmp_path / "clock.db", rehearse=True, clock=clock) as database:
        yield database


def best(db: Database, show: str, by: str, count: int, **more: object) -> booking.Hold:
    return db.run(booking.hold_best, show, by=by, count=count, ttl_ms=TTL_MS, **more)


def rows_of(db: Database, show: str) -> list[str]:
    return [row.seats for row in db.run(booking.seat_map, show).rows]


def show_in(tx: Tx, *sections: Section, focus_cm: tuple[int, int] = (0, 0)) -> str:
    venue = booking.add_venue(tx, "Hall", sections=sections, focus_cm=focus_cm)
    prices = {section.name: Money(1_000, "EUR") for section in sections}
    return booking.add_show(tx, venue.id, title="Faust", starts_at_ms=tx.now_ms + 10**9, prices=prices).id


# -- the best seats ---------------------------------------------------------------------------------


def test_the_best_seats_are_in_the_middle_of_the_front(db: Database) -> None:
    far_apart = [Row(label, 9, y_cm=1_000 * depth) for depth, label in enumerate("ABC")]
    show = db.run(show_in, Section("Stalls", tuple(far_apart)))
    assert best(db, show, "ana", 3).seats == (4, 5, 6)
    assert rows_of(db, show)[0] == "000111000"


def test_the_focal_point_is_the_venues(db: Database) -> None:
    far_apart = [Row(label, 9, y_cm=1_000 * depth) for depth, label in enumerate("ABC")]
    show = db.run(show_in, Section("Stalls", tuple(far_apart)), focus_cm=(-220, 1_000))
    held = best(db, show, "ana", 1)
    assert (held.blocks[0].label, held.row, held.seats) == ("B", 1, (1,))
    assert [(row.label, row.row) for row in db.run(booking.seat_map, show).rows] == [("A", 2), ("B", 1), ("C", 3)]
    split = best(db, show, "bob", 10, split=True)
    assert sorted(block.label for block in split.blocks) in (["A", "B"], ["B", "C"])


def test_no_single_seat_is_left_when_that_can_be_avoided(db: Database) -> None:
    show = db.run(show_in, booking.grid("Stalls", rows=1, seats=10))
    db.run(booking.hold, show, by="x", row=1, seats=[4], ttl_ms=TTL_MS)  # 000100 0000: runs of 3 and 6.
    assert best(db, show, "ana", 2).seats == (5, 6)  # Not the middle (6, 7): seat 5 would be alone.
    assert best(db, show, "bob", 3).seats == (1, 2, 3)
    # Four are left; three of them would leave one alone, and here that cannot be avoided.
    assert best(db, show, "cy", 3).seats == (7, 8, 9)
    assert rows_of(db, show) == ["1111111110"]


def test_another_row_is_better_than_an_orphan(db: Database) -> None:
    show = db.run(show_in, Section("Stalls", (Row("A", 3), Row("B", 2, y_cm=5_000))))
    assert best(db, show, "ana", 2).row == 2


def test_seats_across_an_aisle_are_not_adjacent(db: Database) -> None:
    show = db.run(show_in, Section("Stalls", (Row("A", 6, aisles=(3,)),)))
    with pytest.raises(Conflict) as refused:
        best(db, show, "ana", 4)
    assert refused.value.code == "no_seats"
    assert best(db, show, "ana", 3).seats in {(1, 2, 3), (4, 5, 6)}


def test_only_the_section_asked_for(db: Database) -> None:
    show = db.run(open_hall)
    assert best(db, show, "ana", 2, section="Circle").blocks[0].section == "Circle"
    best(db, show, "bob", 4, section="Circle")
    best(db, show, "bob", 4, section="Circle")
    with pytest.raises(Conflict):
        best(db, show, "cy", 1, section="Circle")


def test_the_seats_of_lapsed_holds_are_found(db: Database) -> None:
    show = db.run(show_in, booking.grid("Stalls", rows=1, seats=4))
    held = best(db, show, "ana", 4)
    with pytest.raises(Conflict):
        best(db, show, "bob", 1)
    db.run(lapse, held)
    assert best(db, show, "bob", 4).seats == (1, 2, 3, 4)
    db.run(audit, show)


def test_a_party_is_split_only_when_it_asks_to_be(db: Database) -> None:
    show = db.run(show_in, booking.grid("Stalls", rows=2, seats=3), booking.grid("Circle", rows=1, seats=3))
    with pytest.raises(Conflict):
        best(db, show, "ana", 5)
    held = best(db, show, "ana", 5, split=True)
    assert [block.row for block in held.blocks] == [1, 2]
    assert sorted(len(block.seats) for block in held.blocks) == [2, 3]
    assert held.price == Money(5_000, "EUR")
    with pytest.raises(Conflict):  # Row 3 is of another section.
        best(db, show, "bob", 4, split=True)
    longer = db.run(booking.extend, held.id, by="ana", ttl_ms=2 * TTL_MS)
    order = db.run(booking.confirm_hold, held.id, by="ana")
    assert order.blocks == longer.blocks
    assert db.run(audit, show) == 5
    db.run(booking.cancel, order.id)
    assert db.run(audit, show) == 0


def test_half_of_a_split_hold_that_was_taken_ends_all_of_it(db: Database) -> None:
    show = db.run(show_in, booking.grid("Stalls", rows=2, seats=3))
    held = best(db, show, "ana", 6, split=True)
    db.run(lapse, held)
    db.run(booking.hold, show, by="bob", row=2, seats=[1], ttl_ms=TTL_MS)
    with pytest.raises(Conflict):
        db.run(booking.confirm, held)
    assert rows_of(db, show) == ["000", "100"]
    assert db.run(booking.release, held.id, by="ana") is False
    db.run(audit, show)


def test_a_large_hall_is_filled_to_the_last_seat(sqlite_db: Database) -> None:
    show = sqlite_db.run(show_in, booking.grid("Stalls", rows=70, seats=3), booking.grid("Circle", rows=10, seats=3))

    def fill(tx: Tx) -> int:
        held = 0
        for number in range(80):
            held += len(booking.hold_best(tx, show, by=f"b{number}", count=3, ttl_ms=TTL_MS).seats)
        return held

    assert sqlite_db.run(fill) == 240
    with pytest.raises(Conflict):
        best(sqlite_db, show, "z", 1)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=12), min_size=1, max_size=8), st.integers(1, 4))
def test_the_best_of_a_hall_is_that_of_brute_force(
    sqlite_db: Database, hall: list[list[bool]], count: int
) -> None:
    section = Section("Stalls", tuple(Row(str(n), len(taken)) for n, taken in enumerate(hall)))
    show = sqlite_db.run(show_in, section)

    def occupy(tx: Tx) -> None:
        for row, taken in enumerate(hall, 1):
            for seat, gone in enumerate(taken, 1):
                if gone:
                    booking.hold(tx, show, by=f"{row}/{seat}", row=row, seats=[seat], ttl_ms=TTL_MS)

    sqlite_db.run(occupy)
    places = []
    for depth, taken in enumerate(hall):
        for start in range(len(taken) - count + 1):
            if any(taken[start : start + count]):
                continue
            around = [i in range(start, start + count) or gone for i, gone in enumerate(taken)]
            orphan = any(alone(around, i) and not alone(taken, i) for i in (start - 1, start + count))
            across = -55 * (len(taken) - 1) + 55 * (2 * start + count - 1)
            places.append((orphan, (across**2 + (180 * depth) ** 2) ** 0.5, depth + 1, start + 1))
    if not places:
        with pytest.raises(Conflict):
            best(sqlite_db, show, "ana", count)
        return
    held = best(sqlite_db, show, "ana", count)
    orphan, distance, *_ = next(p for p in places if p[2:] == (held.row, held.seats[0]))
    assert orphan == min(places)[0]
    assert distance <= min(places)[1] + EPSILON_2CM + 1


def alone(taken: list[bool], seat: int) -> bool:
    """Whether the seat is free and no neighbour is."""
    if not 0 <= seat < len(taken) or taken[seat]:
        return False
    return all(not 0 <= n < len(taken) or taken[n] for n in (seat - 1, seat + 1))


# -- following the map ------------------------------------------------------------------------------


def test_a_page_follows_the_map_by_what_changed(db: Database) -> None:
    show = db.run(open_hall)
    page = db.run(booking.seat_map, show)
    drawn = {row.row: row.seats for row in page.rows}
    held = db.run(booking.hold, show, by="ana", row=2, seats=[1, 2], ttl_ms=TTL_MS)
    other = db.run(booking.hold, show, by="bob", row=3, seats=[9], ttl_ms=TTL_MS)

    def follow() -> list[int]:
        nonlocal page
        page = db.run(booking.seat_map_since, show, version=page.version)
        drawn.update({row.row: row.seats for row in page.rows})
        assert drawn == {row.row: row.seats for row in db.run(booking.seat_map, show).rows}
        states = "".join(drawn.values())
        assert (page.free, page.held, page.sold) == tuple(states.count(digit) for digit in "012")
        return [row.row for row in page.rows]

    assert follow() == [2, 3]
    assert follow() == []
    order = db.run(booking.confirm_hold, held.id, by="ana")
    assert follow() == [2]
    db.run(booking.release, other.id, by="bob")
    db.run(booking.cancel, order.id)
    assert follow() == [2, 3]
    assert page.free == 30


def test_a_hold_that_lapses_is_a_change(sqlite_db: Database, clock: FakeClock) -> None:
    show = sqlite_db.run(open_hall)
    sqlite_db.run(booking.hold, show, by="ana", row=1, seats=[1], ttl_ms=1_000)
    sqlite_db.run(booking.hold, show, by="bob", row=1, seats=[2], ttl_ms=2_000)
    page = sqlite_db.run(booking.seat_map, show)
    clock.advance(1_000)
    page = sqlite_db.run(booking.seat_map_since, show, version=page.version)
    assert [row.seats for row in page.rows] == ["0100000000"]
    clock.advance(1_000)
    # Taken at once by somebody else: the number of the version must not come round to the old one.
    sqlite_db.run(booking.hold, show, by="cy", row=1, seats=[2], ttl_ms=1_000)
    page = sqlite_db.run(booking.seat_map_since, show, version=page.version)
    assert [row.seats for row in page.rows] == ["0100000000"]
    assert page.held == 1
    assert sqlite_db.run(booking.seat_map_since, show, version=page.version).rows == []


def test_what_is_no_version_is_refused(db: Database) -> None:
    show, other = db.run(open_hall), db.run(open_hall, rows=5)
    for bad in ("", "x", "AAAA", "a\0", "é", "A" * 10_000, db.run(booking.seat_map, other).version):
        with pytest.raises(Invalid):
            db.run(booking.seat_map_since, show, version=bad)


def test_sections_are_counted(db: Database) -> None:
    show = db.run(open_hall)
    db.run(booking.hold, show, by="ana", row=1, seats=[1, 2], ttl_ms=TTL_MS)
    held = db.run(booking.hold, show, by="ana", row=2, seats=[1], ttl_ms=TTL_MS)
    db.run(booking.confirm_hold, held.id, by="ana")
    stalls, circle = db.run(booking.availability, show)
    assert (stalls.section, stalls.free, stalls.held, stalls.sold) == ("Stalls", 17, 2, 1)
    assert (circle.section, circle.free, circle.held, circle.sold) == ("Circle", 10, 0, 0)
    assert circle.price == Money(2_500, "EUR")
