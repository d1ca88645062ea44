"""A small hall, and what must be true of it at every moment."""

from __future__ import annotations

import msgspec

from onefold import Handle, Money, Tx, booking
from onefold.products.booking.rows import entries_of, line_of
from onefold.products.booking.seats import longest_run, mask_of

TTL_MS = 60_000
EUR = {"Stalls": Money(4_500, "EUR"), "Circle": Money(2_500, "EUR")}


def open_hall(tx: Tx, *, rows: int = 2, seats: int = 10) -> str:
    """A show in a hall of `rows` in the stalls and one in the circle; answers its id."""
    sections = [booking.grid("Stalls", rows=rows, seats=seats), booking.grid("Circle", rows=1, seats=seats)]
    venue = booking.add_venue(tx, "Hall", sections=sections)
    return booking.add_show(tx, venue.id, title="Faust", starts_at_ms=tx.now_ms + 10**9, prices=EUR).id


def lapse(tx: Tx, held: booking.Hold) -> None:
    """Let the hold be over as if time had passed; the server's clock cannot be moved."""
    name, over = held.id.partition(".")[0], tx.now_ms - 1
    for block in held.blocks:
        row = tx.one(
            """SELECT holds FROM onefold.booking_rows
               WHERE space = :space AND show_id = :show AND row_no = :row {for_update}""",
            show=held.show_id, row=block.row,
        )
        assert row is not None
        lines = [
            line_of(msgspec.structs.replace(entry, expires_at_ms=over) if entry.id == name else entry)
            for entry in entries_of(row[0])
        ]
        tx.run(
            """UPDATE onefold.booking_rows SET holds = :holds, lapses_at_ms = :over
               WHERE space = :space AND show_id = :show AND row_no = :row""",
            show=held.show_id, row=block.row, holds="".join(lines), over=over,
        )
    tx.run(
        "UPDATE onefold.booking_slots SET expires_at_ms = :over WHERE space = :space AND hold_id = :hold_id",
        over=over, hold_id=held.id,
    )


def audit(tx: Tx, show_id: str) -> int:
    """Check every invariant of the schema; answers how many seats are sold."""
    sold: dict[int, int] = {}
    rows = tx.all(
        """SELECT row_no, whole, aisles, sold, held, holds, lapses_at_ms, best_run
           FROM onefold.booking_rows WHERE space = :space AND show_id = :show""",
        show=show_id,
    )
    for row_no, whole, aisles, sold_mask, held, holds, lapses_at_ms, best_run in rows:
        entries = entries_of(holds)
        assert held == sum(entry.mask for entry in entries), "held is not what the holds say"
        assert held.bit_count() == sum(entry.mask.bit_count() for entry in entries), "two holds share a seat"
        assert held & sold_mask == 0
        assert (held | sold_mask) & ~whole == 0
        assert best_run == longest_run(whole & ~(held | sold_mask), aisles)
        if entries:
            assert lapses_at_ms is not None
            assert lapses_at_ms <= min(entry.expires_at_ms for entry in entries)
        sold[row_no] = sold_mask
    ordered: dict[int, int] = dict.fromkeys(sold, 0)
    for order in orders_of(tx, show_id):
        if order.cancelled_at_ms is None:
            for block in order.blocks:
                mask = mask_of(block.seats)
                assert ordered[block.row] & mask == 0, "a seat was sold twice"
                ordered[block.row] |= mask
    assert ordered == sold, "sold seats and orders differ"
    return sum(mask.bit_count() for mask in sold.values())


def orders_of(tx: Tx, show_id: str) -> list[booking.Order]:
    """All orders of the show, page by page."""
    found: list[booking.Order] = []
    after = None
    while True:
        page = booking.list_orders(tx, show_id=show_id, after=after, limit=50)
        found += page.items
        after = page.after
        if after is None:
            return found


def sold_out(db: Handle, show_id: str) -> bool:
    """Whether no seat is free or held."""
    seats = db.run(booking.seat_map, show_id)
    return seats.free == seats.held == 0
