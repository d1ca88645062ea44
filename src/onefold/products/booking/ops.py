"""Holds and orders: seats are taken for a while, then sold, and never twice.

What decides is the row of seats, locked: which seats are sold and held, by whom and until when,
stands in that one row (see schema/001.sql and rows.py). Expiry is a predicate on the
transaction's time; whoever takes the seats of a lapsed hold removes its entry from the row, and
`confirm` needs the entry. So two transactions can never sell one seat, at READ COMMITTED too and
with clocks that disagree.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from onefold.core import codec, limits
from onefold.core.errors import Conflict, Denied, Invalid, NotFound, Retry
from onefold.core.money import Money
from onefold.engine.tx import Tx, operation
from onefold.products.booking.orders import order_from, order_of
from onefold.products.booking.records import (
    BY_LENGTH_MAX,
    HOLD_LIFE_MS_MAX,
    HOLD_SEATS_MAX,
    HOLDS_PER_BUYER_MAX,
    ID_LENGTH_MAX,
    ROWS_MAX,
    SECTION_LENGTH_MAX,
    TTL_MS_MAX,
    TTL_MS_MIN,
    Block,
    By,
    Hold,
    HoldId,
    Id,
    Order,
    RowNumber,
    Seat,
    SectionName,
    TtlMs,
    text,
    whole,
)
from onefold.products.booking.rows import (
    Entry,
    HoldKey,
    SeatRow,
    entries_of,
    hold_id_of,
    hold_key_of,
    line_of,
    locked,
    store,
    swept,
    with_entry,
    without_entry,
)
from onefold.products.booking.search import secure_best, secure_split
from onefold.products.booking.seats import SEATS_PER_ROW_MAX, mask_of, seats_of

SLOT_TRIES = 8  # More only when one buyer holds in many places at the same instant.

Seats = Annotated[Sequence[Seat], limits.many(1, HOLD_SEATS_MAX, unique=True)]
Count = Annotated[int, limits.whole(1, HOLD_SEATS_MAX)]


@operation
def hold(tx: Tx, show_id: Id, *, by: By, row: RowNumber, seats: Seats, ttl_ms: TtlMs) -> Hold:
    """Hold exactly these seats of one row.

    Args:
        show_id: the show.
        by: whose hold; 1 to 200 characters. One buyer has at most 4 holds alive in a show.
        row: the number of the row, as in the seat map: 1 is the nearest to the focal point.
        seats: 1 to 10 different seat numbers.
        ttl_ms: how long; 1,000 to 1,800,000.

    Raises:
        NotFound: the show has no such row.
        Conflict: somebody has a seat (code "seats_taken", fact "taken"), it is not on sale
            ("not_on_sale"), or the buyer has 4 holds alive ("too_many_holds").
        Invalid: an argument is out of range; nothing was written.
    """
    _check_request(show_id, by, ttl_ms)
    whole("row", row, 1, ROWS_MAX)
    for seat in seats:
        whole("seat", seat, 1, SEATS_PER_ROW_MAX)
    mask = mask_of(seats)
    if not 1 <= len(seats) <= HOLD_SEATS_MAX or mask.bit_count() != len(seats):
        raise Invalid("A hold has 1 to 10 different seats.", seats=len(seats), most=HOLD_SEATS_MAX)
    found = locked(tx, show_id, row)
    if found is None or mask & ~found.whole:
        raise NotFound("The show has no such seats.", show=show_id, row=row)
    found = swept(found, tx.now_ms)
    if mask & ~found.free:
        raise Conflict("Somebody has a seat.", code="seats_taken", taken=seats_of(mask & ~found.free), row=row)
    return _taken(tx, show_id, [(found, mask)], by, ttl_ms)


@operation
def hold_best(
    tx: Tx, show_id: Id, *, by: By, count: Count, section: SectionName | None = None, ttl_ms: TtlMs,
    split: bool = False,
) -> Hold:
    """Hold the best `count` adjacent seats.

    Best is: leaving no single free seat beside the block if that can be avoided, then near the
    venue's focal point. Among rows within three metres of the best one is drawn at random, so
    that a crowd does not queue for one row. The 64 nearest rows with room are compared.

    Args:
        show_id: the show.
        by: whose hold; 1 to 200 characters. One buyer has at most 4 holds alive in a show.
        count: 1 to 10.
        section: only there; None for anywhere.
        ttl_ms: how long; 1,000 to 1,800,000.
        split: when no row has room, take two blocks in two rows, one behind the other.

    Raises:
        NotFound: there is no such show, or section of it.
        Conflict: no such seats are free (code "no_seats"), it is not on sale ("not_on_sale"),
            or the buyer has 4 holds alive ("too_many_holds").
        Retry: others took the seats while they were being chosen.
        Invalid: an argument is out of range; nothing was written.
    """
    _check_request(show_id, by, ttl_ms)
    whole("count", count, 1, HOLD_SEATS_MAX)
    if section is not None:
        text("section", section, SECTION_LENGTH_MAX)
    found = secure_best(tx, show_id, section, count)
    parts = [found] if found else None
    if parts is None and split and count > 1:
        parts = secure_split(tx, show_id, section, count)
    if parts:
        return _taken(tx, show_id, parts, by, ttl_ms)
    known = tx.one(
        """SELECT 1 FROM onefold.booking_rows WHERE space = :space AND show_id = :show_id
             AND section = coalesce(:section, section) LIMIT 1""",
        show_id=show_id, section=section,
    )
    if known is None:
        raise NotFound("There is no such show or section.", show=show_id, section=section)
    raise Conflict("No such seats are free.", code="no_seats", count=count, section=section)


@operation
def hold_of(tx: Tx, hold_id: HoldId, *, by: By) -> Hold:
    """The live hold, with its rows locked: until this transaction ends nobody can take the seats.

    Raises:
        NotFound: there is no such hold: it was released, confirmed, or its seats went to others.
        Conflict: it lapsed (code "hold_lapsed").
        Denied: it is somebody else's.
    """
    return _with_rows(tx, hold_id, by)[0]


@operation
def extend(tx: Tx, hold_id: HoldId, *, by: By, ttl_ms: TtlMs) -> Hold:
    """Let the hold live until `ttl_ms` from now, but never beyond an hour from its making.

    Never shortens it. The answer says when it ends.

    Args:
        hold_id: the hold; it must be alive.
        by: whose.
        ttl_ms: 1,000 to 1,800,000.

    Raises:
        NotFound, Conflict, Denied: as `hold_of`.
    """
    _check_ttl(ttl_ms)
    held, rows = _with_rows(tx, hold_id, by)
    until = min(tx.now_ms + ttl_ms, held.created_at_ms + HOLD_LIFE_MS_MAX)
    if until <= held.expires_at_ms:
        return held
    key = _key(hold_id)
    for row, entry in rows:
        later = Entry(entry.id, entry.by, entry.mask, entry.price_minor, entry.created_at_ms, until)
        store(tx, held.show_id, with_entry(without_entry(row, entry), later))
    kept = tx.one(
        """UPDATE onefold.booking_slots SET expires_at_ms = :until
           WHERE space = :space AND show_id = :show_id AND buyer = :by AND slot = :slot AND hold_id = :hold_id
           RETURNING slot""",
        show_id=held.show_id, by=by, slot=key.slot, hold_id=hold_id, until=until,
    )
    if kept is None:  # Only when clocks disagree: for another one the hold had lapsed.
        raise Conflict("The hold lapsed.", code="hold_lapsed", hold=hold_id)
    return Hold(held.id, held.show_id, by, held.blocks, held.price, held.created_at_ms, until)


@operation
def release(tx: Tx, hold_id: HoldId, *, by: By) -> bool:
    """Give the seats back. False when the hold is gone already or lapsed; that is as good.

    Raises:
        Invalid: `by` is out of range.
        NotFound: this is no id of a hold.
        Denied: it is somebody else's.
    """
    key = _key(hold_id)
    text("by", by, BY_LENGTH_MAX)
    freed = False
    for row_no in key.rows:
        row = locked(tx, key.show_id, row_no)
        entry = _entry(row, key.name) if row else None
        if row is None or entry is None:
            continue
        if entry.by != by:
            raise Denied("The hold is somebody else's.", code="hold_foreign", hold=hold_id)
        freed = freed or entry.expires_at_ms > tx.now_ms
        store(tx, key.show_id, without_entry(row, entry))
    if freed:
        _free_slot(tx, key, hold_id, by)
        tx.emit("booking.released", show=key.show_id, hold=hold_id)
        tx.wake(f"booking/{key.show_id}")
    return freed


@operation
def confirm(tx: Tx, hold: Hold) -> Order:
    """Sell the seats of a hold: they become an order's, for good.

    Call it in the transaction that takes the money, with what `hold_of` answered there. A hold of
    an earlier transaction is checked just as well.

    Raises:
        Conflict: the hold lapsed, or was changed or taken since it was read (code "hold_lapsed").
        NotFound: it is no hold.
    """
    key = _key(hold.id)
    blocks = hold.blocks
    if (
        hold.expires_at_ms <= tx.now_ms
        or key.rows != tuple(block.row for block in blocks)
        or hold.price != _sum(blocks)
    ):
        raise Conflict("The hold lapsed.", code="hold_lapsed", hold=hold.id)
    for block in hold.blocks:
        mask = mask_of(block.seats)
        entry = Entry(key.name, hold.by, mask, block.price.minor, hold.created_at_ms, hold.expires_at_ms)
        # One statement decides: the entry is there to the letter, so nobody took its seats,
        # and leaves; its bits move from held to sold. Whoever comes second finds no entry.
        done = tx.one(
            """UPDATE onefold.booking_rows
               SET sold = sold | :mask, held = held & (~:mask), holds = replace(holds, :line, ''), ver = ver + 1,
                   lapses_at_ms = CASE WHEN held = :mask THEN {null:int} ELSE lapses_at_ms END
               WHERE space = :space AND show_id = :show_id AND row_no = :row_no
                 AND (held & :mask) = :mask AND (sold & :mask) = 0 AND replace(holds, :line, '') <> holds
               RETURNING ver""",
            show_id=key.show_id, row_no=block.row, mask=mask, line=line_of(entry),
        )  # fmt: skip
        if done is None:
            raise Conflict("The hold lapsed, or was changed since it was read.", code="hold_lapsed", hold=hold.id)
    _free_slot(tx, key, hold.id, hold.by)
    order = Order(
        tx.new_id("order"), key.show_id, hold.by, hold.id, hold.blocks, _sum(hold.blocks), tx.now_ms, None
    )
    tx.run(
        """INSERT INTO onefold.booking_orders
               (space, id, show_id, buyer, hold_id, blocks, price_minor, currency, created_at_ms)
           VALUES (:space, :id, :show_id, :by, :hold_id, :blocks, :price_minor, :currency, :now_ms)""",
        id=order.id, show_id=key.show_id, by=hold.by, hold_id=hold.id, blocks=codec.encode(order.blocks),
        price_minor=order.price.minor, currency=order.price.currency,
    )  # fmt: skip
    tx.emit("booking.sold", show=key.show_id, order=order.id, hold=hold.id)
    tx.wake(f"booking/{key.show_id}")
    return order


@operation
def confirm_hold(tx: Tx, hold_id: HoldId, *, by: By) -> Order:
    """`hold_of` and `confirm`, where nothing stands between them: free tickets, or paid elsewhere.

    Raises:
        NotFound, Conflict, Denied: as `hold_of`.
    """
    return confirm(tx, hold_of(tx, hold_id, by=by))


@operation
def cancel(tx: Tx, order_id: Id, *, by: By | None = None) -> Order:
    """Cancel an order: its seats are free again. The money is the caller's, in the same transaction.

    Args:
        order_id: the order.
        by: whose it must be; None for the house, which may cancel any.

    Raises:
        NotFound: there is no such order.
        Denied: it is somebody else's.
        Conflict: it was cancelled before (code "order_cancelled").
    """
    row = tx.one(
        """UPDATE onefold.booking_orders SET cancelled_at_ms = :now_ms
           WHERE space = :space AND id = :id AND cancelled_at_ms IS NULL
           RETURNING id, show_id, buyer, hold_id, blocks, price_minor, currency, created_at_ms, cancelled_at_ms""",
        id=text("order_id", order_id, ID_LENGTH_MAX),
    )
    order = order_from(row) if row else order_of(tx, order_id, by=by)
    if by is not None and order.by != by:
        raise Denied("The order is somebody else's.", code="order_foreign", order=order_id)
    if row is None:
        raise Conflict("The order was cancelled before.", code="order_cancelled", order=order_id)
    for block in order.blocks:
        seats = locked(tx, order.show_id, block.row)
        if seats is None:  # The show is over and its seat map was removed.
            continue
        mask = mask_of(block.seats)
        assert seats.sold & mask == mask, "the seats of a live order are sold"
        store(tx, order.show_id, seats._replace(sold=seats.sold & ~mask, ver=seats.ver + 1))
    tx.emit("booking.cancelled", show=order.show_id, order=order.id)
    tx.wake(f"booking/{order.show_id}")
    return order


def _taken(tx: Tx, show_id: str, parts: list[tuple[SeatRow, int]], by: str, ttl_ms: int) -> Hold:
    """Enter a hold into rows that are locked, swept, and free where the masks say."""
    for row, _ in parts:
        if not row.sale_from_ms <= tx.now_ms < row.sale_until_ms:
            raise Conflict(
                "The show is not on sale now.", code="not_on_sale", sale_from_ms=row.sale_from_ms,
                sale_until_ms=row.sale_until_ms,
            )  # fmt: skip
    name, until = tx.new_id("hold"), tx.now_ms + ttl_ms
    hold_id = _slotted(tx, show_id, HoldKey(name, tuple(row.row for row, _ in parts), 0, show_id), by, until)
    blocks: list[Block] = []
    for row, mask in parts:
        entry = Entry(name, by, mask, row.price_minor * mask.bit_count(), tx.now_ms, until)
        store(tx, show_id, with_entry(row, entry))
        blocks.append(_block(row, entry))
    tx.emit("booking.held", show=show_id, hold=hold_id)
    tx.wake(f"booking/{show_id}")
    return Hold(hold_id, show_id, by, tuple(blocks), _sum(blocks), tx.now_ms, until)


def _slotted(tx: Tx, show_id: str, key: HoldKey, by: str, until: int) -> str:
    """Occupy one of the buyer's slots: the key allows one live hold in each, whoever comes at once.

    The first is tried by writing. Who has a hold already pays for one look.
    """
    slots = [0]
    for _ in range(SLOT_TRIES):
        for slot in slots:
            hold_id = hold_id_of(key._replace(slot=slot))
            done = tx.one(
                """INSERT INTO onefold.booking_slots (space, show_id, buyer, slot, hold_id, expires_at_ms)
                   VALUES (:space, :show_id, :by, :slot, :hold_id, :until)
                   ON CONFLICT (space, show_id, buyer, slot) DO UPDATE
                   SET hold_id = excluded.hold_id, expires_at_ms = excluded.expires_at_ms
                   WHERE onefold.booking_slots.expires_at_ms <= :now_ms
                   RETURNING slot""",
                show_id=show_id, by=by, slot=slot, hold_id=hold_id, until=until,
            )  # fmt: skip
            if done is not None:
                return hold_id
        taken = tx.all(
            """SELECT slot FROM onefold.booking_slots
               WHERE space = :space AND show_id = :show_id AND buyer = :by AND expires_at_ms > :now_ms
               ORDER BY slot LIMIT 10""",
            show_id=show_id, by=by,
        )
        slots = sorted(set(range(HOLDS_PER_BUYER_MAX)) - {row[0] for row in taken})[:1]
        if not slots:
            raise Conflict(
                "The buyer has as many holds in this show as are allowed.", code="too_many_holds",
                most=HOLDS_PER_BUYER_MAX,
            )  # fmt: skip
    raise Retry("The buyer holds seats in too many places at once.", code="slots_contended")


def _free_slot(tx: Tx, key: HoldKey, hold_id: str, by: str) -> None:
    # Written by insertion, though the row is there: PostgreSQL takes no predicate lock for it.
    tx.run(
        """INSERT INTO onefold.booking_slots (space, show_id, buyer, slot, hold_id, expires_at_ms)
           VALUES (:space, :show_id, :by, :slot, :hold_id, 0)
           ON CONFLICT (space, show_id, buyer, slot) DO UPDATE SET expires_at_ms = 0
           WHERE onefold.booking_slots.hold_id = excluded.hold_id""",
        show_id=key.show_id, by=by, slot=key.slot, hold_id=hold_id,
    )


def _with_rows(tx: Tx, hold_id: str, by: str) -> tuple[Hold, list[tuple[SeatRow, Entry]]]:
    """The live hold and its rows, locked, in the order of their numbers."""
    key = _key(hold_id)
    found: list[tuple[SeatRow, Entry]] = []
    for row_no in key.rows:
        row = locked(tx, key.show_id, row_no)
        entry = _entry(row, key.name) if row else None
        if row is None or entry is None:
            raise NotFound("There is no such hold any more.", code="hold_gone", hold=hold_id)
        if entry.by != by:
            raise Denied("The hold is somebody else's.", code="hold_foreign", hold=hold_id)
        if entry.expires_at_ms <= tx.now_ms:
            raise Conflict("The hold lapsed.", code="hold_lapsed", hold=hold_id)
        found.append((row, entry))
    blocks = tuple(_block(row, entry) for row, entry in found)
    first = found[0][1]
    held = Hold(hold_id, key.show_id, by, blocks, _sum(blocks), first.created_at_ms, first.expires_at_ms)
    return held, found


def _entry(row: SeatRow, name: str) -> Entry | None:
    if name not in row.holds:  # Spares decoding; a name in a text of somebody's making is no entry.
        return None
    return next((entry for entry in entries_of(row.holds) if entry.id == name), None)


def _block(row: SeatRow, entry: Entry) -> Block:
    return Block(row.row, row.section, row.label, tuple(seats_of(entry.mask)), Money(entry.price_minor, row.currency))


def _sum(blocks: Sequence[Block]) -> Money:
    total = blocks[0].price
    for block in blocks[1:]:
        total += block.price
    return total


def _key(hold_id: str) -> HoldKey:
    key = hold_key_of(hold_id)
    if key is None:
        raise NotFound("This is not the id of a hold.", code="hold_gone")
    return key


def _check_request(show_id: str, by: str, ttl_ms: int) -> None:
    text("show_id", show_id, ID_LENGTH_MAX)
    text("by", by, BY_LENGTH_MAX)
    _check_ttl(ttl_ms)


def _check_ttl(ttl_ms: int) -> None:
    if type(ttl_ms) is not int or not TTL_MS_MIN <= ttl_ms <= TTL_MS_MAX:
        raise Invalid("ttl_ms is out of range.", least=TTL_MS_MIN, most=TTL_MS_MAX)
