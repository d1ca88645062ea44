"""Jobs as a program and its operators see them, on both engines."""

from __future__ import annotations

import threading

import msgspec
import pytest
from jobs_ground import DAY_MS, Mail, Other, Report, age, claim, fail, hire, loops, promote, rows, states

from onefold import Conflict, Database, Invalid, NotFound, Tx, jobs
from onefold.messaging.jobs.ops import DELAY_MS_MAX, PUT_MANY_MAX


def test_a_job_exists_when_its_transaction_commits(db: Database) -> None:
    def put_and_fail(tx: Tx) -> None:
        jobs.put(tx, Mail(), unique="m")
        raise Conflict("No.")

    with pytest.raises(Conflict):
        db.run(put_and_fail)
    assert states(db) == {}
    job_id = db.run(jobs.put, Mail(to="bo"))
    job = db.run(jobs.get, job_id)
    assert (job.state, job.kind, job.args, job.attempt, job.attempts_max) == ("ready", "mail.send", '{"to":"bo"}', 0, 3)


def test_what_is_claimed_is_what_was_put_first_in_first_out(db: Database) -> None:
    ids = [db.run(jobs.put, Mail(to=str(number))) for number in range(5)]
    hire(db, "w1")
    first = claim(db, room=2)
    assert [a.id for a in first] == ids[:2]
    assert [a.attempt for a in first] == [1, 1]
    assert [a.id for a in claim(db)] == ids[2:]
    assert claim(db) == []
    assert states(db) == {"running": 5}


def test_priorities_come_before_age(db: Database) -> None:
    order = [db.run(jobs.put, Mail(), priority=p) for p in (0, -2, 2, 1, -1, 2)]
    hire(db, "w1")
    assert [a.id for a in claim(db)] == [order[i] for i in (2, 5, 3, 0, 4, 1)]


def test_queues_are_apart(db: Database) -> None:
    db.run(jobs.put, Other())
    db.run(jobs.put, Mail(), queue="others")
    hire(db, "w1")
    assert claim(db) == []
    assert [a.kind for a in claim(db, queue="others")] == ["other.thing", "mail.send"]


def test_put_many_puts_all_or_nothing(db: Database) -> None:
    ids = db.run(lambda tx: jobs.put_many(tx, [Mail(), Report(number=7), Mail()]))
    assert len(set(ids)) == 3
    assert states(db) == {"ready": 3}
    later = db.run(lambda tx: jobs.put_many(tx, [Mail()] * 2, delay_ms=1_000))
    assert [db.run(jobs.get, i).state for i in later] == ["scheduled", "scheduled"]
    with pytest.raises(Invalid):
        db.run(lambda tx: jobs.put_many(tx, [Mail()] * (PUT_MANY_MAX + 1)))
    assert states(db) == {"ready": 3, "scheduled": 2}


def test_a_delayed_job_waits_until_it_is_due(db: Database) -> None:
    job_id = db.run(jobs.put, Mail(), delay_ms=60_000)
    job = db.run(jobs.get, job_id)
    assert job.at_ms == job.put_at_ms + 60_000
    wait_ms = promote(db)
    assert wait_ms is not None
    assert 0 < wait_ms <= 60_000
    assert states(db) == {"scheduled": 1}
    age(db, 60_000)
    assert promote(db) is None
    assert states(db) == {"ready": 1}


def test_due_jobs_become_ready_in_the_order_of_their_times(db: Database) -> None:
    late, soon, early = (db.run(jobs.put, Mail(), delay_ms=ms) for ms in (3_000, 2_000, 1_000))
    age(db, 10_000)
    promote(db)
    hire(db, "w1")
    assert [a.id for a in claim(db)] == [early, soon, late]


def test_a_moment_in_the_past_means_now(db: Database) -> None:
    job_id = db.run(lambda tx: jobs.put(tx, Mail(), at_ms=tx.now_ms - 5_000))
    assert db.run(jobs.get, job_id).state == "ready"
    job_id = db.run(lambda tx: jobs.put(tx, Mail(), at_ms=tx.now_ms + 5_000))
    assert db.run(jobs.get, job_id).state == "scheduled"


