"""Kill -9 before, after and during every COMMIT of a purchase: all of it is there, or nothing.

"During": the COMMIT has been sent, and its answer was never received. On SQLite there is no such moment.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from boxoffice_house import PAIR, open_evening, send_receipts, traces
from boxoffice_victim import ANA
from examples.boxoffice import desk
from examples.boxoffice.crowd.audit import audit
from examples.boxoffice.purchase import purchase
from postgres_proxy import AtCommit, Fate, Proxy

import onefold
from onefold import Database, jobs
from onefold.runtime import Supervisor, all_loops
from onefold.testing.postgres import Cluster

ROOT = Path(__file__).parents[2]
HOLD, BUY = 1, 2  # The first two COMMITs; those after them are the worker's.
WELCOME = 150_000


def run_victim(url: str, show: str, number: int, when: str) -> tuple[int, str]:
    """Let it die; answer its exit code and what it said before."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("boxoffice_victim.py")), url, show, str(number), when],
        capture_output=True, text=True, timeout=60, check=False, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"},
    )  # fmt: skip
    assert done.returncode in {0, -9}, done.stderr
    return done.returncode, done.stdout


def run_victim_on(proxy: Proxy, url: str, show: str, number: int) -> tuple[int, str]:
    """The same behind a proxy, which sends its COMMIT on, and no answer: by then it is dead."""
    victim = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("boxoffice_victim.py")), proxy.url(database_of(url)), show, "0", "sent"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"},
    )  # fmt: skip

    def kill() -> Fate:
        victim.kill()
        return "cut_after"

    proxy.fate = at = AtCommit(number, kill)
    with victim:
        assert victim.stdout is not None
        assert victim.stdout.readline() == "armed\n"
        at.arm()
        said, _ = victim.communicate("go\n", timeout=60)
    return victim.returncode, said


def database_of(url: str) -> str:
    return url.partition("@/")[2].partition("?")[0]


def work_left(db: Database) -> int:
    return sum(len(db.run(jobs.list_jobs, state=state).items) for state in ("ready", "scheduled", "running", "dead"))


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", range(1, 7))
def test_killed_at_a_commit_the_purchase_is_whole_or_absent(db_url: str, number: int, when: str) -> None:
    with onefold.connect(db_url) as db:
        show = db.run(open_evening)
    code, said = run_victim(db_url, show, number, when)
    assert code == -9, "it was to die"
    check(db_url, show, said, number, done=when == "after")


@pytest.mark.slow
@pytest.mark.parametrize("number", range(1, 7))
def test_killed_while_a_commit_is_under_way_the_purchase_is_whole(
    postgres_cluster: Cluster, postgres_url: str, number: int
) -> None:
    with onefold.connect(postgres_url) as db:
        show = db.run(open_evening)
    with Proxy(postgres_cluster) as proxy:
        code, said = run_victim_on(proxy, postgres_url, show, number)
    assert code == -9, "it was to die"
    check(postgres_url, show, said, number, done=True)


@pytest.mark.parametrize("fate", ["cut_before", "cut_after", "hang_up_client"])
@pytest.mark.parametrize("number", [HOLD, BUY])
def test_a_buyer_whose_commits_answer_is_lost_gets_the_order_once(
    postgres_cluster: Cluster, postgres_url: str, number: int, fate: Fate
) -> None:
    """The process lives on, and finds out by itself what became of it."""
    with onefold.connect(postgres_url) as db:
        show = db.run(open_evening)
    at = AtCommit(number, lambda: fate)
    with Proxy(postgres_cluster) as proxy, onefold.connect(proxy.url(database_of(postgres_url))) as db:
        proxy.fate = at
        at.arm()
        hold = db.run(desk.take_once, show, by=ANA, wish=PAIR, key="hold")
        order = db.run(purchase, hold.id, by=ANA, key="buy")
        assert at.met, "nothing was lost"
        assert not order.replayed
    check(postgres_url, show, f"told {order.value.id}\n", BUY + 1, done=True)


def check(url: str, show: str, said: str, number: int, *, done: bool) -> None:
    """All of the purchase is there if COMMIT `number`, which ended it, was `done` or a later one; else nothing.

    Who asks again gets the same order, and the audit finds everything once.
    """
    with onefold.connect(url) as db:
        there = db.run(traces, show, ANA)
        bought = number > BUY or (number == BUY and done)
        held = number > HOLD or done
        assert ("told" in said) == (number > BUY)
        assert (there["orders"], there["sold"], there["placed"]) == ((1, 2, 1) if bought else (0, 0, 0))
        assert there["held"] == (2 if held and not bought else 0)
        assert there["till"] == (WELCOME - there["wallet"])
        assert (there["till"] > 0) == bought
        assert work_left(db) + there["receipts"] == bought, "the receipt waits, is being worked on, or was sent: once"
        hold = db.run(desk.take_once, show, by=ANA, wish=PAIR, key="hold")
        order = db.run(purchase, hold.id, by=ANA, key="buy")
        assert order.replayed == bought
        assert said in {"", f"told {order.value.id}\n"}
        send_receipts(db, order.value.id)
        with Supervisor(db, all_loops()):
            report = audit(db, drain_s=20)
        assert report.passed, report.text()
        assert (report.orders, report.receipts, report.seats_sold) == (1, 1, 2)
        assert work_left(db) == 0


def test_without_a_kill_the_victim_lives(db_url: str) -> None:
    with onefold.connect(db_url) as db:
        show = db.run(open_evening)
    code, said = run_victim(db_url, show, 0, "before")
    assert (code, "survived" in said) == (0, True), "or the tests above would show nothing"
