"""Kill -9 before and after every COMMIT of a purchase: all of it is there, or nothing."""

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

import onefold
from onefold import Database, jobs
from onefold.runtime import Supervisor, all_loops

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
    with onefold.connect(db_url) as db:
        there = db.run(traces, show, ANA)
        bought = number > BUY or (number == BUY and when == "after")
        held = number > HOLD or when == "after"
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
