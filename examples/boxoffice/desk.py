"""What the pages and the JSON of the shop ask of the database, as functions over `tx`."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from examples.boxoffice import paying, receipts, wallets

from onefold import Conflict, Denied, Money, NotFound, Tx, booking, events, idempotency

TTL_MS = 300_000  # Five minutes to pay.
SEATS_MAX = 10  # Of one hold.


class Wish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What somebody wants to hold: seats of a row, or the best `count` (of a section)."""

    row: int | None = None
    seats: tuple[int, ...] = ()
    count: int | None = None
    section: str | None = None
    ttl_ms: int = TTL_MS


class Till(msgspec.Struct, frozen=True):
    """A hold that is about to be paid; `payment` is under way for it, if any."""

    hold: booking.Hold
    show: booking.Show
    balance: Money
    now_ms: int
    payment: str | None


class Bought(msgspec.Struct, frozen=True):
    """An order with what it is for, its receipt once that was sent, and on its own page how it was paid."""

    order: booking.Order
    show: booking.Show
    receipt: events.Event | None
    paid: paying.Paid | None = None


def take(tx: Tx, show_id: str, *, by: str, wish: Wish) -> booking.Hold:
    """Hold what is wished for; a first-time visitor gets a wallet with it."""
    wallets.open_wallet(tx, by)
    if wish.row is not None:
        return booking.hold(tx, show_id, by=by, row=wish.row, seats=wish.seats, ttl_ms=wish.ttl_ms)
    count = 1 if wish.count is None else wish.count
    return booking.hold_best(
        tx, show_id, by=by, count=count, section=wish.section, ttl_ms=wish.ttl_ms, split=count > 1
    )


def take_once(tx: Tx, show_id: str, *, by: str, wish: Wish, key: str) -> booking.Hold:
    """`take`, once for each key: who lost the answer gets the same hold again, not a second one."""
    return idempotency.once(
        tx, key, lambda: take(tx, show_id, by=by, wish=wish), scope=f"hold {by}", request=[show_id, wish],
        kind=booking.Hold,
    ).value  # fmt: skip


def take_instead(tx: Tx, show_id: str, *, by: str, wish: Wish, old: str | None) -> booking.Hold:
    """`take` for people, who look at one basket: what they held before is given back."""
    if old:
        try:
            with tx.savepoint():
                paying.give_back(tx, old, by=by)
        except (NotFound, Denied, Conflict):  # A stale or strange cookie is no reason to refuse; paid is paid.
            pass
    return take(tx, show_id, by=by, wish=wish)


def till(tx: Tx, hold_id: str, *, by: str) -> Till:
    """The hold, what it is for, and what is in the wallet."""
    hold = booking.hold_of(tx, hold_id, by=by)
    payment = paying.open_payment(tx, hold_id, by=by)
    return Till(hold, booking.show_of(tx, hold.show_id), wallets.balance(tx, by), tx.now_ms, payment)


def try_hold(tx: Tx, hold_id: str, *, by: str) -> booking.Hold | None:
    """The hold if it is still alive and this visitor's."""
    try:
        with tx.savepoint():
            return booking.hold_of(tx, hold_id, by=by)
    except (NotFound, Denied, Conflict):
        return None


def bought(tx: Tx, order_id: str, *, by: str) -> Bought:
    """The visitor's order."""
    order = booking.order_of(tx, order_id, by=by)
    return msgspec.structs.replace(_bought(tx, order), paid=paying.paid_of(tx, order))


def all_bought(tx: Tx, *, by: str) -> tuple[list[Bought], Money]:
    """The visitor's latest orders, and what is in the wallet."""
    orders = booking.list_orders(tx, by=by, limit=50).items
    return [_bought(tx, order) for order in orders], wallets.balance(tx, by)


def _bought(tx: Tx, order: booking.Order) -> Bought:
    return Bought(order, booking.show_of(tx, order.show_id), receipts.receipt_of(tx, order.id))


def seats_of(blocks: Sequence[booking.Block]) -> dict[int, frozenset[int]]:
    """Seats by row."""
    return {block.row: frozenset(block.seats) for block in blocks}


def evening(tx: Tx, show_id: str, *, by: str | None) -> tuple[booking.Show, dict[int, frozenset[int]]]:
    """The show, and which of its seats the visitor has bought."""
    mine: dict[int, frozenset[int]] = {}
    if by is not None:
        for order in booking.list_orders(tx, by=by, show_id=show_id, limit=50).items:
            for row, seats in seats_of(order.blocks).items() if order.cancelled_at_ms is None else ():
                mine[row] = mine.get(row, frozenset()) | seats
    return booking.show_of(tx, show_id), mine


def evenings(tx: Tx, title: str, *, from_ms: int) -> list[tuple[booking.Show, int]]:
    """The coming performances of a work, and how many seats are free."""
    shows = [show for show in booking.list_shows(tx, from_ms=from_ms, limit=1_000).items if show.title == title]
    return [(show, sum(count.free for count in booking.availability(tx, show.id))) for show in shows[:20]]
