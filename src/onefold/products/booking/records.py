"""What booking speaks of: venues, shows, holds, orders and seat maps; and how much of each."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from onefold.core import limits
from onefold.core.errors import Invalid
from onefold.core.money import Money
from onefold.products.booking.seats import SEATS_PER_ROW_MAX

ID_LENGTH_MAX = 64
NAME_LENGTH_MAX = 200
SECTION_LENGTH_MAX = 100
LABEL_LENGTH_MAX = 20
SECTIONS_MAX = 200
ROWS_MAX = 2_000  # Of one venue, 126,000 seats.
COORDINATE_CM_MAX = 100_000  # A kilometre.
PITCH_CM_MAX = 1_000
BY_LENGTH_MAX = 200
HOLD_SEATS_MAX = 10
HOLDS_PER_BUYER_MAX = 4  # Alive at once, in one show.
TTL_MS_MIN = 1_000
TTL_MS_MAX = 1_800_000  # Half an hour.
HOLD_LIFE_MS_MAX = 3_600_000  # An hour, with all extensions.
TIME_MS_MAX = 1 << 48  # The year 10889; ids have no room for more.
PRICE_MINOR_MAX = 10**12  # Of one seat, so that ten of them stay within Money.
HOLD_ID_LENGTH_MAX = 100

Id = Annotated[str, limits.text(1, ID_LENGTH_MAX)]
IdCursor = Annotated[str, limits.text(0, ID_LENGTH_MAX)]
HoldId = Annotated[str, limits.text(1, HOLD_ID_LENGTH_MAX)]
Name = Annotated[str, limits.text(1, NAME_LENGTH_MAX)]
SectionName = Annotated[str, limits.text(1, SECTION_LENGTH_MAX)]
By = Annotated[str, limits.text(1, BY_LENGTH_MAX)]
Coordinate = Annotated[int, limits.whole(-COORDINATE_CM_MAX, COORDINATE_CM_MAX)]
RowNumber = Annotated[int, limits.whole(1, ROWS_MAX)]
Seat = Annotated[int, limits.whole(1, SEATS_PER_ROW_MAX)]
Moment = Annotated[int, limits.whole(0, TIME_MS_MAX)]
TtlMs = Annotated[int, limits.whole(TTL_MS_MIN, TTL_MS_MAX)]
Price = Annotated[Money, limits.money(0, PRICE_MINOR_MAX)]


class Row(msgspec.Struct, frozen=True):
    """One physical row of seats, numbered from 1 on the left as seen from the stage's front.

    Attributes:
        label: "A"; unique in its section, 1 to 20 characters.
        seats: how many, 1 to 63. A longer row is entered as two.
        aisles: up to 63 seat numbers followed by an aisle: the seats on its two sides are not adjacent.
        x_cm: of the first seat, from any origin of yours; None centres the row on 0.
        y_cm: of the row, growing away from the stage; None puts it 90 cm behind the row before.
        pitch_cm: from one seat to the next, 1 to 1,000. Coordinates are at most 100,000 to either side.
    """

    label: Annotated[str, limits.text(1, LABEL_LENGTH_MAX)]
    seats: Seat
    aisles: Annotated[tuple[Seat, ...], limits.many(0, SEATS_PER_ROW_MAX)] = ()
    x_cm: Coordinate | None = None
    y_cm: Coordinate | None = None
    pitch_cm: Annotated[int, limits.whole(1, PITCH_CM_MAX)] = 55


class Section(msgspec.Struct, frozen=True):
    """Rows that belong together, the first in front.

    Attributes:
        name: unique in the venue, 1 to 100 characters.
        rows: 1 or more; at most `ROWS_MAX` in all sections together.
        category: what its price is called, 1 to 100 characters; None for the section's own name.
    """

    name: SectionName
    rows: Annotated[tuple[Row, ...], limits.many(1, ROWS_MAX)]
    category: SectionName | None = None


class Venue(msgspec.Struct, frozen=True):
    """A place with seats."""

    id: str
    name: str
    seats: int


class Show(msgspec.Struct, frozen=True):
    """One performance. Held and sold only from `sale_from_ms` until before `sale_until_ms`."""

    id: str
    venue_id: str
    title: str
    starts_at_ms: int
    sale_from_ms: int
    sale_until_ms: int
    prices: dict[str, Money]


class Block(msgspec.Struct, frozen=True):
    """Seats of one row: which row (`row` is its number, `label` what people see), which seats, their price together."""

    row: int
    section: str
    label: str
    seats: tuple[int, ...]
    price: Money


class Hold(msgspec.Struct, frozen=True):
    """Seats that nobody else can take until `expires_at_ms`.

    Attributes:
        id: also says where the hold stands; opaque, up to 100 characters.
        show_id: of which show.
        by: whose.
        blocks: one, or two when a party was split over adjacent rows.
        price: of all seats, as promised when they were held.
        created_at_ms: when it was made.
        expires_at_ms: from when on it cannot be confirmed.
    """

    id: str
    show_id: str
    by: str
    blocks: tuple[Block, ...]
    price: Money
    created_at_ms: int
    expires_at_ms: int

    @property
    def row(self) -> int:
        """The row of the first block."""
        return self.blocks[0].row

    @property
    def seats(self) -> tuple[int, ...]:
        """The seats of the first block; all there are unless the party was split."""
        return self.blocks[0].seats


class Order(msgspec.Struct, frozen=True):
    """Sold seats; cancelled when `cancelled_at_ms` is set."""

    id: str
    show_id: str
    by: str
    hold_id: str
    blocks: tuple[Block, ...]
    price: Money
    created_at_ms: int
    cancelled_at_ms: int | None

    @property
    def state(self) -> Literal["sold", "cancelled"]:
        """Whether the seats are (still) the buyer's."""
        return "sold" if self.cancelled_at_ms is None else "cancelled"


