"""A plain script: no framework, no server. `python -m examples.script [URL]`."""

from __future__ import annotations

import asyncio
import contextlib
import sys

from examples.purchase import SendReceipt, Wanted, open_shop, purchase, send_receipt

import onefold
from onefold import events, jobs, ledger
from onefold.runtime import Supervisor, all_loops


async def main(url: str) -> None:
    onefold.migrate(url)
    with contextlib.closing(onefold.connect(url)) as db, Supervisor(db, all_loops()):
        await db.arun(open_shop, "ana")
        wanted = Wanted(order=await db.arun(lambda tx: tx.new_id("order")), buyer="ana", cents=1_250)
        async with jobs.Worker(db, tx={SendReceipt: send_receipt}):
            print("bought:", await db.arun(purchase, wanted))
            receipt = f"receipt/{wanted.order}"
            waiter = db.waiter("events")
            while not (found := db.run(events.read_stream, receipt).items):
                await asyncio.to_thread(waiter.wait, 1)
            waiter.close()
            print("receipt:", found[0].id)
        print("left in the wallet:", (await db.arun(ledger.balance, "wallet/ana")).posted)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:2] or ["script.db"]))
