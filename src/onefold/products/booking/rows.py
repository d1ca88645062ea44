"""The deciding row: locking it, reading its holds, storing it. Used by the operations only.

The protocol: lock the row, drop lapsed holds from it, decide, store it. Every change of a hold
changes its row, so that a transaction on an older snapshot fails instead of believing it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec

from onefold.core.codec import decoder_of
from onefold.engine.tx import Tx
from onefold.products.booking.choose import Shape
from onefold.products.booking.seats import longest_run


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """A hold as it stands in its row."""

    id: str
    by: str
    mask: int
    price_minor: int
    created_at_ms: int
    expires_at_ms: int


class SeatRow(NamedTuple):
    """A row of seats of a show, as read under its lock."""

    row: int
    place: int
    section: str
    label: str
    whole: int
    aisles: int
    pitch_cm: int
    x2: int
    y2: int
    near: int
    price_minor: int
    currency: str
    sale_from_ms: int
    sale_until_ms: int
    sold: int
    held: int
    holds: str
    lapses_at_ms: int | None
    ver: int

    @property
    def free(self) -> int:
        """Seats neither held nor sold; those of lapsed holds count once `swept` dropped them."""
        return self.whole & ~(self.held | self.sold)

    def shape(self) -> Shape:
        """What choosing needs."""
        return Shape(
            self.row, self.place, self.section, self.aisles, self.pitch_cm, self.x2, self.y2, self.near, self.free
        )


class HoldKey(NamedTuple):
    """What a hold's id says: its name in the rows, which rows, its slot, its show."""

    name: str
    rows: tuple[int, ...]
    slot: int
    show_id: str


_encoder = msgspec.json.Encoder()
_decoder = decoder_of(Entry)
_HOLD_ID = re.compile(r"(hold_[0-9a-f]{32})\.([0-9]{1,4}(?:-[0-9]{1,4})?)\.([0-9])\.([0-9a-f]{32})")


def hold_id_of(key: HoldKey) -> str:
    """The id that callers see: it finds the rows without an index of its own."""
    rows = "-".join(map(str, key.rows))
    return f"{key.name}.{rows}.{key.slot}.{key.show_id.removeprefix('show_')}"


def hold_key_of(hold_id: object) -> HoldKey | None:
    """The parts of a hold's id, or None when it is none of ours."""
    found = _HOLD_ID.fullmatch(hold_id) if isinstance(hold_id, str) else None
    if found is None:
        return None
    rows = tuple(map(int, found[2].split("-")))
    return HoldKey(found[1], rows, int(found[3]), f"show_{found[4]}")


def line_of(entry: Entry) -> str:
    """The entry's line in `holds`. Equal entries have equal lines, and no line is a part of another."""
    return _encoder.encode(entry).decode() + "\n"


def entries_of(holds: str) -> list[Entry]:
    """All holds of a row, lapsed ones too."""
    # Not `splitlines`: a buyer may have what that takes for the end of a line, and JSON leaves it, in his name.
    return [_decoder.decode(line) for line in holds.split("\n")[:-1]]


def lapsed_in(holds: str, now_ms: int) -> tuple[int, int]:
    """Which seats belong to lapsed holds, and how many such holds there are."""
    lapsed = [entry.mask for entry in entries_of(holds) if entry.expires_at_ms <= now_ms]
    return sum(lapsed), len(lapsed)  # The masks are disjoint, so their sum is their union.


def swept(row: SeatRow, now_ms: int) -> SeatRow:
    """The row without its lapsed holds; not stored yet.

    `ver` grows by one for each: what buyers see, at a given time, stays the same.
    """
    if row.lapses_at_ms is None or row.lapses_at_ms > now_ms:
        return row
    alive = [entry for entry in entries_of(row.holds) if entry.expires_at_ms > now_ms]
    gone = row.holds.count("\n") - len(alive)
    return row._replace(
        held=sum(entry.mask for entry in alive), holds="".join(map(line_of, alive)), ver=row.ver + gone,
        lapses_at_ms=min((entry.expires_at_ms for entry in alive), default=None),
    )  # fmt: skip


def with_entry(row: SeatRow, entry: Entry) -> SeatRow:
    """The row with one more hold."""
    lapses_at_ms = entry.expires_at_ms if row.lapses_at_ms is None else min(row.lapses_at_ms, entry.expires_at_ms)
    return row._replace(
        held=row.held | entry.mask, holds=row.holds + line_of(entry), lapses_at_ms=lapses_at_ms, ver=row.ver + 1
    )


def without_entry(row: SeatRow, entry: Entry) -> SeatRow:
    """The row with that hold gone and its seats free."""
    kept = row.holds.replace(line_of(entry), "")
    return row._replace(
        held=row.held & ~entry.mask, holds=kept, lapses_at_ms=row.lapses_at_ms if kept else None, ver=row.ver + 1
    )


def locked(tx: Tx, show_id: str, row_no: int) -> SeatRow | None:
    """The row, which nobody else changes until this transaction ends; waits for whoever has it."""
    row = tx.one(
        """SELECT row_no, place, section, label, whole, aisles, pitch_cm, x2, y2, near, price_minor, currency,
                  sale_from_ms, sale_until_ms, sold, held, holds, lapses_at_ms, ver
           FROM onefold.booking_rows WHERE space = :space AND show_id = :show_id AND row_no = :row_no
           {for_update}""",
        show_id=show_id, row_no=row_no,
    )  # fmt: skip
    return SeatRow(*row) if row else None


def try_locked(tx: Tx, show_id: str, row_no: int) -> SeatRow | None:
    """`locked`, but None when somebody else has it: never waits."""
    row = tx.one(
        """SELECT row_no, place, section, label, whole, aisles, pitch_cm, x2, y2, near, price_minor, currency,
                  sale_from_ms, sale_until_ms, sold, held, holds, lapses_at_ms, ver
           FROM onefold.booking_rows WHERE space = :space AND show_id = :show_id AND row_no = :row_no
           {for_update} {skip_locked}""",
        show_id=show_id, row_no=row_no,
    )  # fmt: skip
    return SeatRow(*row) if row else None


def store(tx: Tx, show_id: str, row: SeatRow) -> None:
    """Write what may change of a locked row."""
    tx.run(
        """UPDATE onefold.booking_rows
           SET sold = :sold, held = :held, holds = :holds, lapses_at_ms = :lapses_at_ms, best_run = :best_run,
               ver = :ver
           WHERE space = :space AND show_id = :show_id AND row_no = :row_no""",
        show_id=show_id, row_no=row.row, sold=row.sold, held=row.held, holds=row.holds,
        lapses_at_ms=row.lapses_at_ms, best_run=longest_run(row.free, row.aisles), ver=row.ver,
    )  # fmt: skip