class RowMap(msgspec.Struct, frozen=True):
    """A row as buyers see it. `seats` has one digit per seat: "0" free, "1" held, "2" sold.

    `row` is what `hold` takes; rows come from front to back, but are numbered by nearness to the focal point.
    """

    row: int
    section: str
    label: str
    price: Money
    seats: str


class SeatMap(msgspec.Struct, frozen=True):
    """Rows of a show at one moment, front to back, and where to go on from (`version`).

    The counts are of the whole show, also when `rows` has only those that changed.
    """

    show_id: str
    version: str
    free: int
    held: int
    sold: int
    rows: list[RowMap]


class SectionCount(msgspec.Struct, frozen=True):
    """What is left in a section."""

    section: str
    price: Money
    free: int
    held: int
    sold: int


def grid(name: str, *, rows: int, seats: int, category: str | None = None) -> Section:
    """A section of equal rows, labelled A, B, ..., Z, AA, AB, ...; each `seats` wide."""
    whole("rows", rows, 1, ROWS_MAX)
    whole("seats", seats, 1, SEATS_PER_ROW_MAX)
    return Section(name, tuple(Row(_letters(number), seats) for number in range(rows)), category)


def whole(name: str, value: object, least: int, most: int) -> int:
    """`value` itself when it is a whole number in the range."""
    if type(value) is not int or not least <= value <= most:
        raise Invalid("A number is out of range.", name=name, least=least, most=most)
    return value


def text(name: str, value: object, most: int) -> str:
    """`value` itself when it is a text of 1 to `most` characters that every engine can store."""
    if type(value) is not str or not 1 <= len(value) <= most or "\0" in value:
        raise Invalid("A text is too short or too long, or holds a NUL.", name=name, most=most)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Invalid("A text must be valid Unicode.", name=name) from None
    return value


def _letters(number: int) -> str:
    letters = ""
    number += 1
    while number:
        number, digit = divmod(number - 1, 26)
        letters = chr(65 + digit) + letters
    return letters
