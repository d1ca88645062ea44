"""A shop that every release since the Foundation can run: one program, and `PYTHONPATH` says whose Onefold it is.

    python upgrade_shop.py open URL             migrate an empty database, and leave something in every block of the Foundation
    python upgrade_shop.py work URL NAME SHOW   sell as often as each line that comes in says, a worker and all loops beside it

It says "told KEY" when a sale is committed, "left KEY" when another process was at it, and "refused CODE" when it may not open the database.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import msgspec

import onefold
from onefold import Database, Handle, Money, Tx, booking, events, idempotency, jobs, ledger, locks, tokens
from onefold.runtime import Supervisor, all_loops

EURO = Money(100, "EUR")
GIFT = Money(100_000, "EUR")
NAMES = ("old", "doomed", "new0", "new1")
HOUR_MS = 3_600_000


@events.kind("upgrade.sold")
class Sold(msgspec.Struct, frozen=True):
    """One sale."""

    order: str


@events.kind("upgrade.sent")
class Sent(msgspec.Struct, frozen=True):
    """Its receipt."""

    key: str


@events.kind("upgrade.entered")
class Entered(msgspec.Struct, frozen=True):
    """Somebody had the lock."""

    token: int


@jobs.kind("upgrade.receipt")
class Receipt(msgspec.Struct, frozen=True):
    """To be sent."""

    key: str


def open_shop(tx: Tx) -> str:
    """A hall, a show, the accounts, and something unfinished of everything."""
    ledger.open_account(tx, "bank", currency="EUR", kind="unlimited")
    ledger.open_account(tx, "till", currency="EUR", kind="unlimited")
    for name in NAMES:
        ledger.open_account(tx, f"wallet/{name}", currency="EUR")
        ledger.transfer(tx, f"gift/{name}", debit="bank", credit=f"wallet/{name}", amount=GIFT)
    ledger.pend(tx, "pending", debit="wallet/old", credit="till", amount=EURO, timeout_ms=HOUR_MS)
    venue = booking.add_venue(tx, "Hall", sections=[booking.grid("Stalls", rows=60, seats=30)])
    starts_at_ms = tx.now_ms + 30 * 86_400_000
    show = booking.add_show(tx, venue.id, title="Faust", starts_at_ms=starts_at_ms, prices={"Stalls": EURO}).id
    booking.hold_best(tx, show, by="undecided", count=2, ttl_ms=1_800_000)
    idempotency.once(tx, "opened", lambda: show, scope="shop", request=None)
    locks.acquire(tx, "held", owner="opener", ttl_ms=HOUR_MS)
    jobs.put(tx, Receipt("delayed"), delay_ms=HOUR_MS, unique="delayed")
    tokens.create(tx, "till", digest="0" * 64, rights=("booking:*",))
    return show


def sell(tx: Tx, key: str, name: str, show: str) -> str:
    """The whole purchase, once for each key, whichever process or release asks."""

    def sale() -> str:
        ledger.transfer(tx, f"sale/{key}", debit=f"wallet/{name}", credit="till", amount=EURO)
        order = booking.confirm(tx, booking.hold_best(tx, show, by=key, count=1, ttl_ms=60_000))
        events.append(tx, f"sold/{key}", Sold(order.id), expected="absent")
        jobs.put(tx, Receipt(key), unique=key)
        return order.id

    return str(idempotency.once(tx, key, sale, scope="shop", request=key).value)


def insist(run: Callable[..., Any], *call: Any) -> None:
    """Again, for as long as it is refused with "later": what both releases ask of a caller."""
    while True:
        try:
            run(*call)
        except onefold.Retry:
            continue  # At once: it has waited for the others already, attempt after attempt.
        return


def once(crowd: Handle, key: str, name: str, show: str) -> str:
    """What became of it: a key that another process is busy with at this moment is left to that one."""
    try:
        insist(crowd.run, sell, key, name, show)
    except onefold.Conflict as busy:
        if busy.code != "in_flight":
            raise
        return "left"
    return "told"


def send(tx: Tx, receipt: Receipt) -> None:
    """The receipt; its stream may not exist, so none is sent twice."""
    events.append(tx, f"receipt/{receipt.key}", Sent(receipt.key), expected="absent")


def enter(tx: Tx, name: str) -> None:
    """Take the lock that all want, leave its number behind, and go."""
    lock = locks.try_acquire(tx, "door", owner=name, ttl_ms=5_000)
    if lock is not None:
        events.append(tx, "door", Entered(lock.token))
        locks.release(tx, lock)


def work(db: Database, name: str, show: str) -> None:
    """Sell one's own, and every fifth time what the others sell too."""
    number = 0
    crowd = db.options(isolation="read_committed")  # Where buyers of one show need not run again.
    with Supervisor(db, all_loops()), jobs.Worker(db, tx={Receipt: send}, lease_ms=5_000, poll_ms=50):
        for line in sys.stdin:
            for _ in range(int(line)):
                number += 1
                key = f"shared/{number}" if number % 5 == 0 else f"{name}/{number}"
                insist(db.run, enter, name)
                print(f"{once(crowd, key, name, show)} {key}", flush=True)


def main(task: str, url: str, *more: str) -> None:
    """Do the task; a refusal is an answer."""
    if task == "open":
        onefold.migrate(url)
    try:
        db = onefold.connect(url, durability="everysec")
    except onefold.OnefoldError as error:
        print(f"refused {error.code}: {error}", flush=True)
        return
    with db:
        if task == "open":
            print(f"show {db.run(open_shop)}", flush=True)
        else:
            work(db, *more)


if __name__ == "__main__":
    main(*sys.argv[1:])
