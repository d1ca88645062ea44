"""The audit: is everything that was sold there exactly once, with everything that belongs to it?

It reads the database through the blocks' own functions, it knows what the crowd was told, and it asks the world
outside: the payment provider, and the partner who got the webhooks. Run it when nobody buys: it reads page by page,
not one moment.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import msgspec
from examples.boxoffice.crowd.buyer import Told
from examples.boxoffice.crowd.witnesses import Witnesses, compare_cards, compare_webhooks
from examples.boxoffice.hall import CURRENCY
from examples.boxoffice.paying import PROVIDER
from examples.boxoffice.purchase import OrderPlaced
from examples.boxoffice.receipts import ReceiptSent
from examples.boxoffice.wallets import TILL

from onefold import Database, Page, Tx, booking, events, ledger, payments

DRAIN_S_MAX = 120.0
_PAGE = 1_000
_FAULTS_SHOWN = 10

S = TypeVar("S", bound=msgspec.Struct)
T = TypeVar("T")


class Report(msgspec.Struct):
    """What was counted. `lost` and `doubled` are how many faults of that sort there are.

    What only the world outside knows is None when it was not asked: `charges` at the provider, `silent` of which were
    unknown here for a while, and `late_refunded` of which came too late and went back by themselves; what it has
    taken less what went back, and the same by our ledger; `webhooks`, by id, and `webhooks_again`, how many came
    besides.
    """

    shows: int = 0
    seats_sold: int = 0
    seats_held: int = 0
    orders: int = 0
    transfers: int = 0
    by_card: int = 0
    charges: int | None = None
    silent: int | None = None
    late_refunded: int | None = None
    provider_minor: int | None = None
    ledger_minor: int | None = None
    events: int = 0
    receipts: int = 0
    webhooks: int | None = None
    webhooks_again: int | None = None
    accounts: int = 0
    acknowledged: int = 0
    ledger_sum: int = 0
    lost: int = 0
    doubled: int = 0
    other: int = 0
    faults: list[str] = []

    @property
    def passed(self) -> bool:
        """Whether there is nothing to complain of."""
        return not (self.lost or self.doubled or self.other or self.ledger_sum)

    def is_lost(self, text: str) -> None:
        """Something that should be there is not."""
        self.lost += 1
        self.faults.append(f"lost: {text}")

    def is_doubled(self, text: str) -> None:
        """Something is there more than once."""
        self.doubled += 1
        self.faults.append(f"doubled: {text}")

    def is_wrong(self, text: str) -> None:
        """Something is there that should not be, or is not as it should."""
        self.other += 1
        self.faults.append(f"wrong: {text}")

    def text(self) -> str:
        """For people."""
        lines = [
            f"  {name.replace('_', ' '):<14} {getattr(self, name):>10,}"
            for name in self.__struct_fields__
            if name != "faults" and getattr(self, name) is not None and (name != "other" or self.other)
        ]
        lines += [f"  {fault}" for fault in self.faults[:_FAULTS_SHOWN]]
        if len(self.faults) > _FAULTS_SHOWN:
            lines.append(f"  and {len(self.faults) - _FAULTS_SHOWN:,} more")
        lines.append("audit passed" if self.passed else "AUDIT FAILED")
        return "\n".join(lines)


def audit(
    db: Database, told: Sequence[Told] = (), *, outside: Witnesses | None = None, drain_s: float = DRAIN_S_MAX
) -> Report:
    """Count everything and compare.

    Args:
        db: the shop's database.
        told: the orders that buyers have in hand.
        outside: the provider and the partner; None does not ask them.
        drain_s: how long to wait for receipts, payments under way and webhooks (and, on PostgreSQL, for events to
            be numbered).
    """
    report = Report()
    orders = _seats(db, report)
    report.orders = len(orders)
    by_hold = {order.hold_id: order for order in orders.values()}
    by_card = _money(db, by_hold, report)
    if outside is not None:
        compare_cards(db, outside, by_hold, by_card, report, drain_s=drain_s)
    placed = _drained(lambda: _read_category(db, "order", OrderPlaced), len(orders), drain_s)
    report.events = len(placed)
    _each_once(orders, [event.order for event in placed], "event", report)
    sent = _drained(lambda: _read_category(db, "receipt", ReceiptSent), len(orders), drain_s)
    report.receipts = len(sent)
    _each_once(orders, [receipt.order for receipt in sent], "receipt", report)
    for receipt in sent:
        order = orders.get(receipt.order)
        if order is not None and (receipt.to, receipt.price) != (order.by, order.price):
            report.is_wrong(f"the receipt of {receipt.order} is not what was bought")
    if outside is not None:
        _each_once(orders, compare_webhooks(db, outside, orders, report, drain_s=drain_s), "webhook", report)
        report.silent = len(_silent(db))
    _acknowledged(orders, told, report)
    return report


def _seats(db: Database, report: Report) -> dict[str, booking.Order]:
    """All orders by id; every sold seat is in exactly one."""
    orders: dict[str, booking.Order] = {}
    for show in _pages(db, booking.list_shows):
        report.shows += 1
        owners: Counter[tuple[int, int]] = Counter()
        for order in _pages(db, booking.list_orders, show_id=show.id):
            if order.id in orders:
                report.is_doubled(f"order {order.id} is listed twice")
            orders[order.id] = order
            owners.update((block.row, seat) for block in order.blocks for seat in block.seats)
        seen = db.reader().run(booking.seat_map, show.id)
        sold = {(row.row, at) for row in seen.rows for at, digit in enumerate(row.seats, 1) if digit == "2"}
        held = {(row.row, at) for row in seen.rows for at, digit in enumerate(row.seats, 1) if digit == "1"}
        report.seats_sold += len(sold)
        report.seats_held += len(held)
        for seat, count in owners.items():
            if count > 1:
                report.is_doubled(f"seat {seat} of {show.id} is in {count} orders")
        for seat in sold - set(owners):
            report.is_lost(f"seat {seat} of {show.id} is sold, but in no order")
        for seat in set(owners) - sold:
            report.is_lost(f"seat {seat} of {show.id} was bought, but is {'held' if seat in held else 'free'}")
    return orders


def _money(db: Database, by_hold: dict[str, booking.Order], report: Report) -> int:
    """One posted transfer for each order, of its price, to the till; and the books balance.

    Answers what was paid by card, in minor units. From a wallet the transfer is called as the hold, and by card
    "HOLD:NUMBER/captured".
    """
    clearing = f"payments/{PROVIDER}/{CURRENCY}/clearing"
    paid: Counter[str] = Counter()
    by_card = 0
    for entry in _pages(db, ledger.history, TILL):
        report.transfers += 1
        hold = entry.transfer_id.partition(":")[0]
        paid[hold] += 1
        if entry.other == clearing:
            report.by_card += 1
            by_card += entry.change.minor
        order = by_hold.get(hold)
        if order is None:
            report.is_lost(f"{entry.change} were paid for hold {hold}, and there is no order")
        elif entry.change != order.price or entry.other not in {f"wallet/{order.by}", clearing}:
            report.is_wrong(f"order {order.id} costs {order.price}, {entry.change} came from {entry.other}")
    for hold, count in paid.items():
        if count > 1:
            report.is_doubled(f"hold {hold} was paid {count} times")
    for hold in set(by_hold) - set(paid):
        report.is_lost(f"order {by_hold[hold].id} was never paid")
    balances, journal = db.reader().options(deadline_ms=120_000).run(_books)
    report.accounts = sum(page.checked for page in balances)
    report.ledger_sum = sum(sum(page.sums.values()) for page in balances)
    for fault in (fault for page in (*balances, *journal) for fault in page.faults):
        report.is_wrong(f"ledger: {fault}")
    return by_card


def _books(tx: Tx) -> tuple[list[ledger.Audit], list[ledger.Audit]]:
    """The ledger's own audit, of balances and of the journal, at one moment."""

    def pages(check: Callable[..., ledger.Audit]) -> list[ledger.Audit]:
        found = [check(tx, limit=_PAGE)]
        while found[-1].after is not None:
            found.append(check(tx, after=found[-1].after, limit=_PAGE))
        return found

    return pages(ledger.audit), pages(ledger.audit_journal)


