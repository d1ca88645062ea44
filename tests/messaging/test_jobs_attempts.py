"""Who holds a job may write for it, nobody else: claims, fences, leases and rescues, on both engines."""

from __future__ import annotations

import threading

import pytest
from jobs_ground import (
    ALL_KINDS,
    DAY_MS,
    LEASE_MS,
    Mail,
    Other,
    Report,
    age,
    beat,
    cancelled,
    claim,
    effect,
    effects,
    fail,
    hire,
    loops,
    promote,
    rescue_all,
    retire,
    rows,
    states,
)  # fmt: skip

import onefold
from onefold import Conflict, Database, Invalid, Tx, jobs
from onefold.engine.call import Isolation, space_of
from onefold.messaging.jobs.attempts import Wanted, checked_with, finish_with
from onefold.messaging.jobs.lanes import LOOK_AFTER, Claimed, Lanes, _in_flight, claim_and_look
from onefold.messaging.jobs.leases import RESCUE_MAX, as_list

LEVELS: list[Isolation] = ["read_committed", "serializable"]


def lost_to_rescue(db: Database) -> tuple[jobs.Attempt, jobs.Attempt]:
    """An attempt that lost its lease, and the one that has the job now."""
    job_id = db.run(jobs.put, Mail())
    hire(db, "slow")
    (zombie,) = claim(db, "slow")
    age(db, LEASE_MS + 1)
    rescue_all(db)
    age(db, DAY_MS)
    promote(db)
    hire(db, "quick")
    (current,) = claim(db, "quick")
    assert current.id == zombie.id == job_id
    assert current.attempt == 2
    return zombie, current


@pytest.mark.parametrize("level", LEVELS)
def test_a_zombie_can_neither_finish_nor_write(db: Database, level: Isolation) -> None:
    zombie, current = lost_to_rescue(db)
    handle = db.options(isolation=level)
    with pytest.raises(Conflict, match="no longer the job's") as refused:
        handle.run(finish_with, zombie, 0, effect, "zombie")
    assert refused.value.code == "attempt_lost"
    with pytest.raises(Conflict):
        handle.run(checked_with, zombie, effect, "zombie")
    for end in (
        lambda tx: jobs.fail(tx, zombie, error="x", backoff_ms=1, backoff_max_ms=1),
        lambda tx: jobs.snooze(tx, zombie, after_ms=0),
        lambda tx: jobs.give_up(tx, zombie, reason="x"),
        lambda tx: jobs.note(tx, zombie, "1"),
    ):
        with pytest.raises(Conflict):
            handle.run(end)
    assert effects(db, "zombie") == 0
    handle.run(checked_with, current, effect, "current")
    handle.run(finish_with, current, 0, effect, "current")
    assert effects(db, "current") == 2
    assert states(db) == {}
    with pytest.raises(Conflict):
        handle.run(finish_with, current, 0, effect, "current")


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("reads", [False, True])
def test_a_finish_under_way_and_a_rescue_do_not_both_happen(db_url: str, level: Isolation, reads: bool) -> None:
    """The rescue comes while the effect is written: one of the two has the job, never both.

    On PostgreSQL an effect that reads nothing has not been sent yet: the rescue comes first.
    """
    with onefold.connect(db_url) as db, onefold.connect(db_url) as other:
        db.run(jobs.put, Mail())
        hire(db, "w1")
        (attempt,) = claim(db)
        age(db, LEASE_MS + 1_000)  # `other` reads the server's clock over another connection, by some ms differently.
        inside, go_on = threading.Event(), threading.Event()

        def slow_effect(tx: Tx) -> None:
            effect(tx, "e")
            if reads:
                tx.total("e")
            inside.set()
            go_on.wait(10)

        outcome: list[BaseException | None] = []

        def finish() -> None:
            try:
                db.options(isolation=level).run(finish_with, attempt, 0, slow_effect)
                outcome.append(None)
            except Conflict as error:
                outcome.append(error)

        finishing = threading.Thread(target=finish)
        finishing.start()
        assert inside.wait(10)
        rescuing = threading.Thread(target=rescue_all, args=(other,))
        if db.dialect == "postgres":
            other.options(isolation="read_committed").run(jobs.rescue)  # Does not wait: it skips what is locked.
        else:
            rescuing.start()
        go_on.set()
        finishing.join(20)
        if db.dialect == "sqlite":
            rescuing.join(20)
        age(db, 2_000)
        rescue_all(other)
        if db.dialect == "sqlite" or reads:
            assert outcome == [None]
            assert effects(db, "e") == 1
            assert states(db) == {}
        else:
            (lost,) = outcome
            assert isinstance(lost, Conflict)
            assert lost.code == "attempt_lost"
            assert effects(db, "e") == 0
            assert states(db) == {"scheduled": 1}
        assert rows(db, "jobs_workers") == 0


