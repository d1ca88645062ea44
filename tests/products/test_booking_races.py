"""Crowds of real threads, and a real process killed: no seat is sold twice, none is lost."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from booking_hall import TTL_MS, audit, lapse, open_hall, orders_of, sold_out
from racing import at_once, kill_after

import onefold
from onefold import Conflict, Database, Handle, NotFound, OnefoldError, Retry, Tx, booking

BUYERS = 12
ISOLATIONS = pytest.mark.parametrize("isolation", ["serializable", "read_committed"])


@pytest.fixture
def crowd_db(db_url: str) -> Database:
    """Not rehearsed: here many run at once, and each function should run as it does in earnest."""
    return onefold.connect(db_url)


def shop(db: Handle, show: str, name: str) -> list[str]:
    """One buyer who goes on until the hall is sold out; answers the orders that were confirmed to it."""
    dice = Random(name)  # noqa: S311  Repeatable on purpose.
    mine: list[str] = []
    for turn in range(400):
        try:
            held = want(db, show, f"{name}/{turn}", dice)
        except (Conflict, Retry) as refused:
            if refused.code == "no_seats" and sold_out(db, show):
                return mine
            continue
        if dice.random() < 0.2:
            db.run(booking.release, held.id, by=held.by)
        elif dice.random() < 0.2:
            db.run(lapse, held)  # Walks away.
        else:
            mine.append(db.run(booking.confirm_hold, held.id, by=held.by).id)
    raise AssertionError("the hall was never sold out")


def want(db: Handle, show: str, by: str, dice: Random) -> booking.Hold:
    if dice.random() < 0.7:
        count = dice.choice((1, 1, 2, 3))
        return db.run(booking.hold_best, show, by=by, count=count, ttl_ms=TTL_MS, split=True)
    row, seat = dice.randrange(1, 7), dice.randrange(1, 9)
    return db.run(booking.hold, show, by=by, row=row, seats=[seat, seat + 1], ttl_ms=TTL_MS)


@pytest.mark.slow
@ISOLATIONS
def test_a_crowd_buys_every_seat_once(crowd_db: Database, isolation: str) -> None:
    with crowd_db as root:
        db = root.options(isolation=isolation, deadline_ms=60_000)  # type: ignore[arg-type]
        show = db.run(lambda tx: open_hall(tx, rows=5))
        results = at_once(*(lambda n=n: shop(db, show, f"b{n}") for n in range(BUYERS)))
        for result in results:
            assert isinstance(result, list), result
        bought = [order for mine in results for order in mine]
        assert db.run(audit, show) == 60
        assert sorted(bought) == sorted(order.id for order in db.run(orders_of, show))


@ISOLATIONS
def test_one_hold_is_confirmed_by_one_of_many(crowd_db: Database, isolation: str) -> None:
    with crowd_db as root:
        db = root.options(isolation=isolation)  # type: ignore[arg-type]
        show = db.run(open_hall)
        for seat in range(1, 6):
            held = db.run(booking.hold, show, by="ana", row=1, seats=[seat], ttl_ms=TTL_MS)
            results = at_once(*[lambda: db.run(booking.confirm, held)] * 6)
            assert sum(isinstance(result, booking.Order) for result in results) == 1
            assert all(isinstance(r, (booking.Order, Conflict, NotFound)) for r in results), results
        assert db.run(audit, show) == 5


@ISOLATIONS
def test_a_seat_is_held_by_one_of_many(crowd_db: Database, isolation: str) -> None:
    with crowd_db as root:
        db = root.options(isolation=isolation)  # type: ignore[arg-type]
        show = db.run(open_hall)
        hold = booking.hold
        for seat in range(1, 6):
            results = at_once(*(
                lambda n=n: db.run(hold, show, by=f"b{n}", row=1, seats=[seat, seat + 1], ttl_ms=TTL_MS)
                for n in range(6)
            ))  # fmt: skip
            winners = [result for result in results if isinstance(result, booking.Hold)]
            assert len(winners) == 1, results
            db.run(booking.release, winners[0].id, by=winners[0].by)
        db.run(audit, show)


@ISOLATIONS
def test_a_lapsed_hold_goes_to_its_taker_or_nobody(crowd_db: Database, isolation: str) -> None:
    """Its owner confirms with a clock that is behind, while another takes the seats."""
    with crowd_db as root:
        db = root.options(isolation=isolation)  # type: ignore[arg-type]
        show = db.run(open_hall)
        for seat in range(1, 8, 2):
            held = db.run(booking.hold, show, by="ana", row=1, seats=[seat], ttl_ms=TTL_MS)
            db.run(lapse, held)
            seats = [seat, seat + 1]
            at_once(
                lambda: db.run(booking.confirm, held),
                lambda: db.run(booking.hold, show, by="bob", row=1, seats=seats, ttl_ms=TTL_MS),
                lambda: db.run(booking.extend, held.id, by="ana", ttl_ms=TTL_MS),
                lambda: db.run(booking.release, held.id, by="ana"),
            )
            db.run(audit, show)
        assert db.run(booking.list_orders, by="ana").items == []


@ISOLATIONS
def test_a_buyer_who_asks_everywhere_at_once_gets_four_holds(crowd_db: Database, isolation: str) -> None:
    with crowd_db as root:
        db = root.options(isolation=isolation)  # type: ignore[arg-type]
        show = db.run(open_hall)
        results = at_once(*(
            lambda n=n: db.run(booking.hold, show, by="ana", row=n % 3 + 1, seats=[n + 1], ttl_ms=TTL_MS)
            for n in range(10)
        ))  # fmt: skip
        held = [result for result in results if isinstance(result, booking.Hold)]
        assert len(held) == 4, results
        codes = {result.code for result in results if isinstance(result, OnefoldError)}
        assert codes == {"too_many_holds"}
        db.run(audit, show)


@ISOLATIONS
def test_an_order_is_cancelled_once(crowd_db: Database, isolation: str) -> None:
    with crowd_db as root:
        db = root.options(isolation=isolation)  # type: ignore[arg-type]
        show = db.run(open_hall)
        held = db.run(booking.hold, show, by="ana", row=1, seats=[1], ttl_ms=TTL_MS)
        order = db.run(booking.confirm, held)
        results = at_once(*[lambda: db.run(booking.cancel, order.id)] * 6)
        assert sum(isinstance(result, booking.Order) for result in results) == 1
        assert db.run(audit, show) == 0


# -- kill -9 ----------------------------------------------------------------------------------------

VICTIM = """
import sys, threading
import onefold
from onefold import booking

