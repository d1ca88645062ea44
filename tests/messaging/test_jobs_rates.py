"""What workers say that they ended in a minute: counted on their loops, written with their heartbeats."""

from __future__ import annotations

import asyncio

from jobs_ground import Mail, Other, auntil, beat, hire, loops

import onefold
from onefold import Database, Tx, jobs
from onefold.messaging.jobs.leases import LEASE_MS_MIN
from onefold.messaging.jobs.rates import KINDS_MAX, Rates


def test_a_minute_is_what_was_ended_since_the_beat_a_minute_ago() -> None:
    rates = Rates(["a", "b", "c"], 0.0)
    rates.finished["a"] += 10
    rates.failed["b"] += 1
    assert rates.of_last_minute(10.0) == {"a": (10, 0), "b": (0, 1)}
    rates.finished["a"] += 10
    assert rates.of_last_minute(59.0)["a"] == (20, 0)
    assert rates.of_last_minute(69.9)["a"] == (17, 0)  # Since 0.0: 20 in 69.9 s.
    assert rates.of_last_minute(70.0) == {"a": (10, 0)}  # Since 10.0.
    assert rates.of_last_minute(119.0) == {}
    rates.finished["c"] += 1
    assert rates.of_last_minute(1_000.0) == {}, "a beat that comes so late tells of what is long ago: nothing a minute"


def test_kinds_that_are_noted_are_bounded() -> None:
    names = [f"kind{n:04}" for n in range(2 * KINDS_MAX)]
    rates = Rates(names, 0.0)
    for n, name in enumerate(names):
        rates.finished[name] += n
    assert set(rates.of_last_minute(1.0)) == set(names[-KINDS_MAX:])


def test_a_heartbeat_says_what_its_worker_ended(db_url: str) -> None:
    async def mail(job: jobs.Run[Mail]) -> None:
        if job.args.to == "nobody":
            raise ConnectionError("away")

    def other(tx: Tx, _args: Other) -> None:
        tx.add("others", 1)

    with onefold.connect(db_url) as db:
        db.run(jobs.put_many, [Mail()] * 3 + [Mail(to="nobody")])
        db.run(jobs.put_many, [Other()] * 2)

        def told() -> dict[str, tuple[int, int]]:
            (one,) = db.run(jobs.live_workers)
            return one.rates

        async def scenario() -> None:
            worker = jobs.Worker(
                db, io={Mail: mail}, tx={Other: other}, queues=("default", "others"), lease_ms=LEASE_MS_MIN
            )
            async with worker:
                await auntil(lambda: told().keys() == {"mail.send", "other.thing"}, "the heartbeat")
                await auntil(lambda: (told()["mail.send"][0], told()["other.thing"]) == (3, (2, 0)), "all that was finished")
                await auntil(lambda: told()["mail.send"][1] >= 1, "the failure")

        asyncio.run(scenario())
        assert db.run(jobs.live_workers) == []


def test_a_worker_of_a_release_that_says_nothing_is_alive_all_the_same(db: Database) -> None:
    hire(db, "w1")
    assert [one.rates for one in db.run(jobs.live_workers)] == [{}]
    loops(db).run(beat, "w1", lease_ms=30_000, rates={"mail.send": (7, 2)})
    assert [one.rates for one in db.run(jobs.live_workers)] == [{"mail.send": (7, 2)}]
