"""Tidying: slots of ended holds are forgotten, lapsed holds dropped from their rows. Nothing depends on it."""

from __future__ import annotations

from onefold.engine.tx import Tx
from onefold.products.booking.rows import entries_of, hold_key_of, line_of
from onefold.products.booking.seats import longest_run

TIDY_MAX = 200


def tidy_lapsed(tx: Tx) -> bool:
    """Forget slots of ended holds and drop lapsed holds from their rows; True when more may be left.

    Nothing depends on it: lapsed seats are free anyway. It keeps tables small and wakes the pages
    that show a seat map. Works in all spaces, at READ COMMITTED.
    """
    slots = tx.all(
        """DELETE FROM onefold.booking_slots WHERE (space, show_id, buyer, slot) IN (
               SELECT space, show_id, buyer, slot FROM onefold.booking_slots
               WHERE expires_at_ms <= :now_ms LIMIT :most {for_update} {skip_locked})
           RETURNING space, show_id, hold_id, expires_at_ms -- all spaces""",
        most=TIDY_MAX,
    )
    rows: set[tuple[int, str, int]] = set()
    for space, show_id, hold_id, expires_at_ms in slots:
        if expires_at_ms:
            rows |= {(space, show_id, row_no) for row_no in _rows_of(hold_id)}
    for space, show_id, row_no in sorted(rows):
        _tidy_row(tx, space, show_id, row_no)
    for show_id in sorted({show_id for _, show_id, _ in rows}):
        tx.wake(f"booking/{show_id}")
    return len(slots) == TIDY_MAX


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