db, show, run = onefold.connect(sys.argv[1]), sys.argv[2], sys.argv[3]
said = threading.Lock()

def buy(tx, by):
    held = booking.hold_best(tx, show, by=by, count=1, ttl_ms=60_000)
    return held

def shop(name):
    for turn in range(100_000):
        by = f"{run}/{name}/{turn}"
        held = db.run(buy, by)
        order = db.run(booking.confirm_hold, held.id, by=by)
        with said:  # Said only once it is committed: from here on it must not be lost.
            print(order.id, flush=True)

for name in range(4):
    threading.Thread(target=shop, args=(name,)).start()
"""


@pytest.mark.slow
def test_a_killed_shop_loses_no_order_and_tears_none(db_url: str, tmp_path: Path) -> None:
    def large(tx: Tx) -> str:
        return open_hall(tx, rows=39, seats=60)

    with onefold.connect(db_url) as db:
        show = db.run(large)
        acknowledged: set[str] = set()
        for run, many in enumerate((1, 37, 113)):
            acknowledged |= kill_after(many, VICTIM, db_url, show, str(run))
            db.run(audit, show)
            stored = {order.id for order in db.run(orders_of, show)}
            assert acknowledged <= stored, "an acknowledged order is lost"
            # What was in flight is whole or not there: four threads, one order each at most.
            assert len(stored) <= len(acknowledged) + 4 * (run + 1)
        sold = db.run(audit, show)
        assert sold == len(stored) >= 151
