"""The past that benches work beside is one that the program itself could have made."""

from __future__ import annotations

from benches.past import PER_BUYER, remember
from examples.boxoffice import receipts
from examples.boxoffice.purchase import OrderPlaced

import onefold
from onefold import Tx, booking, events, ledger

COUNT = 1_003


def audited(tx: Tx) -> dict[str, int]:
    sums: dict[str, int] = {}
    after = None
    while True:
        page = ledger.audit(tx, after=after)
        assert page.faults == []
        for currency, amount in page.sums.items():
            sums[currency] = sums.get(currency, 0) + amount
        if (after := page.after) is None:
            return sums


def journal_audited(tx: Tx) -> int:
    checked, after = 0, None
    while True:
        page = ledger.audit_journal(tx, after=after)
        assert page.faults == []
        checked += page.checked
        if (after := page.after) is None:
            return checked


def test_a_past_made_in_bulk_is_one_that_could_have_been(db_url: str) -> None:
    remember(db_url, COUNT)
    with onefold.connect(db_url) as db:
        assert db.reader().run(audited) == {"EUR": 0}
        assert db.reader().run(journal_audited) == COUNT + COUNT // PER_BUYER + 2  # Two of the model purchase.
        lines = db.run(ledger.history, "wallet/buyer-2p", limit=100).items
        assert len(lines) == 7
        order = db.run(booking.list_orders, by="buyer-2p", limit=100).items[0]
        (placed,) = db.run(events.read_stream, f"order/{order.id}").items
        assert placed.open(OrderPlaced) == OrderPlaced(order.id, "buyer-2p", order.show_id, order.price)
        receipt = db.run(receipts.receipt_of, order.id)
        assert receipt is not None
        assert receipt.open(receipts.ReceiptSent).to == "buyer-2p"
        log = db.run(events.read_all, limit=1_000).items
        assert [event.position for event in log] == list(range(1, 1_001))
