"""kill -9 of real worker processes, at named points and at random ones: each effect once, no job lost."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from jobs_ground import WAIT_S, effects, loops, rows, states, until

import onefold
from onefold import Database, jobs
from onefold.testing.postgres import Cluster

HERE = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
KILLS = 3
JOBS = 1_500


@jobs.kind("crash.job", attempts=50, backoff_ms=1, timeout_ms=20_000)
class Crashing(msgspec.Struct, frozen=True):
    name: str
    dies: str = ""  # At which point its first attempt takes the process along.


WORKER = """
import asyncio, os, signal, sys
sys.path[:0] = sys.argv[2:]
import onefold
from onefold import jobs
from test_jobs_crash import Crashing
from waiting import auntil

def die(): os.kill(os.getpid(), signal.SIGKILL)

def effect(tx, name, dies):
    tx.add(f"effect/{name}", 1)
    if dies: die()

async def crash(job):
    dies = job.args.dies if job.attempt == 1 else ""
    await job.run(lambda tx: tx.add(f"started/{job.args.name}", 1))
    if dies == "before": die()
    await job.finish(effect, job.args.name, dies == "inside")
    if dies == "after": die()

async def main(worker):
    running = asyncio.ensure_future(worker.run_until_stopped())
    await auntil(worker.numbers)  # Until it listens to signals.
    os.write(1, b"up\\n")
    await running

with onefold.connect(sys.argv[1]) as db:
    asyncio.run(main(jobs.Worker(db, io={Crashing: crash}, concurrency=6, lease_ms=1_000, poll_ms=50)))
"""


class Fleet:
    """Worker processes; whichever died is started again."""

    def __init__(self, url: str, size: int) -> None:
        self._url = url
        self._processes = [self._start() for _ in range(size)]
        self._up: set[int] = set()
        self.deaths = 0

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", WORKER, self._url, *HERE], stdout=subprocess.PIPE)

    def tend(self) -> None:
        for place, process in enumerate(self._processes):
            if process.poll() is not None:
                assert process.returncode == -signal.SIGKILL, "a worker ended by itself"
                self._reap(process)
                self.deaths += 1
                self._processes[place] = self._start()

    def kill_one(self, db: Database, dice: random.Random) -> None:
        """Somewhere in its work, after a number of jobs that the dice say."""
        process = dice.choice(self._processes)
        self._wait_up(process)
        left = unfinished(db) - dice.randrange(1, 200)
        until(lambda: unfinished(db) <= max(left, 0), "the next jobs")
        process.kill()
        process.wait()

    def _wait_up(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        if process.pid not in self._up:
            process.stdout.readline()
            self._up.add(process.pid)

    def stop(self) -> list[int]:
        """Ask all to drain; answer how they ended."""
        for process in self._processes:
            self._wait_up(process)
            process.send_signal(signal.SIGTERM)
        codes = [process.wait(WAIT_S) for process in self._processes]
        for process in self._processes:
            self._reap(process)
        return codes

    def destroy(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
            self._reap(process)

    @staticmethod
    def _reap(process: subprocess.Popen[bytes]) -> None:
        if process.stdout is not None:
            process.stdout.close()


def put_all(db: Database, crashing: list[Crashing]) -> None:
    db.run(lambda tx: len(jobs.put_many(tx, crashing)))


def unfinished(db: Database) -> int:
    return sum(states(db).values())


def tend_until_done(db: Database, fleet: Fleet, seconds: float) -> None:
    until(lambda: fleet.tend() or not states(db), "the last job", seconds=seconds)


@pytest.mark.slow
def test_a_worker_killed_at_each_point_of_a_job_leaves_one_effect(db_url: str) -> None:
    points = ("before", "inside", "after")
    with onefold.connect(db_url) as db:
        fleet = Fleet(db_url, 1)
        try:
            for number, point in enumerate(points, start=1):
                put_all(db, [Crashing(point, point)])
                tend_until_done(db, fleet, 30)
                until(lambda number=number: fleet.tend() or fleet.deaths == number, f"the death {point}")
        finally:
            fleet.destroy()
        assert [effects(db, point) for point in points] == [1, 1, 1]


@pytest.mark.slow
@pytest.mark.usefixtures("again")
def test_workers_killed_at_random_do_each_job_once(db_url: str) -> None:
    """Three processes race for the jobs of one database, and one after the other is killed."""
    seed = random.randrange(1 << 32)
    dice = random.Random(seed)
    print(f"seed {seed}")
    with onefold.connect(db_url) as db:
        fleet = Fleet(db_url, 3)
        try:
            for kill in range(KILLS):
                put_all(db, [Crashing(f"{kill}/{n}") for n in range(JOBS // KILLS)])
                fleet.kill_one(db, dice)
                fleet.tend()
            tend_until_done(db, fleet, 90)
            codes = fleet.stop()
        finally:
            fleet.destroy()
        assert codes == [0, 0, 0], "a drained worker ends well"
        assert fleet.deaths == KILLS
        names = [f"{kill}/{n}" for kill in range(KILLS) for n in range(JOBS // KILLS)]
        done = db.run(lambda tx: [tx.total(f"effect/{name}") for name in names])
        assert done == [1] * len(names)
        until(lambda: not loops(db).run(jobs.rescue) and not rows(db, "jobs_workers"), "clearing the dead away")


@pytest.mark.slow
def test_a_worker_outlives_a_killed_and_a_restarted_server(tmp_path: Path) -> None:
    """The connection is lost in claims, effects and reports; nobody starts the worker again."""
    names = [f"{turn}/{n}" for turn in range(3) for n in range(400)]

    async def crash(job: jobs.Run[Crashing]) -> None:
        await job.finish(lambda tx: tx.add(f"effect/{job.args.name}", 1))

    with Cluster(fsync=True) as cluster:
        url = cluster.create_database("jobs")
        onefold.migrate(url)
        with onefold.connect(url) as db, jobs.Worker(db, io={Crashing: crash}, lease_ms=1_000, poll_ms=50) as worker:
            for turn, stop in enumerate((cluster.kill9, cluster.stop, None)):
                put_all(db, [Crashing(name) for name in names if name.startswith(f"{turn}/")])
                until(lambda: worker.numbers().get("jobs.finished", 0) > 0, "the first of them")
                if stop is not None:
                    stop()
                    cluster.start()
            until(lambda: not states(db), "the last of them")
        with onefold.connect(url) as db:
            assert db.run(lambda tx: [tx.total(f"effect/{name}") for name in names]) == [1] * len(names)
