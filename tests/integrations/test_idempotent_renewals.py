"""The middleware keeps the lease of a route that runs, for as long as it runs and its process lives, and no longer."""

from __future__ import annotations

import logging
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from idempotent_apps import WAIT_S, House, Victim, post, serving
from idempotent_calls import KINDS, Answer, Told, guarded
from racing import Step
from waiting import until

import onefold
from onefold import Database, Invalid, idempotency

ASK = {"method": "POST", "path": "/orders", "query": "", "tenant": "ana", "content_type": "text/plain", "key": "k1",
       "body": b"two seats"}  # fmt: skip
LEASE_MS = 300
LONG_LEASE_MS = 1_000  # Where a renewal that comes late, on a busy machine, must not be too late.
TAKEN = "UPDATE onefold.idempotency_keys SET attempt = 'other' WHERE space = :space"
TOUCHED = "UPDATE onefold.idempotency_keys SET expires_at_ms = expires_at_ms WHERE space = :space"


class Slow(Told):
    """An app whose first request stops in the middle."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.step = step
        self.answer = Answer(200, [("content-type", "text/plain")], b"done")

    def asked(self, attempt: idempotency.Attempt | None, body: bytes) -> Answer:
        answer = super().asked(attempt, body)
        if len(self.numbers) == 1:
            self.step.stop()
        return answer


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def lease_of(db: Database) -> tuple[int, int]:
    """Until when the lease of the only key goes, and the time, on the database's clock."""
    (found,) = db.run(lambda tx: tx.all("SELECT lease_until_ms FROM onefold.idempotency_keys WHERE space = :space"))
    return found[0], db.run(lambda tx: tx.now_ms)


def beaten(db: Database, lease_ms: int = LONG_LEASE_MS) -> bool:
    """Whether the lease lives, though the key was taken longer ago than that."""
    until_ms, now_ms = lease_of(db)
    (since,) = db.run(lambda tx: tx.one("SELECT asked_at_ms FROM onefold.idempotency_keys WHERE space = :space"))
    return until_ms > now_ms > since + lease_ms


def renewing() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "onefold-renewals"]


def test_a_route_that_is_slower_than_its_lease_is_not_taken_over(
    real: Database, kind: str, threads: ThreadPoolExecutor
) -> None:
    before = renewing()
    with Step() as step:
        told = Slow(step)
        ask = guarded(kind, told, db=real, lease_ms=LONG_LEASE_MS)
        first = threads.submit(ask, **ASK)
        assert step.reached.wait(WAIT_S)
        until(lambda: beaten(real), "a lease that is renewed")
        assert [ask(**ASK).status for _ in range(3)] == [409, 409, 409]
    assert first.result(WAIT_S).body == b"done"
    assert ask(**ASK).body == b"done"
    assert told.numbers == [1]
    until(lambda: set(renewing()) <= set(before), "the end of the thread when nothing runs")


@pytest.mark.parametrize("run_ms_max", [0, 400])
def test_a_route_that_hangs_is_taken_over_when_its_time_is_over(
    real: Database, kind: str, threads: ThreadPoolExecutor, run_ms_max: int
) -> None:
    with Step() as step:
        told = Slow(step)
        ask = guarded(kind, told, db=real, lease_ms=LEASE_MS, run_ms_max=run_ms_max)
        first = threads.submit(ask, **ASK)
        assert step.reached.wait(WAIT_S)
        until(lambda: ask(**ASK).status == 200, "a take-over")
        assert told.numbers == [1, 2]
    late = first.result(WAIT_S)
    assert (late.status, dict(late.headers)["retry-after"]) == (409, "1"), "its answer does not count any more"
    assert ask(**ASK).body == b"done"


def test_a_route_that_lost_its_key_is_told_so_in_the_end(
    real: Database, kind: str, threads: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="onefold.idempotent_routes")
    with Step() as step:
        ask = guarded(kind, Slow(step), db=real, lease_ms=LEASE_MS)
        first = threads.submit(ask, **ASK)
        assert step.reached.wait(WAIT_S)
        real.run(lambda tx: tx.run(TAKEN))
        until(lambda: "has lost its key" in caplog.text, "a renewal that is refused")
    assert first.result(WAIT_S).status == 409
    assert real.run(idempotency.answer_of, "k1", scope="POST /orders ana") is None


def test_a_renewal_that_fails_is_tried_again(
    real: Database, db_url: str, kind: str, threads: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="onefold.idempotent_routes")
    with onefold.connect(db_url) as other, Step() as step, Step() as holding:
        ask = guarded(kind, Slow(step), db=real, lease_ms=LEASE_MS)
        first = threads.submit(ask, **ASK)
        assert step.reached.wait(WAIT_S)
        holder = threads.submit(other.run, lambda tx: (tx.all(f"{TOUCHED} RETURNING key"), holding.stop()))
        assert holding.reached.wait(WAIT_S)
        until(lambda: "was not renewed" in caplog.text, "a renewal that comes to its deadline")
        holding.go.set()
        holder.result(WAIT_S)
        until(lambda: beaten(real, LEASE_MS), "the next one")
        step.go.set()
        assert first.result(WAIT_S).status == 200


def test_a_renewed_route_whose_process_is_killed_is_taken_over(
    real: Database, db_url: str, threads: ThreadPoolExecutor, tmp_path: Path
) -> None:
    house = House()
    framework = "starlette" if db_url.startswith("postgresql:") else "flask"  # Each kind once, on another engine.
    with serving(framework, house, real, lease_ms=LONG_LEASE_MS) as port:
        with Victim(framework, real.url, tmp_path / "effects", LONG_LEASE_MS) as victim:
            asking = threads.submit(post, victim.port)
            assert victim.process.stdout.readline() == "effect\n"
            until(lambda: beaten(real), "a lease that is renewed")
            busy = post(port)
            assert (busy.status, busy.code, house.numbers) == (409, "in_flight", [])
            victim.process.send_signal(signal.SIGKILL)
            assert asking.exception(WAIT_S) is not None
        until(lambda: post(port).status == 201, "a take-over")
        assert house.numbers == [2], "it knows that somebody may have paid before it"
        assert post(port).replayed


@pytest.mark.parametrize("run_ms_max", [-1, True, 86_400_001, 1.5])
def test_the_time_of_a_route_has_limits(real: Database, kind: str, run_ms_max: Any) -> None:
    with pytest.raises(Invalid):
        guarded(kind, Told(), db=real, run_ms_max=run_ms_max)
