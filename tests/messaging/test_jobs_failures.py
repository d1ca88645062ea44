"""How attempts failed is kept beside their job, and goes with it. On both engines."""

from __future__ import annotations

import pytest
from jobs_ground import DAY_MS, LEASE_MS, Mail, age, claim, hire, loops, promote, rescue_all, rows

from onefold import Database, Invalid, NotFound, jobs


def failed(db: Database, *errors: str) -> str:
    """A job that was started and failed so often."""
    job_id = db.run(jobs.put, Mail())
    hire(db, "w1")
    for error in errors:
        (attempt,) = claim(db)
        db.run(jobs.fail, attempt, error=error, backoff_ms=1, backoff_max_ms=1)
        age(db, 10)
        promote(db)
    assert job_id
    return job_id


def errors_of(db: Database, job_id: str) -> list[tuple[int, str, str]]:
    return [(one.attempt, one.worker, one.error) for one in db.reader().run(jobs.list_failures, job_id).items]


def test_every_failed_attempt_is_told_with_its_worker_and_its_time(db: Database) -> None:
    job_id = failed(db, "first", "second")
    assert errors_of(db, job_id) == [(2, "w1", "second"), (1, "w1", "first")]
    (attempt,) = claim(db)
    db.run(jobs.give_up, attempt, reason="no such address")
    last = db.reader().run(jobs.list_failures, job_id, limit=1)
    assert [one.error for one in last.items] == ["given up by its handler: no such address"]
    assert last.items[0].started_at_ms <= last.items[0].ended_at_ms
    rest = db.reader().run(jobs.list_failures, job_id, after=last.after)
    assert [one.attempt for one in rest.items] == [2, 1]
    assert rest.after is None


def test_a_silent_worker_is_a_failure_too(db: Database) -> None:
    job_id = db.run(jobs.put, Mail())
    hire(db, "w1")
    claim(db)
    age(db, LEASE_MS + 1)
    rescue_all(db)
    assert job_id
    ((attempt, worker, error),) = errors_of(db, job_id)
    assert (attempt, worker) == (1, "w1")
    assert "Its worker w1 was silent" in error


def test_an_attempt_that_ends_well_writes_nothing_and_takes_the_others_along(db: Database) -> None:
    failed(db, "boom")
    assert rows(db, "jobs_failures") == 1
    (attempt,) = claim(db)
    db.run(jobs.finish, attempt)
    assert rows(db, "jobs_failures") == 0
    db.run(jobs.put, Mail())
    (attempt,) = claim(db)
    db.run(jobs.finish, attempt)
    assert rows(db, "jobs_failures") == 0


def test_a_job_that_is_kept_keeps_how_it_failed(db: Database) -> None:
    job_id = failed(db, "boom")
    (attempt,) = claim(db)
    db.run(jobs.finish, attempt, keep_done_ms=DAY_MS)
    assert [error for *_, error in errors_of(db, job_id)] == ["boom"]
    age(db, 31 * DAY_MS)
    loops(db).run(jobs.sweep)
    assert rows(db, "jobs_failures") == 0


@pytest.mark.parametrize("end", ["cancel", "purge"])
def test_a_job_that_is_taken_away_takes_them_along(db: Database, end: str) -> None:
    job_id = failed(db, *["boom"] * (1 if end == "cancel" else 3))
    other = db.run(jobs.put, Mail())
    hire(db, "w2")
    if end == "cancel":
        db.run(jobs.cancel, job_id)
    else:
        assert db.run(jobs.purge_dead, "mail.send").done == 1
    assert other
    assert rows(db, "jobs_failures") == 0


def test_a_retried_job_goes_on_counting(db: Database) -> None:
    job_id = failed(db, "1", "2", "3")
    assert db.run(jobs.get, job_id).state == "dead"
    db.run(jobs.retry, job_id)
    (attempt,) = claim(db)
    db.run(jobs.fail, attempt, error="4", backoff_ms=1, backoff_max_ms=1)
    assert [number for number, *_ in errors_of(db, job_id)] == [4, 3, 2, 1]


def test_a_job_that_never_failed_has_none_and_one_that_is_not_there_is_not_found(db: Database) -> None:
    assert errors_of(db, failed(db)) == []
    for job_id in ("mail.send", "job_none", failed(db.at("tenant/7"))):
        with pytest.raises(NotFound):
            db.reader().run(jobs.list_failures, job_id)


@pytest.mark.parametrize("after", ["x", "-1", "0", "9" * 40])
def test_a_cursor_that_no_page_gave_is_refused(db: Database, after: str) -> None:
    with pytest.raises(Invalid):
        db.reader().run(jobs.list_failures, "job_1", after=after)