def test_a_unique_key_is_taken_while_its_job_waits_or_runs(db: Database) -> None:
    first = db.run(jobs.put, Mail(), unique="receipt/1")
    assert first is not None
    assert db.run(jobs.put, Mail(), unique="receipt/1") is None
    assert db.at("other").run(jobs.put, Mail(), unique="receipt/1") is not None
    hire(db, "w1")
    (attempt,) = [a for a in claim(db) if a.id == first]
    assert db.run(jobs.put, Mail(), unique="receipt/1") is None
    fail(db, attempt)
    assert db.run(jobs.put, Mail(), unique="receipt/1") is None
    age(db, DAY_MS)
    promote(db)
    hire(db, "w2")
    (attempt,) = claim(db, "w2")
    db.run(jobs.finish, attempt)
    assert db.run(jobs.put, Mail(), unique="receipt/1") is not None


def test_of_many_puts_at_once_with_one_key_one_wins(db_url: str) -> None:
    import onefold

    with onefold.connect(db_url) as db:
        got: list[str | None] = []
        start = threading.Barrier(6)

        def put() -> None:
            start.wait()
            got.extend(db.run(jobs.put, Mail(), unique=f"k{i}") for i in range(10))

        threads = [threading.Thread(target=put) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(got) == 60
        assert sum(job_id is not None for job_id in got) == 10
        assert states(db) == {"ready": 10}


def test_cancelling_removes_a_job_wherever_it_waits(db: Database) -> None:
    ready = db.run(jobs.put, Mail(), unique="a")
    scheduled = db.run(jobs.put, Mail(), delay_ms=1_000)
    assert db.run(jobs.cancel, ready) == "ready"
    assert db.run(jobs.cancel, scheduled) == "scheduled"
    assert states(db) == {}
    assert db.run(jobs.put, Mail(), unique="a") is not None, "the key is free again"
    with pytest.raises(NotFound):
        db.run(jobs.cancel, ready)


def test_a_job_belongs_to_its_space(db: Database) -> None:
    job_id = db.at("tenant/7").run(jobs.put, Mail())
    with pytest.raises(NotFound):
        db.run(jobs.get, job_id)
    with pytest.raises(NotFound):
        db.run(jobs.cancel, job_id)
    hire(db, "w1")
    (attempt,) = claim(db)
    assert attempt.space_name == "tenant/7"
    with pytest.raises(Invalid, match="own space"):
        db.run(jobs.finish, attempt)
    db.at("tenant/7").run(jobs.finish, attempt)
    assert states(db.at("tenant/7")) == {}


def test_failures_back_off_and_end_dead(db: Database) -> None:
    job_id = db.run(jobs.put, Mail(), unique="once")
    hire(db, "w1")
    waits = []
    for failure in (1, 2):
        (attempt,) = claim(db)
        assert attempt.attempt == failure
        assert fail(db, attempt, f"broke {failure}") is True
        job = db.run(jobs.get, job_id)
        assert (job.state, job.failures, job.error) == ("scheduled", failure, f"broke {failure}")
        waits.append(promote(db))
        age(db, DAY_MS)
        promote(db)
        hire(db, f"w{failure + 1}")
    assert waits[0] is not None and 0 < waits[0] <= 1_000
    assert waits[1] is not None and 0 < waits[1] <= 2_000
    (attempt,) = claim(db, "w3")
    assert fail(db, attempt) is False
    assert db.run(jobs.get, job_id).state == "dead"
    assert db.run(jobs.put, Mail(), unique="once") is not None, "a dead job keeps no key"


def dead_job(db: Database, **put_options: str) -> str:
    job_id = db.run(jobs.put, Mail(), **put_options)
    assert job_id is not None
    hire(db, f"w-{job_id}")
    (attempt,) = claim(db, f"w-{job_id}")
    db.run(jobs.give_up, attempt, reason="no such address")
    return job_id


def test_a_dead_job_is_retried_with_all_its_attempts(db: Database) -> None:
    job_id = dead_job(db)
    job = db.run(jobs.get, job_id)
    assert (job.state, job.error) == ("dead", "given up by its handler: no such address")
    db.run(jobs.retry, job_id)
    hire(db, "w1")
    (attempt,) = claim(db)
    assert (attempt.id, attempt.attempt, attempt.failures) == (job_id, 2, 0)


def test_a_scheduled_job_is_run_now_by_retry(db: Database) -> None:
    job_id = db.run(jobs.put, Mail(), delay_ms=DAY_MS)
    db.run(jobs.retry, job_id)
    assert db.run(jobs.get, job_id).state == "ready"
    with pytest.raises(NotFound):
        db.run(jobs.retry, job_id)


def test_dead_jobs_are_retried_and_purged_by_kind_and_number(db: Database) -> None:
    ids = sorted(dead_job(db) for _ in range(5))
    assert db.run(jobs.retry_dead, "report.make") == jobs.Step(0, 0, None)
    step = db.run(jobs.retry_dead, "mail.send", limit=2)
    assert step == jobs.Step(2, 0, ids[1])
    assert states(db) == {"ready": 2, "dead": 3}
    assert {db.run(jobs.get, i).state for i in ids[:2]} == {"ready"}, "the oldest first"
    assert db.run(jobs.purge_dead, "mail.send", after=step.after, limit=2) == jobs.Step(2, 0, ids[3])
    assert db.run(jobs.purge_dead, "mail.send", after=ids[3]) == jobs.Step(1, 0, None)
    assert states(db) == {"ready": 2}


def test_a_dead_job_whose_key_was_taken_stays_dead(db: Database) -> None:
    first, second = sorted(dead_job(db, unique="k") for _ in range(2))
    third = db.run(jobs.put, Mail(), unique="k")
    with pytest.raises(Conflict):
        db.run(jobs.retry, first)
    assert db.run(jobs.retry_dead, "mail.send") == jobs.Step(0, 2, None)
    assert states(db) == {"dead": 2, "ready": 1}
    db.run(jobs.cancel, third)
    assert db.run(jobs.retry_dead, "mail.send") == jobs.Step(1, 1, None)
    assert db.run(jobs.get, first).state == "ready"
    assert db.run(jobs.get, second).state == "dead"


def test_a_paused_queue_is_not_served_in_its_space(db: Database) -> None:
    here = db.run(jobs.put, Mail())
    there = db.at("t2").run(jobs.put, Mail())
    db.run(jobs.pause, "default")
    db.run(jobs.pause, "default")
    hire(db, "w1")
    assert [a.id for a in claim(db)] == [there]
    assert [p.queue for p in db.run(jobs.list_paused).items] == ["default"]
    assert "paused" in db.run(jobs.why, here)
    db.run(jobs.resume, "default")
    assert [a.id for a in claim(db)] == [here]


def test_done_jobs_are_kept_as_their_kind_says(db: Database) -> None:
    mail, report = db.run(jobs.put, Mail()), db.run(jobs.put, Report(number=1))
    hire(db, "w1")
    for attempt in claim(db):
        db.run(jobs.finish, attempt, keep_done_ms=DAY_MS if attempt.kind == "report.make" else 0)
    with pytest.raises(NotFound):
        db.run(jobs.get, mail)
    assert db.run(jobs.get, report).state == "done"
    assert "done" in db.run(jobs.why, report)
    assert loops(db).run(jobs.sweep) is False
    assert rows(db, "jobs_done") == 1
    age(db, DAY_MS)
    with pytest.raises(NotFound):
        db.run(jobs.get, report)
    loops(db).run(jobs.sweep)
    assert rows(db, "jobs_done") == 0


def test_dead_jobs_are_swept_after_thirty_days(db: Database) -> None:
    dead_job(db)
    age(db, 29 * DAY_MS)
    loops(db).run(jobs.sweep)
    assert states(db) == {"dead": 1}
    age(db, DAY_MS)
    loops(db).run(jobs.sweep)
    assert states(db) == {}


def test_lists_are_paged_by_state_and_kind(db: Database) -> None:
    ids = [db.run(jobs.put, Mail() if n % 2 else Report(number=n)) for n in range(7)]
    page = db.run(jobs.list_jobs, state="ready", limit=3)
    seen = [job.id for job in page.items]
    while page.after is not None:
        page = db.run(jobs.list_jobs, state="ready", limit=3, after=page.after)
        seen += [job.id for job in page.items]
    assert sorted(seen) == sorted(ids)
    assert {job.kind for job in db.run(jobs.list_jobs, state="ready", kind="mail.send").items} == {"mail.send"}
    assert db.run(jobs.list_jobs, state="dead").items == []


def test_stats_count_by_kind_and_state(db: Database) -> None:
    db.run(lambda tx: jobs.put_many(tx, [Mail(), Mail(), Report()]))
    db.run(jobs.put, Mail(), delay_ms=5)
    hire(db, "w1")
    claim(db, room=1)
    found = {(s.kind, s.state): s.count for s in db.run(jobs.stats)}
    assert found == {
        ("mail.send", "ready"): 1, ("mail.send", "running"): 1, ("mail.send", "scheduled"): 1,
        ("report.make", "ready"): 1,
    }  # fmt: skip
    assert not any(s.at_least for s in db.run(jobs.stats))


def test_why_says_why_in_one_sentence(db: Database) -> None:
    first = db.run(jobs.put, Mail())
    assert db.run(jobs.why, first) == 'No live worker serves its queue "default".'
    hire(db, "w1")
    assert db.run(jobs.why, first) == "It is the next to be claimed."
    second = db.run(jobs.put, Mail())
    assert "1 jobs" in db.run(jobs.why, second)
    unknown = db.run(jobs.put, Unknown())
    assert "parked" in db.run(jobs.why, unknown)
    later = db.run(jobs.put, Mail(), delay_ms=60_000)
    assert "waits until" in db.run(jobs.why, later)
    running, again = claim(db, room=2)
    assert "is running since" in db.run(jobs.why, running.id)
    fail(db, again, "ValueError: bad\nmore")
    assert "failed 1 of 3 times after ValueError: bad." in db.run(jobs.why, again.id)
    age(db, 40_000)
    assert "silent" in db.run(jobs.why, running.id)
    with pytest.raises(NotFound):
        db.run(jobs.why, "job_unknown")


@jobs.kind("un.known")
class Unknown(msgspec.Struct, frozen=True):
    pass


class NoKind(msgspec.Struct, frozen=True):
    pass


@pytest.mark.parametrize(
    "put",
    [
        lambda tx: jobs.put(tx, NoKind()),
        lambda tx: jobs.put(tx, Mail(), delay_ms=-1),
        lambda tx: jobs.put(tx, Mail(), delay_ms=DELAY_MS_MAX + 1),
        lambda tx: jobs.put(tx, Mail(), at_ms=tx.now_ms + DELAY_MS_MAX + 1),
        lambda tx: jobs.put(tx, Mail(), at_ms=tx.now_ms, delay_ms=5),
        lambda tx: jobs.put(tx, Mail(), priority=3),
        lambda tx: jobs.put(tx, Mail(), unique=""),
        lambda tx: jobs.put(tx, Mail(), unique="x" * 201),
        lambda tx: jobs.put(tx, Mail(), unique="a\0b"),
        lambda tx: jobs.put(tx, Mail(), queue="Ä"),
        lambda tx: jobs.put(tx, Mail(to="x" * 70_000)),
        lambda tx: jobs.cancel(tx, ""),
        lambda tx: jobs.pause(tx, "a,b"),
        lambda tx: jobs.retry_dead(tx, "mail.send", limit=0),
        lambda tx: jobs.list_jobs(tx, state="asleep"),  # type: ignore[arg-type]
    ],
)
def test_bad_input_is_refused_before_anything_is_written(db: Database, put) -> None:
    with pytest.raises(Invalid):
        db.run(put)
    assert states(db) == {}


def test_kinds_check_what_they_are_told() -> None:
    for options in ({"attempts": 0}, {"timeout_ms": 0}, {"priority": 9}, {"queue": ","}, {"keep_done_ms": -1}):
        with pytest.raises(Invalid):
            jobs.kind("a.b", **options)  # type: ignore[arg-type]
    with pytest.raises(Invalid):
        jobs.kind("Capital")

    class Soft(msgspec.Struct):
        pass

    with pytest.raises(Invalid, match="frozen"):
        jobs.kind("soft")(Soft)


def test_facts_tell_what_happened(db: Database) -> None:
    heard: list[tuple[str, dict[str, object]]] = []
    told = threading.Event()

    def hear(fact: str, facts: dict[str, object]) -> None:
        heard.append((fact, facts))
        if fact == "jobs.finished":
            told.set()

    db.subscribe("jobs.", hear)
    job_id = db.run(jobs.put, Mail())
    hire(db, "w1")
    (attempt,) = claim(db)
    db.run(jobs.finish, attempt)
    assert told.wait(10)
    assert [(fact, facts["id"]) for fact, facts in heard] == [("jobs.put", job_id), ("jobs.finished", job_id)]
