"""Venues and shows: what there is to book. Written by the house, copied into rows of seats per show."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from onefold.core import codec
from onefold.core.errors import Conflict, Invalid, NotFound
from onefold.core.limits import entries, many, shaped
from onefold.core.money import Money
from onefold.core.page import LIMIT_DEFAULT, Limit, Page, checked_limit, page_of
from onefold.engine.tx import Row as SqlRow
from onefold.engine.tx import Tx, operation
from onefold.products.booking.records import (
    COORDINATE_CM_MAX,
    ID_LENGTH_MAX,
    LABEL_LENGTH_MAX,
    NAME_LENGTH_MAX,
    PITCH_CM_MAX,
    PRICE_MINOR_MAX,
    ROWS_MAX,
    SECTION_LENGTH_MAX,
    SECTIONS_MAX,
    TIME_MS_MAX,
    Coordinate,
    Id,
    IdCursor,
    Moment,
    Name,
    Price,
    Row,
    Section,
    SectionName,
    Show,
    Venue,
    text,
    whole,
)
from onefold.products.booking.seats import SEATS_PER_ROW_MAX, longest_run, mask_of

ROW_DEPTH_CM = 90
FORGET_AFTER_MS = 86_400_000  # A day after the show began its rows of seats may go.

_CURSOR = re.compile(rf"(?:([0-9]{{1,15}})\.([^\u0000]{{0,{ID_LENGTH_MAX}}}))?")
ShowCursor = Annotated[str, shaped(_CURSOR)]
Prices = Annotated[Mapping[SectionName, Price], entries(SECTIONS_MAX)]


@operation
def add_venue(
    tx: Tx, name: Name, *, sections: Annotated[Sequence[Section], many(1, SECTIONS_MAX)],
    focus_cm: tuple[Coordinate, Coordinate] = (0, 0),
) -> Venue:
    """Enter a venue with its seat map.

    Args:
        name: 1 to 200 characters; not unique.
        sections: 1 to 200, with at most 2,000 rows together; see `Section`, `Row` and `grid`.
        focus_cm: (x, y) of the point that the best seats are nearest to; (0, 0) is the middle of
            the first row when no row has coordinates.

    Raises:
        Invalid: an argument is out of range; nothing was written. Codes "twice", two sections or two rows of one
            have the same name; "rows", more rows in all than there may be; "aisles", one is where no seat is.
    """
    text("name", name, NAME_LENGTH_MAX)
    rows = sorted(_laid_out(sections, focus_cm), key=lambda row: (row["near"], row["place"]))
    venue = Venue(tx.new_id("venue"), name, sum(row["whole"].bit_count() for row in rows))
    tx.run(
        """INSERT INTO onefold.booking_venues (space, id, name, seats, created_at_ms)
           VALUES (:space, :id, :name, :seats, :now_ms)""",
        id=venue.id, name=name, seats=venue.seats,
    )  # fmt: skip
    tx.many(
        """INSERT INTO onefold.booking_venue_rows
               (space, venue_id, row_no, place, section, category, label, whole, aisles, pitch_cm, x2, y2, near)
           VALUES (:space, :venue_id, :row_no, :place, :section, :category, :label, :whole, :aisles, :pitch_cm, :x2,
                   :y2, :near)""",
        [{"venue_id": venue.id, "row_no": row_no, **row} for row_no, row in enumerate(rows, 1)],
    )
    return venue


@operation
def list_venues(tx: Tx, *, after: IdCursor | None = None, limit: Limit = LIMIT_DEFAULT) -> Page[Venue]:
    """All venues, the oldest first."""
    rows = tx.all(
        """SELECT id, name, seats FROM onefold.booking_venues
           WHERE space = :space AND id > :after ORDER BY id LIMIT :most""",
        after=text("after", after, ID_LENGTH_MAX) if after else "", most=checked_limit(limit) + 1,
    )  # fmt: skip
    return page_of([Venue(*row) for row in rows], limit, lambda venue: venue.id)


@operation
def add_show(
    tx: Tx,
    venue_id: Id,
    *,
    title: Name,
    starts_at_ms: Moment,
    prices: Prices,
    sale_from_ms: Moment = 0,
    sale_until_ms: Moment | None = None,
) -> Show:
    """Enter a show: all seats of the venue, free.

    Args:
        venue_id: where.
        title: 1 to 200 characters.
        starts_at_ms: when it begins.
        prices: of one seat, for every category of the venue, all in one currency, none negative.
        sale_from_ms: from when on seats are held; 0 is at once.
        sale_until_ms: until before when; None is `starts_at_ms`. A hold made in time may be
            confirmed afterwards.

    Raises:
        NotFound: there is no such venue.
        Invalid: an argument is out of range; a category has no price or a price no category ("prices"), or the
            prices are in several currencies ("currency"); the sale ends before it begins ("sale").
    """
    text("venue_id", venue_id, ID_LENGTH_MAX)
    text("title", title, NAME_LENGTH_MAX)
    whole("starts_at_ms", starts_at_ms, 0, TIME_MS_MAX)
    whole("sale_from_ms", sale_from_ms, 0, TIME_MS_MAX)
    until = starts_at_ms if sale_until_ms is None else whole("sale_until_ms", sale_until_ms, 0, TIME_MS_MAX)
    if sale_from_ms >= until:
        raise Invalid("The sale ends before it begins.", code="sale", sale_from_ms=sale_from_ms, sale_until_ms=until)
    rows = tx.all(
        """SELECT row_no, place, section, category, label, whole, aisles, pitch_cm, x2, y2, near
           FROM onefold.booking_venue_rows WHERE space = :space AND venue_id = :venue_id
           ORDER BY row_no LIMIT 2000""",
        venue_id=venue_id,
    )
    if not rows:
        raise NotFound("There is no such venue.", venue=venue_id)
    currency = _checked_prices(prices, {row[3] for row in rows})
    show = Show(tx.new_id("show"), venue_id, title, starts_at_ms, sale_from_ms, until, dict(prices))
    tx.run(
        """INSERT INTO onefold.booking_shows
               (space, id, venue_id, title, starts_at_ms, sale_from_ms, sale_until_ms, prices, currency, created_at_ms)
           VALUES (:space, :id, :venue_id, :title, :starts_at_ms, :sale_from_ms, :sale_until_ms, :prices, :currency,
                   :now_ms)""",
        id=show.id, venue_id=venue_id, title=title, starts_at_ms=starts_at_ms, sale_from_ms=sale_from_ms,
        sale_until_ms=until, currency=currency,
        prices=codec.encode({category: price.minor for category, price in prices.items()}),
    )  # fmt: skip
    _add_rows(tx, show, rows, currency)
    tx.emit("booking.show_added", show=show.id)
    return show


@operation
def show_of(tx: Tx, show_id: Id) -> Show:
    """The show.

    Raises:
        NotFound: there is none with this id.
    """
    row = tx.one(
        """SELECT id, venue_id, title, starts_at_ms, sale_from_ms, sale_until_ms, prices, currency
           FROM onefold.booking_shows WHERE space = :space AND id = :id""",
        id=text("show_id", show_id, ID_LENGTH_MAX),
    )
    if row is None:
        raise NotFound("There is no such show.", show=show_id)
    return _show(row)


@operation
def list_shows(
    tx: Tx, *, from_ms: Moment = 0, after: ShowCursor | None = None, limit: Limit = LIMIT_DEFAULT
) -> Page[Show]:
    """Shows that begin at or after `from_ms`, in the order in which they begin.

    Args:
        from_ms: a time; 0 for all.
        after: the cursor of the page before.
        limit: 1 to 1,000.
    """
    whole("from_ms", from_ms, 0, TIME_MS_MAX)
    starts_at_ms, show_id = _cursor(after or "")
    rows = tx.all(
        """SELECT id, venue_id, title, starts_at_ms, sale_from_ms, sale_until_ms, prices, currency
           FROM onefold.booking_shows
           WHERE space = :space AND starts_at_ms >= :from_ms AND (starts_at_ms, id) > (:starts_at_ms, :id)
           ORDER BY starts_at_ms, id LIMIT :most""",
        from_ms=from_ms, starts_at_ms=starts_at_ms, id=show_id, most=checked_limit(limit) + 1,
    )  # fmt: skip
    return page_of([_show(row) for row in rows], limit, lambda show: f"{show.starts_at_ms}.{show.id}")


@operation
def forget_show(tx: Tx, show_id: Id) -> None:
    """Remove the seat map of a show that began more than a day ago. The show and its orders stay.

    Raises:
        NotFound: there is no such show.
        Conflict: it is not over for a day (code "show_not_over").
    """
    show = show_of(tx, show_id)
    if show.starts_at_ms + FORGET_AFTER_MS > tx.now_ms or show.sale_until_ms > tx.now_ms:
        raise Conflict("The show is not over for a day.", code="show_not_over", show=show_id)
    tx.run("DELETE FROM onefold.booking_rows WHERE space = :space AND show_id = :show_id", show_id=show_id)
    tx.run("DELETE FROM onefold.booking_slots WHERE space = :space AND show_id = :show_id", show_id=show_id)


def _add_rows(tx: Tx, show: Show, rows: list[SqlRow], currency: str) -> None:
    tx.many(
        """INSERT INTO onefold.booking_rows
               (space, show_id, row_no, place, section, label, whole, aisles, pitch_cm, x2, y2, near, price_minor,
                currency, sale_from_ms, sale_until_ms, sold, held, holds, lapses_at_ms, best_run, ver)
           VALUES (:space, :show_id, :row_no, :place, :section, :label, :whole, :aisles, :pitch_cm, :x2, :y2, :near,
                   :price_minor, :currency, :sale_from_ms, :sale_until_ms, 0, 0, '', {null:int}, :best_run, 0)""",
        [
            {
                "show_id": show.id, "row_no": row_no, "place": place, "section": section, "label": label,
                "whole": seats, "aisles": aisles, "pitch_cm": pitch_cm, "x2": x2, "y2": y2, "near": near,
                "price_minor": show.prices[category].minor, "currency": currency,
                "sale_from_ms": show.sale_from_ms, "sale_until_ms": show.sale_until_ms,
                "best_run": longest_run(seats, aisles),
            }
            for row_no, place, section, category, label, seats, aisles, pitch_cm, x2, y2, near in rows
        ],
    )  # fmt: skip


def _laid_out(sections: Sequence[Section], focus_cm: tuple[int, int]) -> Iterator[dict[str, Any]]:
    """Check the sections and give the columns of each row, in the order of `place`."""
    focus_x, focus_y = (_coordinate("focus_cm", at) for at in focus_cm)
    if not 1 <= len(sections) <= SECTIONS_MAX:
        raise Invalid("A venue has 1 to 200 sections.", sections=len(sections))
    if len({section.name for section in sections}) != len(sections):
        raise Invalid("Two sections of a venue have the same name.", code="twice")
    if sum(len(section.rows) for section in sections) > ROWS_MAX:
        raise Invalid("A venue has at most 2,000 rows of seats.", code="rows", most=ROWS_MAX)
    place, y_cm = 0, -ROW_DEPTH_CM
    for section in sections:
        text("section", section.name, SECTION_LENGTH_MAX)
        category = section.name if section.category is None else text("category", section.category, SECTION_LENGTH_MAX)
        if not section.rows:
            raise Invalid("A section has 1 row of seats or more.", section=section.name)
        if len({row.label for row in section.rows}) != len(section.rows):
            raise Invalid("Two rows of a section have the same label.", code="twice", section=section.name)
        for row in section.rows:
            place += 1
            y_cm = y_cm + ROW_DEPTH_CM if row.y_cm is None else _coordinate("y_cm", row.y_cm)
            columns = _columns(row, y_cm, focus_x, focus_y)
            yield {"place": place, "section": section.name, "category": category, **columns}


def _coordinate(name: str, value: int) -> int:
    return whole(name, value, -COORDINATE_CM_MAX, COORDINATE_CM_MAX)


def _columns(row: Row, y_cm: int, focus_x: int, focus_y: int) -> dict[str, Any]:
    text("label", row.label, LABEL_LENGTH_MAX)
    whole("seats", row.seats, 1, SEATS_PER_ROW_MAX)
    whole("pitch_cm", row.pitch_cm, 1, PITCH_CM_MAX)
    whole("aisles", len(row.aisles), 0, SEATS_PER_ROW_MAX)
    for seat in row.aisles:
        if whole("aisles", seat, 1, SEATS_PER_ROW_MAX) > row.seats:
            raise Invalid("An aisle follows a seat of its row.", code="aisles", aisle=seat, seats=row.seats)
    width2 = 2 * row.pitch_cm * (row.seats - 1)
    x2 = -(width2 // 2) if row.x_cm is None else 2 * _coordinate("x_cm", row.x_cm)
    x2 -= 2 * focus_x
    y2 = 2 * (y_cm - focus_y)
    # No block of this row is nearer to the focal point than its nearest seat would be.
    across = max(0, x2, -(x2 + width2))
    return {
        "label": row.label, "whole": (1 << row.seats) - 1, "aisles": mask_of(row.aisles), "pitch_cm": row.pitch_cm,
        "x2": x2, "y2": y2, "near": across * across + y2 * y2,
    }  # fmt: skip


def _checked_prices(prices: Mapping[str, Money], categories: set[str]) -> str:
    if set(prices) != categories:
        raise Invalid(
            "The prices are not those of the venue's categories.", code="prices", categories=sorted(categories)[:20]
        )
    for price in prices.values():
        whole("price", price.minor, 0, PRICE_MINOR_MAX)
    currencies = {price.currency for price in prices.values()}
    if len(currencies) != 1:
        raise Invalid("The prices of a show are in one currency.", code="currency", currencies=sorted(currencies)[:20])
    return currencies.pop()


def _cursor(after: str) -> tuple[int, str]:
    place = _CURSOR.fullmatch(after)
    if place is None:
        raise Invalid("The cursor is not one of this list.", code="cursor")
    return int(place[1] or 0), place[2] or ""


def _show(row: SqlRow) -> Show:
    show_id, venue_id, title, starts_at_ms, sale_from_ms, sale_until_ms, stored, currency = row
    prices = {category: Money(minor, currency) for category, minor in codec.decode(stored, dict[str, int]).items()}
    return Show(show_id, venue_id, title, starts_at_ms, sale_from_ms, sale_until_ms, prices)
