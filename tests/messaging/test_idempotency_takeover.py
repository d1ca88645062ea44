"""Attempts against each other: stepped on PostgreSQL, raced on both engines, killed in the middle."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from racing import Step, at_once, kill_after, until_somebody_waits
from waiting import WAIT_S, until

from onefold import Conflict, Database, Handle, OnefoldError, Tx, idempotency

LEVELS = ["read_committed", "serializable"]
SCOPE = "POST /pay"


def begin(db: Handle, key: str = "k1") -> idempotency.Attempt:
    attempt = db.run(idempotency.begin, key, scope=SCOPE, request=1)
    assert isinstance(attempt, idempotency.Attempt)
    return attempt


def lapse(db: Handle) -> None:
    """Let every lease of the space end now."""
    db.run(lambda tx: tx.run("UPDATE onefold.idempotency_keys SET lease_until_ms = 1 WHERE space = :space"))


def code_of(error: object) -> str:
    assert isinstance(error, OnefoldError), error
    return error.code


@pytest.mark.parametrize("level", LEVELS)
def test_a_finish_behind_a_take_over_is_refused(postgres: Database, threads: ThreadPoolExecutor, level: str) -> None:
    """The finish comes while the take-over is not committed yet: it waits for the row, and reads the new token."""
    handle, step, old = postgres.options(isolation=level), Step(), begin(postgres)
    lapse(postgres)

    def take_over(tx: Tx) -> object:
        attempt = idempotency.begin(tx, "k1", scope=SCOPE, request=1)
        step.stop()
        return attempt

    with step:
        taking = threads.submit(handle.run, take_over)
        assert step.reached.wait(WAIT_S)
        late = threads.submit(handle.run, idempotency.finish, old, "late")
        until_somebody_waits(postgres)
        step.go.set()
        new = taking.result(WAIT_S)
        assert isinstance(new, idempotency.Attempt)
        with pytest.raises(Conflict) as refused:
            late.result(WAIT_S)
    assert refused.value.code == "lost"
    postgres.run(idempotency.finish, new, "new")


@pytest.mark.parametrize("level", LEVELS)
def test_a_take_over_behind_a_finish_is_a_replay(postgres: Database, threads: ThreadPoolExecutor, level: str) -> None:
    """The other order: the holder's answer is on its way, so the successor waits and gets it, not the key."""
    handle, step, old = postgres.options(isolation=level), Step(), begin(postgres)
    lapse(postgres)

    def answer(tx: Tx) -> None:
        idempotency.finish(tx, old, "in time")
        step.stop()

    with step:
        finishing = threads.submit(handle.run, answer)
        assert step.reached.wait(WAIT_S)
        taking = threads.submit(handle.run, idempotency.begin, "k1", scope=SCOPE, request=1)
        until_somebody_waits(postgres)
        step.go.set()
        finishing.result(WAIT_S)
        found = taking.result(WAIT_S)
    assert isinstance(found, idempotency.Answer)
    assert (found.value, found.replayed) == ("in time", True)


@pytest.mark.parametrize("level", LEVELS)
def test_a_duplicate_of_a_begin_on_its_way_is_answered_at_once(
    postgres: Database, threads: ThreadPoolExecutor, level: str
) -> None:
    handle, step = postgres.options(isolation=level), Step()

    def slow(tx: Tx) -> object:
        attempt = idempotency.begin(tx, "k1", scope=SCOPE, request=1)
        step.stop()
        return attempt

    with step:
        first = threads.submit(handle.run, slow)
        assert step.reached.wait(WAIT_S)
        with pytest.raises(Conflict) as refused:
            handle.run(idempotency.begin, "k1", scope=SCOPE, request=1)
        assert not first.done()
    assert refused.value.code == "in_flight"
    assert isinstance(first.result(WAIT_S), idempotency.Attempt)


@pytest.mark.parametrize("level", LEVELS)
def test_a_dead_holder_is_taken_over_by_one(real: Database, level: str) -> None:
    handle = real.options(isolation=level) if real.dialect == "postgres" else real
    for round_ in range(8):
        key = f"k{round_}"
        begin(real, key)
        lapse(real)
        found = at_once(*[lambda key=key: begin(handle, key)] * 6)
        attempts = [one for one in found if isinstance(one, idempotency.Attempt)]
        assert [one.number for one in attempts] == [2]
        assert {code_of(one) for one in found if one not in attempts} == {"in_flight"}


def test_of_holder_and_successors_one_answers(real: Database) -> None:
    """Every attempt finishes while leases lapse beside it; all later callers read the answer of one that was told so."""
    for round_ in range(6):
        key, told, lock = f"k{round_}", [], threading.Lock()

        def work(key: str = key, told: list[str] = told, lock: threading.Lock = lock) -> None:
            for _ in range(10):
                with contextlib.suppress(Conflict):
                    attempt = real.run(idempotency.begin, key, scope=SCOPE, request=1)
                    if isinstance(attempt, idempotency.Answer):
                        return
                    lapse(real)
                    real.run(idempotency.finish, attempt, attempt.token)
                    with lock:
                        told.append(attempt.token)

        assert at_once(*[work] * 5) == [None] * 5
        answer = real.run(idempotency.answer_of, key, scope=SCOPE)
        assert answer is not None
        assert told == [answer.value]


def test_beginning_and_finishing_different_keys_costs_no_aborts(postgres: Database) -> None:
    """Serializable, neighbouring keys: finish reads its row by key, and no begin beside it may be refused for that."""

    def pairs(name: str) -> None:
        for number in range(40):
            postgres.run(idempotency.finish, begin(postgres, f"{number}/{name}"), "x")

    assert at_once(*[lambda name=name: pairs(str(name)) for name in range(6)]) == [None] * 6
    assert postgres.metrics()["retries"] == []


VICTIM = """
import os, sys, onefold
from onefold import idempotency
db = onefold.connect(sys.argv[1])
number = 0
while True:
    attempt = db.run(idempotency.begin, f"k{number}", scope="POST /pay", request=number)
    with open(sys.argv[2], "ab", 0) as effects:  # The other side: its effects cannot be rolled back.
        effects.write(b"%d\\n" % number)
    db.run(idempotency.finish, attempt, number)
    print(number, flush=True)
    number += 1
"""


def test_a_killed_holder_is_taken_over_and_what_was_acknowledged_stays(real: Database, tmp_path) -> None:
    effects = tmp_path / "effects"
    acknowledged = {int(line) for line in kill_after(25, VICTIM, real.url, str(effects))}
    done = [int(line) for line in effects.read_text().splitlines()]
    assert done == sorted(set(done))  # Each effect once: nothing was retried yet.
    for number in acknowledged:
        answer = real.run(idempotency.begin, f"k{number}", scope=SCOPE, request=number)
        assert isinstance(answer, idempotency.Answer)
        assert answer.value == number
    after = max(done) + 1  # The first key that the victim may have begun without an effect.
    for number in {*done, after} - acknowledged:
        found = until(lambda number=number: resolved(real, number), "an answer or the take-over")
        if isinstance(found, idempotency.Answer):
            assert found.value == number  # Its finish was committed; nobody was told.
        else:
            assert found.number == 2 or number not in done  # An effect that no note was left of is impossible.


def resolved(db: Database, number: int) -> idempotency.Attempt | idempotency.Answer | None:
    """What the next caller gets once the lease is over; None while the dead one's connection is still seen as alive."""
    lapse(db)
    with contextlib.suppress(Conflict):
        return db.run(idempotency.begin, f"k{number}", scope=SCOPE, request=number)
    return None
