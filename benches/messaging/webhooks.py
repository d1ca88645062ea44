"""Webhooks: deliveries a second to a receiver in another process, one event a POST, each attempt committed."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

from benches.harness import Sample, Size, Table, both_engines, figure, interleaved
from onefold import Database, Tx, webhooks
from onefold.host.outgoing import Policy
from onefold.testing.receiver import Receiver, tell

NAME = "webhooks"
PAGE = "src/onefold/messaging/webhooks/README.md"
COUNT = 10_000
ENDPOINTS = 4
CONCURRENCY = 16
RATE_BAR = 1_000.0
SHARE_BAR = 0.95
PAIRS = 3  # Times as many rounds as elsewhere: single ones differ by a fifth, and the bar is a twentieth.
LOOPBACK = Policy(allow=("127.0.0.0/8",), http=True, ports=None)


def run(size: Size) -> list[Table]:
    """Both engines: four endpoints, then the same four beside a fifth that never answers."""
    rate = Table(f"Deliveries to {ENDPOINTS} endpoints, verified by the receiver with `standardwebhooks`", ("engine", "deliveries /s", "bar"))
    beside = Table("The same beside one endpoint that stalls", ("engine", "alone /s", "beside it /s", "ratio", "bar"))
    with tempfile.TemporaryDirectory() as folder, Receiver() as receiver, both_engines() as engines:
        keys = webhooks.Keys.create(Path(folder) / "bench.key")
        for engine, db, _ in engines:
            alone = Lanes(db.at("alone"), keys, receiver, f"{engine}-alone", stalled=False)
            crowd = Lanes(db.at("crowd"), keys, receiver, f"{engine}-crowd", stalled=True)
            count = size.of(COUNT)
            mine, others = interleaved(size.rounds * PAIRS, lambda db=db, of=alone: deliver(db, keys, of, count), lambda db=db, of=crowd: deliver(db, keys, of, count))
            fast = mine.rate >= RATE_BAR
            rate.missed += not fast
            rate.rows.append((engine, figure(mine.rate), f">= {RATE_BAR:,.0f}" + ("" if fast else " **missed**")))
            share = others.rate / mine.rate
            beside.missed += share < SHARE_BAR
            verdict = f">= {SHARE_BAR:g}" + ("" if share >= SHARE_BAR else " **missed**")
            beside.rows.append((engine, figure(mine.rate), figure(others.rate), f"{share:.2f}", verdict))
    return [rate, beside]


class Lanes:
    """Endpoints of one space, each known to the receiver."""

    def __init__(self, db: Database, keys: webhooks.Keys, receiver: Receiver, name: str, *, stalled: bool) -> None:
        self.db = db
        modes = ["ok"] * ENDPOINTS + ["stall"] * stalled
        for number, mode in enumerate(modes):
            url = receiver.url(f"{name}-{number}", mode)
            made = db.run(webhooks.create, url, key_id=keys.newest, concurrency=CONCURRENCY)
            tell(receiver.base, f"{name}-{number}", keys.secrets_of(made, now_ms=0)[0])


def send_all(tx: Tx, count: int) -> None:
    """`count` messages in one transaction."""
    for number in range(count):
        webhooks.send(tx, "order.placed", {"order": f"order-{number}", "amount": 1_250, "currency": "EUR"})


def deliver(db: Database, keys: webhooks.Keys, lanes: Lanes, count: int) -> Sample:
    """Send, then start a dispatcher and wait until it has committed the attempts of all but the stalled one."""
    each = max(1, count // ENDPOINTS)
    for start in range(0, each, 500):
        lanes.db.run(send_all, min(500, each - start))

    async def scenario() -> Sample:
        dispatcher = webhooks.Dispatcher(db, keys, policy=LOOPBACK, timeout_ms=15_000, drain_ms=0)
        begun = time.perf_counter()
        async with dispatcher:
            while dispatcher.numbers().get("webhooks.delivered", 0) < each * ENDPOINTS:
                await asyncio.sleep(0.002)
            return Sample(each * ENDPOINTS / (time.perf_counter() - begun))

    return asyncio.run(scenario())
