"""The on-sale: thousands of buyers, hundreds at a time."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
from examples.boxoffice.crowd.buyer import Buyer, Told
from examples.boxoffice.crowd.http import Connection, Lost
from examples.boxoffice.crowd.tally import Tally

CONNECTIONS_MAX = 2_000
SHOWS_MAX = 1_000

#: Everything that a provider can do to us, as shares of its calls; see `onefold.testing.provider.server.Faults`. Many
#: callbacks come later than we wait for an answer, so that silence is seen, and has to be resolved by a query.
FAULTS = {
    "decline": 0.08, "slow": 0.2, "timeout": 0.04, "unknown": 0.1, "duplicate": 0.3, "reorder": 0.5, "late": 0.5,
    "slow_ms": 150, "reorder_ms": 2_500, "late_ms": 200,
}  # fmt: skip


class Crowd(msgspec.Struct, frozen=True):
    """How large it is, and how it is drawn.

    Attributes:
        buyers: how many come.
        at_once: how many are in the shop at a time.
        shows: over how many performances they spread.
        cards: the share of them that pays by card, 0.0 to 1.0.
        seed: decides what each of them wants.
    """

    buyers: int = 10_000
    at_once: int = 300
    shows: int = 15
    cards: float = 0.5
    seed: int = 1


async def on_sale(
    base: str, crowd: Crowd, tally: Tally, told: list[Told], *, heard: Callable[[Told], object] = lambda _: None
) -> None:
    """Let the crowd in, and wait until all went home.

    Args:
        base: where the shop is.
        crowd: who comes.
        tally: counts what happens.
        told: gets every order that a buyer has in hand.
        heard: called with each of them at once.
    """
    shows = await performances(base, crowd.shows)
    numbers: Iterator[int] = iter(range(crowd.buyers))

    async def visit() -> None:
        for number in numbers:
            dice = random.Random(f"{crowd.seed}/{number}")  # noqa: S311  To be repeated, not to be secret.
            order = await Buyer(f"{crowd.seed}-{number}", base, shows, tally, dice, cards=crowd.cards).go()
            if order is not None:
                told.append(order)
                heard(order)
            tally.came_home()

    await asyncio.gather(*(visit() for _ in range(min(crowd.at_once, CONNECTIONS_MAX))))


async def performances(base: str, count: int) -> list[str]:
    """The ids of the next performances; waits for a shop that is just being started."""
    line = Connection(base)
    try:
        for _ in range(100):
            try:
                answer = await line.ask("GET", f"/api/performances?limit={min(count, SHOWS_MAX)}")
            except Lost:
                await asyncio.sleep(0.1)
                continue
            if answer.status == 200:
                return [show["id"] for show in answer.json()["items"]]
            await asyncio.sleep(0.1)
    finally:
        line.close()
    raise RuntimeError(f"No shop at {base}.")


def write_told(path: Path, told: Sequence[Told]) -> None:
    """Keep what buyers were told, one order a line, for a later `audit --told`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in told))


def read_told(path: Path) -> list[Told]:
    """What `write_told` kept."""
    return [msgspec.convert(json.loads(line), Told) for line in path.read_text(encoding="utf-8").splitlines()]