def test_a_lease_is_extended_for_all_that_a_worker_runs(db: Database) -> None:
    db.run(lambda tx: jobs.put_many(tx, [Mail()] * 3))
    hire(db, "w1")
    held = claim(db)
    for _ in range(3):
        age(db, LEASE_MS - 1_000)
        loops(db).run(beat, "w1", lease_ms=LEASE_MS)
        rescue_all(db)
    for attempt in held:
        db.run(jobs.finish, attempt)
    assert states(db) == {}


def test_a_given_up_worker_gets_no_jobs_and_no_lease(db: Database) -> None:
    hire(db, "w1")
    age(db, LEASE_MS + 1)
    rescue_all(db)
    db.run(jobs.put, Mail())
    with pytest.raises(Conflict) as refused:
        claim(db)
    assert refused.value.code == "worker_lost"
    with pytest.raises(Conflict):
        loops(db).run(beat, "w1", lease_ms=LEASE_MS)
    assert states(db) == {"ready": 1}


def test_a_retired_worker_leaves_what_it_held_to_the_others_at_once(db: Database) -> None:
    db.run(jobs.put, Mail())
    hire(db, "w1")
    claim(db)
    loops(db).run(retire, "w1")
    rescue_all(db)
    assert states(db) == {"scheduled": 1}
    hire(db, "w2")
    loops(db).run(retire, "w2")
    assert rows(db, "jobs_workers") == 0


def test_a_job_that_kills_its_workers_ends_dead(db: Database) -> None:
    job_id = db.run(jobs.put, Mail(), unique="killer")
    for crash in range(3):
        hire(db, f"w{crash}")
        (attempt,) = claim(db, f"w{crash}")
        assert attempt.attempt == crash + 1
        age(db, LEASE_MS + 1)
        rescue_all(db)
        age(db, DAY_MS)
        promote(db)
    job = db.run(jobs.get, job_id)
    assert job.state == "dead"
    assert job.error is not None
    assert "silent" in job.error
    assert rows(db, "jobs_unique") == 0


def test_a_rescue_takes_many_jobs_in_bounded_steps(db: Database) -> None:
    count = RESCUE_MAX + 20
    db.run(lambda tx: len(jobs.put_many(tx, [Mail()] * count)))
    hire(db, "w1")
    while claim(db, room=500):
        pass
    age(db, LEASE_MS + 1)
    assert loops(db).run(jobs.rescue) is True
    assert states(db) == {"running": 20, "scheduled": RESCUE_MAX}
    rescue_all(db)
    assert states(db) == {"scheduled": count}


def test_cancelling_a_running_job_ends_its_attempt_and_tells_the_worker(db: Database) -> None:
    job_id = db.run(jobs.put, Mail(), unique="k")
    hire(db, "w1")
    (attempt,) = claim(db)
    assert db.run(jobs.cancel, job_id) == "running"
    with pytest.raises(Conflict):
        db.run(finish_with, attempt, 0, effect, "e")
    assert effects(db, "e") == 0
    assert loops(db).run(beat, "w1", lease_ms=LEASE_MS) == [(job_id, 1)]
    assert loops(db).run(cancelled, "w1") == [], "told once"
    assert db.run(jobs.put, Mail(), unique="k") is not None


def test_unread_cancels_are_swept(db: Database) -> None:
    job_id = db.run(jobs.put, Mail())
    hire(db, "w1")
    claim(db)
    db.run(jobs.cancel, job_id)
    loops(db).run(jobs.sweep)
    assert rows(db, "jobs_cancels") == 1
    age(db, 3_600_000)
    loops(db).run(jobs.sweep)
    assert rows(db, "jobs_cancels") == 0


