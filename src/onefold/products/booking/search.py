"""Finding the best seats: read the rows near the focal point, choose, then lock and look again.

What was read without a lock is a proposal. The row that is locked decides, and the next
proposal is tried when it says no.
"""

from __future__ import annotations

from onefold.core.errors import Retry
from onefold.engine.tx import Tx
from onefold.products.booking import choose
from onefold.products.booking.rows import SeatRow, lapsed_in, locked, swept, try_locked

WINDOW = 16  # Rows read at a time, by nearness,
WINDOWS_MAX = 4  # and how often: in a larger hall the 64 nearest rows with room are compared.
TRIES = 12  # Rows tried without waiting before one is waited for.


def secure_best(tx: Tx, show_id: str, section: str | None, count: int) -> tuple[SeatRow, int] | None:
    """Lock the row of the best `count` adjacent seats; answer it, swept, and the seats. None: no room."""
    places = _places(tx, show_id, section, count)
    if not places:
        return None
    order = choose.preferred(places, tx.random, TRIES)
    for place in order:
        found = try_locked(tx, show_id, place.row)
        if found is None:  # Somebody is at it; the next is nearly as good.
            continue
        found = swept(found, tx.now_ms)
        now = choose.best_place(found.shape(), count)
        if now is not None and now.orphan <= place.orphan:
            return found, _mask(now, count)
    found = locked(tx, show_id, order[0].row)
    if found is not None:
        found = swept(found, tx.now_ms)
        now = choose.best_place(found.shape(), count)
        if now is not None:
            return found, _mask(now, count)
    raise Retry("Others took the seats while they were being chosen.", code="seats_contended")


def secure_split(tx: Tx, show_id: str, section: str | None, count: int) -> list[tuple[SeatRow, int]] | None:
    """The same for a party in two rows, one behind the other."""
    shapes = _shapes(tx, show_id, section, room=1, after=0, most=WINDOW * WINDOWS_MAX)
    pair = choose.best_split(shapes, count)
    if pair is None:
        return None
    # The rows are locked in the order of their numbers, as everywhere, so nobody waits in a circle.
    rows: dict[int, SeatRow] = {}
    for row_no in sorted(place.row for place, _ in pair):
        if (found := locked(tx, show_id, row_no)) is not None:
            rows[row_no] = swept(found, tx.now_ms)
    again = choose.best_split([row.shape() for row in rows.values()], count)
    if again is None:
        raise Retry("Others took the seats while they were being chosen.", code="seats_contended")
    return sorted((rows[place.row], _mask(place, size)) for place, size in again)


def _places(tx: Tx, show_id: str, section: str | None, count: int) -> list[choose.Place]:
    places: list[choose.Place] = []
    after = 0
    far = choose.FAR
    for _ in range(WINDOWS_MAX):
        shapes = _shapes(tx, show_id, section, room=count, after=after, most=WINDOW)
        for shape in shapes:
            if shape.near > far:  # Neither it nor any after it can be among the best.
                return places
            place = choose.best_place(shape, count)
            if place is not None:
                places.append(place)
                far = min(far, choose.reach(place))
        if len(shapes) < WINDOW:
            break
        after = shapes[-1].row
    return places


def _shapes(
    tx: Tx, show_id: str, section: str | None, *, room: int, after: int, most: int
) -> list[choose.Shape]:
    """Rows with `room` adjacent seats, by nearness (that is their number); those of lapsed holds count as free."""
    rows = tx.all(
        """SELECT row_no, place, section, aisles, pitch_cm, x2, y2, near, whole & (~(sold | held)),
                  CASE WHEN lapses_at_ms <= :now_ms THEN holds ELSE '' END
           FROM onefold.booking_rows
           WHERE space = :space AND show_id = :show_id AND section = coalesce(:section, section)
             AND row_no > :after AND (best_run >= :room OR lapses_at_ms <= :now_ms)
           ORDER BY row_no LIMIT :most""",
        show_id=show_id, section=section, after=after, room=room, most=most,
    )  # fmt: skip
    shapes: list[choose.Shape] = []
    for row_no, place, name, aisles, pitch_cm, x2, y2, near, free, holds in rows:
        now_free = free | lapsed_in(holds, tx.now_ms)[0] if holds else free
        shapes.append(choose.Shape(row_no, place, name, aisles, pitch_cm, x2, y2, near, now_free))
    return shapes


def _mask(place: choose.Place, count: int) -> int:
    return ((1 << count) - 1) << place.start