def _each_once(orders: dict[str, booking.Order], found: Sequence[str], what: str, report: Report) -> None:
    counted = Counter(found)
    for order, count in counted.items():
        if count > 1:
            report.is_doubled(f"order {order} has {count} {what}s")
        if order not in orders:
            report.is_lost(f"there is a {what} of order {order}, but no order")
    for order in set(orders) - set(counted):
        report.is_lost(f"order {order} has no {what}")


def _acknowledged(orders: dict[str, booking.Order], told: Sequence[Told], report: Report) -> None:
    """What buyers were told is so."""
    report.acknowledged = len(told)
    by_key: dict[str, str] = {}
    for one in told:
        if by_key.setdefault(one.key, one.order) != one.order:
            report.is_doubled(f"key {one.key} bought {by_key[one.key]} and {one.order}")
        order = orders.get(one.order)
        if order is None:
            report.is_lost(f"{one.by} was told of order {one.order}, which does not exist")
            continue
        seats = [(block.row, seat) for block in order.blocks for seat in block.seats]
        if (seats, order.by, order.price.minor, order.hold_id) != (one.seats, one.by, one.price_minor, one.hold):
            report.is_wrong(f"order {one.order} is not what {one.by} was told")


def _read_category(db: Database, category: str, kind: type[S]) -> list[S]:
    return [event.open(kind) for event in _pages(db, events.read_category, category)]


def _silent(db: Database) -> set[str]:
    """The streams of payments that were unknown for a while."""
    told = (event for event in _pages(db, events.read_category, "payment") if event.kind == "payment.moved")
    return {event.stream for event in told if event.open(payments.PaymentMoved).state == "unknown"}


def _drained(read: Callable[[], list[T]], wanted: int, drain_s: float) -> list[T]:
    """What `read` finds once it is at least `wanted`, or whatever there is after `drain_s`."""
    give_up = time.monotonic() + drain_s
    while True:
        found = read()
        if len(found) >= wanted or time.monotonic() > give_up:
            return found
        time.sleep(0.25)


def _pages(db: Database, list_x: Callable[..., Page[T]], *args: Any, **kwargs: Any) -> Iterator[T]:
    """Everything that a function lists, page by page."""
    reader = db.reader().options(deadline_ms=60_000)
    while True:
        page = reader.run(list_x, *args, limit=_PAGE, **kwargs)
        yield from page.items
        if page.after is None:
            return
        kwargs["after"] = page.after
