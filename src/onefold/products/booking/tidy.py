"""Tidying: slots of ended holds are forgotten, lapsed holds dropped from their rows. Nothing depends on it."""

from __future__ import annotations

from onefold.engine.tx import Tx
from onefold.engine.values import INTEGER_MAX
from onefold.products.booking.rows import entries_of, hold_key_of, line_of
from onefold.products.booking.seats import longest_run

TIDY_MAX = 200  # Slots forgotten in one step ...
WALK_ROWS = 5_000  # ... of so many looked at.
Key = tuple[int, str, str, int]
_FIRST: Key = (-1, "", "", -1)


def tidy_lapsed(tx: Tx) -> bool:
    """Forget slots of ended holds and drop lapsed holds from their rows; True when more may be left.

    Nothing depends on it: lapsed seats are free anyway. It keeps tables small and wakes the pages
    that show a seat map. Works in all spaces, at READ COMMITTED, and looks at the next 5,000 slots; True
    until it came to the end of them.
    """
    place = tx.one(
        "SELECT space, show_id, buyer, slot FROM onefold.booking_tidied ORDER BY space LIMIT 1 -- all spaces"
    )
    after: Key = place or _FIRST
    last = tx.one(
        """SELECT space, show_id, buyer, slot FROM onefold.booking_slots -- all spaces
            WHERE (space, show_id, buyer, slot) > (:from_space, :from_show, :from_buyer, :from_slot)
            ORDER BY space, show_id, buyer, slot LIMIT 1 OFFSET :skipped""",
        **_named("from", after), skipped=WALK_ROWS - 1,
    )  # fmt: skip
    until: Key = last or (INTEGER_MAX, "", "", 0)
    slots = tx.all(
        """DELETE FROM onefold.booking_slots WHERE (show_id, buyer, slot, space) IN (
               SELECT show_id, buyer, slot, space FROM onefold.booking_slots
               WHERE (space, show_id, buyer, slot) > (:from_space, :from_show, :from_buyer, :from_slot)
                 AND (space, show_id, buyer, slot) <= (:to_space, :to_show, :to_buyer, :to_slot)
                 AND expires_at_ms <= :now_ms
               ORDER BY space, show_id, buyer, slot LIMIT :most {for_update} {skip_locked})
           RETURNING space, show_id, buyer, slot, hold_id, expires_at_ms -- all spaces""",
        **_named("from", after), **_named("to", until), most=TIDY_MAX,
    )  # fmt: skip
    if len(slots) == TIDY_MAX:
        last = max((space, show_id, buyer, slot) for space, show_id, buyer, slot, *_ in slots)
    _note(tx, place, last)
    rows: set[tuple[int, str, int]] = set()
    for space, show_id, _, _, hold_id, expires_at_ms in slots:
        if expires_at_ms:
            rows |= {(space, show_id, row_no) for row_no in _rows_of(hold_id)}
    for space, show_id, row_no in sorted(rows):
        _tidy_row(tx, space, show_id, row_no)
    for show_id in sorted({show_id for _, show_id, _ in rows}):
        tx.wake(f"booking/{show_id}")
    return last is not None


def _named(end: str, key: Key) -> dict[str, int | str]:
    return dict(zip((f"{end}_space", f"{end}_show", f"{end}_buyer", f"{end}_slot"), key, strict=True))


def _note(tx: Tx, place: Key | None, last: Key | None) -> None:
    """Where the next step begins. A table that one step walks through leaves nothing to write."""
    if place is not None:
        tx.run("DELETE FROM onefold.booking_tidied -- all spaces")
    if last is not None:
        tx.run(
            """INSERT INTO onefold.booking_tidied (space, show_id, buyer, slot)
               VALUES (:at_space, :at_show, :at_buyer, :at_slot) -- all spaces
               ON CONFLICT (space) DO UPDATE
               SET show_id = excluded.show_id, buyer = excluded.buyer, slot = excluded.slot""",
            **_named("at", last),
        )


def _rows_of(hold_id: str) -> tuple[int, ...]:
    key = hold_key_of(hold_id)
    return key.rows if key else ()


def _tidy_row(tx: Tx, space: int, show_id: str, row_no: int) -> None:
    """What `swept` and `store` do, for a row of any space; left alone when somebody is at it."""
    row = tx.one(
        """SELECT whole, aisles, sold, holds, ver FROM onefold.booking_rows
           WHERE space = :in_space AND show_id = :show_id AND row_no = :row_no
           {for_update} {skip_locked} -- all spaces""",
        in_space=space, show_id=show_id, row_no=row_no,
    )  # fmt: skip
    if row is None:
        return
    whole, aisles, sold, holds, ver = row
    entries = entries_of(holds)
    alive = [entry for entry in entries if entry.expires_at_ms > tx.now_ms]
    held = sum(entry.mask for entry in alive)
    tx.run(
        """UPDATE onefold.booking_rows
           SET held = :held, holds = :holds, lapses_at_ms = :lapses_at_ms, best_run = :best_run, ver = :ver
           WHERE space = :in_space AND show_id = :show_id AND row_no = :row_no -- all spaces""",
        in_space=space, show_id=show_id, row_no=row_no, held=held, holds="".join(map(line_of, alive)),
        lapses_at_ms=min((entry.expires_at_ms for entry in alive), default=None),
        best_run=longest_run(whole & ~(held | sold), aisles), ver=ver + len(entries) - len(alive),
    )  # fmt: skip
