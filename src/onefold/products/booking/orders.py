"""Orders as they are read: one by its id, many by buyer, by show, or all."""

from __future__ import annotations

from onefold.core import codec
from onefold.core.errors import Denied, NotFound
from onefold.core.money import Money
from onefold.core.page import LIMIT_DEFAULT, Limit, Page, checked_limit, page_of
from onefold.engine.tx import Row, Tx, operation
from onefold.products.booking.records import BY_LENGTH_MAX, ID_LENGTH_MAX, Block, By, Id, IdCursor, Order, text


@operation
def order_of(tx: Tx, order_id: Id, *, by: By | None = None) -> Order:
    """The order, live or cancelled.

    Raises:
        NotFound: there is none with this id.
        Denied: `by` is given, and it is somebody else's.
    """
    row = tx.one(
        """SELECT id, show_id, buyer, hold_id, blocks, price_minor, currency, created_at_ms, cancelled_at_ms
           FROM onefold.booking_orders WHERE space = :space AND id = :id""",
        id=text("order_id", order_id, ID_LENGTH_MAX),
    )
    if row is None:
        raise NotFound("There is no such order.", order=order_id)
    order = order_from(row)
    if by is not None and order.by != by:
        raise Denied("The order is somebody else's.", code="order_foreign", order=order_id)
    return order


@operation
def list_orders(
    tx: Tx, *, by: By | None = None, show_id: Id | None = None, after: IdCursor | None = None,
    limit: Limit = LIMIT_DEFAULT,
) -> Page[Order]:
    """Orders, the newest first, also cancelled ones.

    Args:
        by: only this buyer's.
        show_id: only of this show; together with `by`, the buyer's orders are looked through.
        after: the cursor of the page before.
        limit: 1 to 1,000.
    """
    most = checked_limit(limit) + 1
    before = text("after", after, ID_LENGTH_MAX) if after else "p"  # Ids begin with "order_".
    if by is not None:
        rows = tx.all(
            """SELECT id, show_id, buyer, hold_id, blocks, price_minor, currency, created_at_ms, cancelled_at_ms
               FROM onefold.booking_orders
               WHERE space = :space AND buyer = :by AND id < :before AND show_id = coalesce(:show_id, show_id)
               ORDER BY id DESC LIMIT :most""",
            by=text("by", by, BY_LENGTH_MAX), before=before, most=most,
            show_id=None if show_id is None else text("show_id", show_id, ID_LENGTH_MAX),
        )  # fmt: skip
    elif show_id is not None:
        rows = tx.all(
            """SELECT id, show_id, buyer, hold_id, blocks, price_minor, currency, created_at_ms, cancelled_at_ms
               FROM onefold.booking_orders
               WHERE space = :space AND show_id = :show_id AND id < :before
               ORDER BY id DESC LIMIT :most""",
            show_id=text("show_id", show_id, ID_LENGTH_MAX), before=before, most=most,
        )  # fmt: skip
    else:
        rows = tx.all(
            """SELECT id, show_id, buyer, hold_id, blocks, price_minor, currency, created_at_ms, cancelled_at_ms
               FROM onefold.booking_orders WHERE space = :space AND id < :before ORDER BY id DESC LIMIT :most""",
            before=before, most=most,
        )
    return page_of([order_from(row) for row in rows], limit, lambda order: order.id)


def order_from(row: Row) -> Order:
    """The order of a row as the statements here select it."""
    blocks = codec.decode(row[4], tuple[Block, ...])
    return Order(row[0], row[1], row[2], row[3], blocks, Money(row[5], row[6]), row[7], row[8])