def test_a_snooze_is_no_failure_and_progress_goes_along(db: Database) -> None:
    job_id = db.run(jobs.put, Mail())
    hire(db, "w1")
    for turn in range(5):
        (attempt,) = claim(db)
        assert (attempt.attempt, attempt.failures) == (turn + 1, 0)
        assert attempt.progress == (None if turn == 0 else f'{{"page":{turn - 1}}}')
        db.run(jobs.note, attempt, f'{{"page":{turn}}}')
        db.run(jobs.snooze, attempt, after_ms=1_000 if turn % 2 else 0)
        age(db, 1_000)
        loops(db).run(beat, "w1", lease_ms=LEASE_MS)
        promote(db)
    assert db.run(jobs.get, job_id).progress == '{"page":4}'
    (attempt,) = claim(db)
    fail(db, attempt)
    assert db.run(jobs.get, job_id).progress == '{"page":4}'
    with pytest.raises(Invalid):
        db.run(jobs.note, attempt, "x" * 5_000)


def test_unknown_kinds_park(db: Database) -> None:
    mail, report, mail_2 = (db.run(jobs.put, args, priority=0) for args in (Mail(), Report(), Mail()))
    hire(db, "old")
    assert [a.id for a in claim(db, "old", kinds=("mail.send",))] == [mail, mail_2]
    assert claim(db, "old", kinds=("mail.send", "mail.sen", "report.makes", "report")) == []
    assert db.run(jobs.get, report).state == "ready"
    assert [a.id for a in claim(db, "old", kinds=("report.make",))] == [report]


def test_a_worker_may_serve_one_space_only(db: Database) -> None:
    mine, other = db.at("a").run(jobs.put, Mail()), db.at("b").run(jobs.put, Mail())
    hire(db, "w1")
    assert [a.id for a in claim(db, home=space_of("a"))] == [mine]
    assert claim(db, home=space_of("c")) == []
    assert [a.id for a in claim(db)] == [other]


