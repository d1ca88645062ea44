"""Real processes on one database whose wall clocks are two minutes late, right, and two minutes early.

On PostgreSQL nobody notices. On SQLite what is held may end early, as the engine's README says; nothing is sold, held or
done twice.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from waiting import until

from onefold.testing.skewed import USAGE

SKEW_MS = 120_000  # Twice the 60 s that the hosts lock and hold for.
NEAR_MS = 30_000  # For a machine that runs other tests beside.


class Host:
    """One of the processes."""

    def __init__(self, skew_ms: int, url: str) -> None:
        command = [sys.executable, "-m", "onefold.testing.skewed", str(skew_ms), "skewed_host", url]
        paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths}
        )

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process as process:
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(30) == 0

    def __call__(self, what: str, *arguments: object) -> Any:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        print(msgspec.json.encode([what, *arguments]).decode(), file=stdin, flush=True)
        line = stdout.readline()
        assert line, "the process ended"
        return msgspec.json.decode(line)


class Hosts(NamedTuple):
    """By their clocks."""

    late: Host
    right: Host
    early: Host
    postgres: bool


@pytest.fixture
def hosts(db_url: str) -> Iterator[Hosts]:
    with ExitStack() as stack:
        three = [stack.enter_context(Host(skew, db_url)) for skew in (-SKEW_MS, 0, SKEW_MS)]
        yield Hosts(*three, "://" in db_url)


def refused(code: str) -> dict[str, str]:
    return {"refused": code}


def test_locks_holds_and_jobs_of_hosts_that_disagree_about_the_time(hosts: Hosts) -> None:
    the_time(hosts)
    one_holder(hosts)
    one_buyer(hosts)
    one_effect(hosts)
    what_waits(hosts)


def the_time(hosts: Hosts) -> None:
    """The processes' own clocks are wrong; on PostgreSQL the transactions' are not."""
    for host, skew_ms in ((hosts.late, -SKEW_MS), (hosts.right, 0), (hosts.early, SKEW_MS)):
        own, of_tx = (ms - time.time_ns() // 1_000_000 for ms in host("clocks"))
        assert abs(own - skew_ms) < NEAR_MS
        assert abs(of_tx - (0 if hosts.postgres else skew_ms)) < NEAR_MS


def one_holder(hosts: Hosts) -> None:
    token = hosts.late("lock", "till", "late")
    later = hosts.early("lock", "till", "early")
    if hosts.postgres:
        assert later is None
        assert hosts.late("write", "till") is None
        return
    # By its clock the lock had been over for a minute. Who had it is outnumbered, and cannot write.
    assert later > token
    assert hosts.late("write", "till") == refused("lost")
    assert hosts.early("write", "till") is None
    assert hosts.late("lock", "till", "late") is None
    assert [hosts.right("total", f"written/{one}") for one in (token, later)] == [0, 1]


def one_buyer(hosts: Hosts) -> None:
    show = hosts.right("open")
    ana = hosts.late("hold", show, "ana", 1)
    eve = hosts.early("hold", show, "eve", 1)
    if hosts.postgres:
        assert eve == refused("seats_taken")
        assert hosts.early("confirm", ana, "ana") is None
    else:
        assert isinstance(eve, str)
        assert hosts.late("confirm", ana, "ana")["refused"] in {"hold_gone", "hold_lapsed"}
        assert hosts.early("confirm", eve, "eve") is None
    assert hosts.right("hold", show, "bob", 1) == refused("seats_taken")
    assert hosts.right("sold", show) == 1


def one_effect(hosts: Hosts) -> None:
    hosts.late("put", "letter", 0)
    assert hosts.late("claim") == ["letter"]
    if not hosts.postgres:
        assert hosts.early("rescue") is True
        assert hosts.late("finish", "letter") == refused("attempt_lost")
        until(lambda: hosts.early("claim") == ["letter"], "the rescued job to be due")
        assert hosts.early("finish", "letter") is None
    else:
        assert hosts.early("rescue") is False
        assert hosts.early("claim") == []
        assert hosts.late("finish", "letter") is None
    assert hosts.late("finish", "letter") == refused("attempt_lost")
    assert hosts.right("total", "effect/letter") == 1


def what_waits(hosts: Hosts) -> None:
    """A job for in a minute: by the early host's clock it has been due for as long."""
    hosts.late("put", "later", 60_000)
    assert hosts.early("claim") == ([] if hosts.postgres else ["later"])


@pytest.mark.parametrize("arguments", [[], ["1"], ["soon", "json.tool"], ["86400001", "json.tool"]])
def test_a_clock_that_is_not_one_is_refused(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "onefold.testing.skewed", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr.strip()) == (1, USAGE)
