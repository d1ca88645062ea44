"""Booking as registers: a seat holds whose it is, and nobody's at first. Selling some reads and writes each of them.

So a seat that is sold twice, an order of which only a part is sold, and one that is lost are histories that no order of
transactions explains.
"""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

from booking_hall import open_hall, orders_of

from onefold import Conflict, Tx, booking
from onefold.testing.workload import Client, Workload

ROWS, SEATS = 2, 6  # And a row in the circle.
PARTY_MAX = 3
TTL_MS = 1_000
THINK_MS_MAX = 1_500  # More than `TTL_MS`: some holds lapse, and their seats go to others.


def open_first(tx: Tx) -> None:
    """The shows by number; who finds one sold out opens the next."""
    tx.run("CREATE TABLE workload_shows (number BIGINT PRIMARY KEY, show_id TEXT NOT NULL)")
    show_at(tx, 0)


def show_at(tx: Tx, number: int) -> str:
    """The show of this number, opened now if need be."""
    found = tx.one("SELECT show_id FROM workload_shows WHERE number = :number", number=number)
    if found is not None:
        return found[0]
    show = open_hall(tx, rows=ROWS, seats=SEATS)
    row = tx.one(
        """INSERT INTO workload_shows (number, show_id) VALUES (:number, :show)
           ON CONFLICT (number) DO UPDATE SET show_id = workload_shows.show_id RETURNING show_id""",
        number=number, show=show,
    )
    assert row is not None
    return row[0]


def buyers(client: Client) -> None:
    """Hold, think, confirm; some think longer than their hold lives."""
    number = 0
    for _ in client.rounds():
        show = client.run(show_at, number)
        by, count = f"buyer-{client.unique()}", client.random.randrange(1, PARTY_MAX + 1)
        try:
            held = client.run(booking.hold_best, show, by=by, count=count, ttl_ms=TTL_MS, split=True)
        except Conflict:
            number += look(client, show)
            client.sleep_ms(client.random.randrange(20))
            continue
        client.sleep_ms(client.random.choice([*[0] * 12, client.random.randrange(THINK_MS_MAX)]))
        sale = [micro for seat in seats_of(show, held.blocks) for micro in (["r", seat, None], ["w", seat, by])]
        with contextlib.suppress(Conflict), client.operation("txn", sale):
            client.run(booking.confirm, held)


def seats_of(show: str, blocks: tuple[booking.Block, ...]) -> list[str]:
    """The registers of these seats."""
    return [f"{show}/{block.row}/{seat}" for block in blocks for seat in block.seats]


def look(client: Client, show: str) -> bool:
    """Read whose each seat is; whether all are sold."""
    seats = [f"{show}/{row}/{seat}" for row in range(1, ROWS + 2) for seat in range(1, SEATS + 1)]
    with client.operation("txn", [["r", seat, None] for seat in seats]) as op:
        owners = client.run(sold, show)
        op["value"] = [["r", seat, owners.get(seat)] for seat in seats]
    return len(owners) == len(seats)


def sold(tx: Tx, show: str) -> dict[str, Any]:
    """Whose each seat is by the orders; the seat map agrees, or the program fails."""
    owned = [(seat, order.by) for order in orders_of(tx, show) for seat in seats_of(show, order.blocks)]
    assert booking.seat_map(tx, show).sold == len(owned) == len(dict(owned)), "seats and orders differ"
    return dict(owned)


def all_sold(client: Client) -> None:
    """Look at every show."""
    for number in itertools.count():
        if not client.run(opened, number):
            return
        look(client, client.run(show_at, number))


def opened(tx: Tx, number: int) -> bool:
    return tx.one("SELECT 1 FROM workload_shows WHERE number = :number", number=number) is not None


BUYING = Workload(buyers, "rw-register", {"assume": ["linearizable-keys"]}, setup=open_first, finish=all_sold)