def test_claims_at_once_take_different_jobs(db_url: str) -> None:
    with onefold.connect(db_url) as db:
        for _ in range(4):
            db.run(lambda tx: len(jobs.put_many(tx, [Mail()] * 100)))
        taken: list[str] = []
        start = threading.Barrier(5)

        def take(worker: str) -> None:
            hire(db, worker)
            start.wait()
            while got := claim(db, worker, room=7):
                taken.extend(a.id for a in got)

        threads = [threading.Thread(target=take, args=(f"w{n}",)) for n in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # A claim that skipped what others held may have stopped early: nothing is left in the end.
        hire(db, "last")
        taken.extend(a.id for a in claim(db, "last", room=1_000))
        assert len(taken) == 400
        assert len(set(taken)) == 400
        assert states(db) == {"running": 400}


# -- lanes: where a claim begins --------------------------------------------------------------------


def claim_by(db: Database, lanes: Lanes, room: int, kinds: tuple[str, ...] = ALL_KINDS) -> list[jobs.Attempt]:
    age_before = lanes.age
    wanted = Wanted(as_list(kinds), None, lanes.lows())
    claimed = loops(db).run(claim_and_look, "w1", wanted, room, lanes.to_look_at())
    again = lanes.claimed(Claimed(*claimed), age=age_before)
    return [*claimed.attempts, *(claim_by(db, lanes, room, kinds) if again else [])]


def low_of(lanes: Lanes, queue: str = "default") -> int:
    return dict(lanes.lows())[queue][2]


def put_mails(db: Database, count: int) -> None:
    db.run(lambda tx: len(jobs.put_many(tx, [Mail()] * count)))


def test_claims_begin_behind_what_is_dealt_with(db_url: str) -> None:
    with onefold.connect(db_url) as db:
        hire(db, "w1")
        lanes = Lanes(("default",), in_order=db.dialect == "sqlite")
        for _ in range(6):
            put_mails(db, LOOK_AFTER)
            assert len(claim_by(db, lanes, 1_000)) == LOOK_AFTER
        low = low_of(lanes)
        assert low > 2 * LOOK_AFTER
        put_mails(db, 3)
        assert len(claim_by(db, lanes, 10)) == 3


def test_a_worker_that_starts_finds_the_edge_in_three_claims(db_url: str) -> None:
    with onefold.connect(db_url) as db:
        hire(db, "w1")
        put_mails(db, 50)
        lanes = Lanes(("default",), in_order=db.dialect == "sqlite")
        first, second, third = (claim_by(db, lanes, 10)[-1].seq for _ in range(3))
        assert low_of(lanes) > first
        assert third - second == second - first == 10


def test_parked_jobs_do_not_stand_in_the_way(db_url: str) -> None:
    with onefold.connect(db_url) as db:
        hire(db, "w1")
        db.run(lambda tx: len(jobs.put_many(tx, [Other()] * 50, queue="default")))
        lanes = Lanes(("default",), in_order=db.dialect == "sqlite")
        for _ in range(6):
            put_mails(db, LOOK_AFTER)
            assert len(claim_by(db, lanes, 1_000, kinds=("mail.send",))) == LOOK_AFTER
        assert low_of(lanes) > 50
        lanes.forget()
        assert len(claim_by(db, lanes, 1_000)) == 50, "from the edge on, by a worker that knows them"


def test_a_number_that_commits_late_is_not_passed_over(postgres_url: str) -> None:
    """A put draws its number and lingers; hundreds of later ones are claimed; then it commits."""
    with onefold.connect(postgres_url) as db:
        hire(db, "w1")
        lanes = Lanes(("default",), in_order=False)
        put_mails(db, 1)
        assert len(claim_by(db, lanes, 10)) == 1
        drawn, commit = threading.Event(), threading.Event()

        def linger(tx: Tx) -> str | None:
            job_id = jobs.put(tx, Mail(to="late"))
            tx.one("SELECT 1 -- all spaces")  # What was queued is sent.
            drawn.set()
            commit.wait(20)
            return job_id

        late: list[str | None] = []
        lingering = threading.Thread(target=lambda: late.append(db.run(linger)))
        lingering.start()
        assert drawn.wait(10)
        for _ in range(6):
            put_mails(db, LOOK_AFTER)
            assert len(claim_by(db, lanes, 1_000)) == LOOK_AFTER
        waited = low_of(lanes)
        commit.set()
        lingering.join(20)
        assert [a.id for a in claim_by(db, lanes, 10)] == late
        for _ in range(4):
            put_mails(db, LOOK_AFTER)
            claim_by(db, lanes, 1_000)
        assert low_of(lanes) > max(waited, 6 * LOOK_AFTER), "and then the mark moves on"


@pytest.mark.parametrize("writes", [False, True], ids=["reader", "writer"])
def test_a_transaction_held_open_does_not_hold_the_mark(postgres_url: str, writes: bool) -> None:
    """Dead index entries pile up behind its snapshot; claims walk past few of them."""
    with onefold.connect(postgres_url) as db:
        hire(db, "w1")
        lanes = Lanes(("default",), in_order=False)
        holds, let_go = threading.Event(), threading.Event()

        def hold(tx: Tx) -> None:
            if writes:
                jobs.put(tx, Mail(to="late"))
            tx.one("SELECT count(*) FROM onefold.jobs_ready -- all spaces")
            holds.set()
            let_go.wait(60)

        handle = db.options(deadline_ms=100_000)
        holding = threading.Thread(target=lambda: (handle if writes else handle.reader()).run(hold))
        holding.start()
        assert holds.wait(10)
        for _ in range(15):
            put_mails(db, LOOK_AFTER)
            assert len(claim_by(db, lanes, 1_000)) == LOOK_AFTER
        walked = 15 * LOOK_AFTER - low_of(lanes)  # A fresh database: its numbers count from 1.
        let_go.set()
        holding.join(20)
        assert walked <= 7 * LOOK_AFTER
        assert len(claim_by(db, lanes, 10)) == int(writes)


def test_all_that_is_in_flight_is_read_off_a_snapshot() -> None:
    assert _in_flight(107, "100:105:100,103") == {100, 103, 105, 106}
    assert _in_flight(105, "105:105:") == set()
    assert _in_flight(10**9, "5:5:") is None
