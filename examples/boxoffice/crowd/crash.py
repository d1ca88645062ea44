"""The on-sale with a murderer: processes of the shop die at random moments, and nobody may notice later.

The crowd repeats every unanswered request under the same key until it is answered. What a buyer
was told must be there in the end, and nothing twice.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Callable

import msgspec
from examples.boxoffice.crowd.buyer import Told
from examples.boxoffice.crowd.load import Crowd, on_sale
from examples.boxoffice.crowd.servers import House
from examples.boxoffice.crowd.tally import Tally

PAUSE_S = (0.2, 1.5)  # Between the shop being ready and the next death, drawn evenly.

LOOK_S = 1.0  # Between two looks whether somebody died by another hand.

Murder = Callable[[random.Random], str]


async def on_sale_with_kills(
    house: House, crowd: Crowd, *, kills: int, tally: Tally, told: list[Told], also: Murder | None = None,
    quiet: bool = False,
) -> int:  # fmt: skip
    """Let the crowd in while `kills` deaths happen; answer how many did.

    When the crowd has gone home before, more of it comes: every death shall hit a crowd. A death that is not
    by this hand ends it all with RuntimeError, which says how the process ended.

    Args:
        house: the shop, running.
        crowd: who comes; its seed also decides when and what dies.
        kills: how often.
        tally: counts what happens.
        told: gets every order that a buyer has in hand.
        also: kills something else (the database's server), and answers what it was.
        quiet: do not tell of every death.
    """
    dice = random.Random(f"{crowd.seed}/kills")  # noqa: S311  To be repeated, not to be secret.
    done = asyncio.Event()
    deaths = 0

    async def murder() -> None:
        nonlocal deaths
        try:
            for number in range(kills):
                await asyncio.sleep(dice.uniform(*PAUSE_S))
                victim = await asyncio.to_thread(_kill, house, dice, also)
                deaths += 1
                if not quiet:
                    print(f"  kill -9 number {number + 1} of {kills}: {victim}", file=sys.stderr, flush=True)
                if not house.running:
                    await asyncio.to_thread(house.start)
                await asyncio.to_thread(_wait_ready, house)
        finally:
            done.set()

    async def let_in() -> None:
        wave = 0
        while wave == 0 or not done.is_set():
            part = msgspec.structs.replace(crowd, seed=crowd.seed * 1_000 + wave)
            tally.buyers = tally.home + part.buyers
            await on_sale(house.base, part, tally, told)
            wave += 1

    async def watch() -> None:
        while True:
            await asyncio.to_thread(house.check)
            await asyncio.sleep(LOOK_S)

    sale = asyncio.gather(murder(), let_in())
    watcher = asyncio.ensure_future(watch())
    try:
        await asyncio.wait({sale, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if watcher.done():
            await watcher
        await sale
    finally:
        sale.cancel()
        watcher.cancel()
        await asyncio.gather(sale, watcher, return_exceptions=True)
    house.check()
    return deaths


def _kill(house: House, dice: random.Random, also: Murder | None) -> str:
    if also is not None and dice.random() < 0.4:
        return also(dice)
    return house.kill(dice)


def _wait_ready(house: House) -> None:
    for _ in range(600):
        if house.ready():
            return
        house.check()
        time.sleep(0.05)
    raise RuntimeError(f"The shop did not come back:\n{house.log[-4_000:]}")
