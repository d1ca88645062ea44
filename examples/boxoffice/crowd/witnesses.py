"""What the world outside saw, beside what the shop has: the provider's record, and the webhooks that arrived."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from examples.boxoffice.outside import PARTNER
from examples.boxoffice.paying import PROVIDER

from onefold import Database, Tx, booking, jobs, payments, webhooks
from onefold.products.payments import Intent
from onefold.products.payments.records import LOOK_BACK_MS
from onefold.testing.receiver import Delivery, deliveries

if TYPE_CHECKING:
    from examples.boxoffice.crowd.audit import Report

REST_S = 0.25


@dataclass(frozen=True, slots=True)
class Witnesses:
    """Whom the audit asks.

    Attributes:
        provider: whose record is read.
        waiting: how many callbacks and late successes are still to come from it.
        folder: where the partner wrote down what came.
    """

    provider: payments.Provider
    waiting: Callable[[], int]
    folder: Path


def compare_cards(
    db: Database, seen: Witnesses, orders: Mapping[str, booking.Order], by_card: int, report: Report, *, drain_s: float
) -> None:
    """Taken less refunded at the provider, the intents, the ledger and the orders: the same to the cent.

    Args:
        db: the shop's database.
        seen: the provider.
        orders: all of them by hold.
        by_card: what orders that the ledger shows as paid by card cost together, in minor units.
        report: gets what is wrong.
        drain_s: how long to wait for payments that are under way.
    """
    give_up = time.monotonic() + drain_s
    while (seen.waiting() or db.run(_asking)) and time.monotonic() < give_up:
        time.sleep(REST_S)

    def has_order(_: Tx, intent: Intent) -> bool:
        return intent.reference.rpartition("/")[2] in orders

    found = payments.audit(db.reader().options(deadline_ms=60_000), PROVIDER, seen.provider, has_order=has_order)
    report.charges, report.late_refunded = found.charges, found.late
    report.provider_minor = sum(found.theirs.values())
    report.ledger_minor = sum(found.owed.values())
    for reference in found.doubled:
        report.is_doubled(f"{reference} was paid more than once at the provider")
    for payment in found.without_order:
        report.is_lost(f"payment {payment} was taken, and there is no order")
    for fault in found.faults:
        report.is_wrong(f"payments: {fault}")
    if found.open or any(found.unclaimed.values()):
        report.is_wrong(f"{found.open} payments wait for the provider, {found.unclaimed} have not gone back")
    if not found.theirs == found.ours == found.owed:
        report.is_wrong(f"the provider took {found.theirs}, the payments {found.ours}, the ledger {found.owed}")
    if report.provider_minor != by_card:
        report.is_wrong(f"the provider took {report.provider_minor}, orders by card cost {by_card}")


def compare_webhooks(
    db: Database, seen: Witnesses, orders: Mapping[str, booking.Order], report: Report, *, drain_s: float
) -> list[str]:
    """Count what the partner got; answers the order of each message, for as many messages as there are ids."""
    since_ms = min((one.created_at_ms for one in db.run(webhooks.list_endpoints).items), default=0)
    wanted = sum(order.created_at_ms >= since_ms for order in orders.values())
    give_up = time.monotonic() + drain_s
    while len(messages := _messages(came := deliveries(seen.folder))) < wanted and time.monotonic() < give_up:
        time.sleep(REST_S)
    signed = sum(one.id is not None for one in came)
    report.webhooks, report.webhooks_again = len(messages), signed - len(messages)
    if signed < len(came):
        report.is_wrong(f"{len(came) - signed} webhooks were not rightly signed")
    before = [order.id for order in orders.values() if order.created_at_ms < since_ms]
    return [*messages.values(), *before]


def _messages(came: list[Delivery]) -> dict[str, str]:
    """The order that each message was about."""
    return {one.id: one.body["data"]["order"] for one in came if one.id is not None and one.name == PARTNER}


def _asking(tx: Tx) -> bool:
    """Whether the provider is to be asked for something soon; it is asked once more an hour after each cancel."""
    soon_ms = tx.now_ms + LOOK_BACK_MS[0] // 2
    return any(
        row.state in {"ready", "running"} or (row.state == "scheduled" and row.oldest_ms <= soon_ms)
        for row in jobs.stats(tx)
        if row.kind.startswith("payments.") and row.count
    )
