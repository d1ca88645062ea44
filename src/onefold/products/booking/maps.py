"""Seat maps: what every seat of a show is now, and what changed since somebody last looked.

No counter of the whole show stands behind them, because every sale would queue for it. The
version is the versions of all rows, two bytes each, and the difference is found by comparing.
"""

from __future__ import annotations

import base64
import re
from typing import Annotated

from onefold.core import limits
from onefold.core.errors import Invalid, NotFound
from onefold.core.money import Money
from onefold.engine.tx import Tx, operation
from onefold.products.booking.records import ID_LENGTH_MAX, ROWS_MAX, Id, RowMap, SeatMap, SectionCount, text
from onefold.products.booking.rows import lapsed_in
from onefold.products.booking.seats import picture

VERSION_BYTES = 2  # A row must change 65,536 times between two looks to seem unchanged.
VERSION_LENGTH_MAX = ROWS_MAX * VERSION_BYTES * 4 // 3 + 4

# Base64 as of URLs, in groups of four.
_VERSION = re.compile(r"(?:[A-Za-z0-9_-]{4})*(?:[A-Za-z0-9_-]{2}==|[A-Za-z0-9_-]{3}=)?")
Version = Annotated[str, limits.text(1, VERSION_LENGTH_MAX, _VERSION)]


@operation
def seat_map(tx: Tx, show_id: Id) -> SeatMap:
    """Every row of the show, front to back, as it is now; seats of lapsed holds are free.

    Raises:
        NotFound: there is no such show, or its seat map was removed.
    """
    return _seat_map(tx, show_id, None)


@operation
def seat_map_since(tx: Tx, show_id: Id, *, version: Version) -> SeatMap:
    """The rows that changed since a map with `version` was read, and the counts of the whole show.

    Keep one reader for each show and send what it answers to all viewers, woken by
    "booking/SHOW"; do not let every viewer ask.

    Args:
        show_id: the show.
        version: `SeatMap.version` of the map that the caller has.

    Raises:
        NotFound: there is no such show, or its seat map was removed.
        Invalid: the version is none, or of another show (code "version").
    """
    text("version", version, VERSION_LENGTH_MAX)
    if not _VERSION.fullmatch(version):
        raise Invalid("The version is not one of a seat map.")
    return _seat_map(tx, show_id, base64.urlsafe_b64decode(version))


@operation
def availability(tx: Tx, show_id: Id) -> list[SectionCount]:
    """For each section, in the order of its rows: its price, and how many seats are free, held and sold.

    Raises:
        NotFound: there is no such show, or its seat map was removed.
    """
    counts: dict[str, SectionCount] = {}
    for _, section, _, whole, held, sold, price, _ in _rows(tx, show_id):
        before = counts.get(section)
        free, taken, gone = (whole & ~(held | sold)).bit_count(), held.bit_count(), sold.bit_count()
        if before:
            free, taken, gone = free + before.free, taken + before.held, gone + before.sold
        counts[section] = SectionCount(section, price, free, taken, gone)
    return list(counts.values())


def _seat_map(tx: Tx, show_id: str, known: bytes | None) -> SeatMap:
    rows = _rows(tx, show_id)
    if known is not None and len(known) != VERSION_BYTES * len(rows):
        raise Invalid("The version is not one of this show.", code="version", show=show_id)
    version = b"".join((row[7] % 65_536).to_bytes(VERSION_BYTES, "big") for row in rows)
    seats = held_seats = sold_seats = 0
    maps: list[RowMap] = []
    for number, (row, section, label, whole, held, sold, price, _) in enumerate(rows):
        seats += whole.bit_count()
        held_seats += held.bit_count()
        sold_seats += sold.bit_count()
        here = slice(VERSION_BYTES * number, VERSION_BYTES * (number + 1))
        if known is None or known[here] != version[here]:
            maps.append(RowMap(row, section, label, price, picture(whole, held, sold)))
    return SeatMap(
        show_id, base64.b64encode(version, altchars=b"-_").decode(), seats - held_seats - sold_seats, held_seats,
        sold_seats, maps,
    )  # fmt: skip


def _rows(tx: Tx, show_id: str) -> list[tuple[int, str, str, int, int, int, Money, int]]:
    """(row, section, label, whole, held, sold, price, version) of every row, front to back, without lapsed holds."""
    found = tx.all(
        """SELECT place, row_no, section, label, whole, held, sold, price_minor, currency, ver,
                  CASE WHEN lapses_at_ms <= :now_ms THEN holds ELSE '' END
           FROM onefold.booking_rows WHERE space = :space AND show_id = :show_id ORDER BY row_no LIMIT 2000""",
        show_id=text("show_id", show_id, ID_LENGTH_MAX),
    )
    if not found:
        raise NotFound("There is no such show.", show=show_id)
    rows: list[tuple[int, str, str, int, int, int, Money, int]] = []
    prices: dict[int, Money] = {}
    for _, row, section, label, whole, held, sold, minor, currency, ver, holds in sorted(found):
        price = prices.get(minor) or prices.setdefault(minor, Money(minor, currency))
        # A hold that lapses changes what is seen and writes nothing: it counts as a version too.
        lapsed, number = lapsed_in(holds, tx.now_ms) if holds else (0, 0)
        rows.append((row, section, label, whole, held & ~lapsed, sold, price, ver + number))
    return rows
