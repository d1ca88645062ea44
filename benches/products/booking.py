"""Booking: the best seats held, given back, and the seat map of a hall of 2,000; the purchase is a bench of its own."""

from __future__ import annotations

import itertools

from examples.boxoffice import season

from benches.harness import RATES, Size, Table, both_engines, rates
from onefold import Handle, booking

NAME = "booking"
PAGE = "src/onefold/products/booking/README.md"
_numbers = itertools.count()


def run(size: Size) -> list[Table]:
    """Both engines; on PostgreSQL at READ COMMITTED, as the page advises."""
    table = Table("Durable operations in a hall of 2,000 seats, fifty shows; hold + release are two transactions", RATES)
    with both_engines() as engines:
        for engine, db, callers in engines:
            season.open_house(db)
            shows = [show.id for show in db.reader().run(booking.list_shows, from_ms=0, limit=50).items]
            chooser = db.options(isolation="read_committed")
            rates(
                table, engine, "hold the best two + release", size, lambda n, c=chooser, s=shows: pair(c, s[n % 50]),
                lambda caller, _n, c=chooser, s=shows: apair(c, s[caller % 50]), callers=callers, count=500,
            )
            rates(
                table, engine, "seat map (a snapshot read)", size, lambda n, db=db, s=shows: db.reader().run(booking.seat_map, s[n % 50]),
                lambda caller, _n, db=db, s=shows: db.reader().arun(booking.seat_map, s[caller % 50]), callers=8, count=1_000,
            )
    return [table]


def pair(db: Handle, show: str) -> None:
    """Hold and give back."""
    by = f"b{next(_numbers)}"
    db.run(booking.release, db.run(booking.hold_best, show, by=by, count=2, ttl_ms=600_000).id, by=by)


async def apair(db: Handle, show: str) -> None:
    """The same from a task."""
    by = f"b{next(_numbers)}"
    hold = await db.arun(booking.hold_best, show, by=by, count=2, ttl_ms=600_000)
    await db.arun(booking.release, hold.id, by=by)
