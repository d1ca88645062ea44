"""Random histories of jobs against a dictionary, on both engines: who has which job, in which order."""

from __future__ import annotations

import itertools

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from jobs_ground import DAY_MS, Mail, age, claim, hire, promote, rescue_all

from onefold import Conflict, Database, NotFound, jobs
from onefold.engine.call import space_of
from onefold.messaging.jobs.attempts import finish_with
from onefold.messaging.jobs.kinds import PRIORITIES

ATTEMPTS = 3  # Of Mail.
_numbers = itertools.count(1)


class Entry:
    """A job as the model knows it."""

    def __init__(self, job_id: str, priority: int, unique: str | None) -> None:
        self.id = job_id
        self.priority = priority
        self.unique = unique
        self.state = "ready"
        self.turn = 0
        self.attempt = 0
        self.failures = 0
        self.held: jobs.Attempt | None = None
        self.failed: list[int] = []  # Numbers of the attempts that did.


class Model(RuleBasedStateMachine):
    db: Database

    @initialize()
    def begin(self) -> None:
        number = next(_numbers)
        self.name = f"model/{number}"
        self.here = self.db.at(self.name)
        self.worker = hire(self.db, f"worker-{number}-0")
        self.hired = 0
        self.turns = itertools.count(1)
        self.jobs: dict[str, Entry] = {}
        self.zombies: list[jobs.Attempt] = []
        self.paused = False
        self.effects = 0

    # -- what programs and people do ------------------------------------------------------------

    @rule(priority=st.sampled_from(PRIORITIES), unique=st.sampled_from([None, None, "a", "b"]), later=st.booleans())
    def put(self, priority: int, unique: str | None, later: bool) -> None:
        job_id = self.here.run(jobs.put, Mail(), priority=priority, unique=unique, delay_ms=60_000 if later else 0)
        taken = unique is not None and any(e.unique == unique and e.state != "dead" for e in self.jobs.values())
        assert (job_id is None) == taken
        if job_id is not None:
            entry = self.jobs[job_id] = Entry(job_id, priority, unique)
            if later:
                entry.state = "scheduled"
            else:
                self.enters_ready(entry)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        entry = self.pick(data)
        if entry.state == "dead":
            with pytest.raises(NotFound):
                self.here.run(jobs.cancel, entry.id)
            return
        assert self.here.run(jobs.cancel, entry.id) == entry.state
        self.buries(entry)
        del self.jobs[entry.id]

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        entry = self.pick(data)
        rival = entry.unique is not None and any(
            e.unique == entry.unique and e.state != "dead" for e in self.jobs.values()
        )
        if entry.state in {"ready", "running"}:
            with pytest.raises(NotFound):
                self.here.run(jobs.retry, entry.id)
        elif entry.state == "dead" and rival:
            with pytest.raises(Conflict):
                self.here.run(jobs.retry, entry.id)
        else:
            self.here.run(jobs.retry, entry.id)
            if entry.state == "dead":
                entry.failures = 0
            self.enters_ready(entry)

    @rule()
    def pause_or_resume(self) -> None:
        self.here.run(jobs.resume if self.paused else jobs.pause, "default")
        self.paused = not self.paused

    # -- what workers do ---------------------------------------------------------------------------

    @rule(room=st.integers(1, 4))
    def claim(self, room: int) -> None:
        waiting = [] if self.paused else [e for e in self.jobs.values() if e.state == "ready"]
        waiting.sort(key=lambda e: (-e.priority, e.turn))
        got = claim(self.db, self.worker, room, home=space_of(self.name))
        assert [a.id for a in got] == [e.id for e in waiting[:room]]
        for attempt in got:
            entry = self.jobs[attempt.id]
            entry.state, entry.held = "running", attempt
            entry.attempt += 1
            assert (attempt.attempt, attempt.failures) == (entry.attempt, entry.failures)

    @precondition(lambda self: any(e.held for e in self.jobs.values()))
    @rule(data=st.data(), end=st.sampled_from(["finish", "fail", "snooze", "hand_back", "give_up"]))
    def end(self, data: st.DataObject, end: str) -> None:
        entry = self.pick(data, held=True)
        attempt = entry.held
        assert attempt is not None
        self.buries(entry)
        if end == "finish":
            self.here.run(finish_with, attempt, 0, lambda tx: tx.add("done", 1))
            self.effects += 1
            del self.jobs[entry.id]
        elif end == "fail":
            again = self.here.run(jobs.fail, attempt, error="no", backoff_ms=5, backoff_max_ms=50)
            self.fails(entry)
            assert again == (entry.state == "scheduled")
        elif end == "give_up":
            self.here.run(jobs.give_up, attempt, reason="no")
            entry.failed.append(entry.attempt)
            entry.state = "dead"
        elif end == "snooze":
            self.here.run(jobs.snooze, attempt, after_ms=10)
            entry.state = "scheduled"
        else:
            self.here.run(jobs.snooze, attempt, after_ms=0)
            self.enters_ready(entry)

    @precondition(lambda self: self.zombies)
    @rule(data=st.data(), level=st.sampled_from(["serializable", "read_committed"]))
    def zombie(self, data: st.DataObject, level: str) -> None:
        attempt = data.draw(st.sampled_from(self.zombies))
        with pytest.raises(Conflict):
            self.here.options(isolation=level).run(finish_with, attempt, 0, lambda tx: tx.add("done", 1))

    @rule()
    def worker_dies(self) -> None:
        self.rescued()

    @rule()
    def days_pass(self) -> None:
        self.rescued()
        due = [self.here.run(jobs.get, e.id) for e in self.jobs.values() if e.state == "scheduled"]
        age(self.db, DAY_MS)
        self.rescued()
        promote(self.db)
        for job in sorted(due, key=lambda job: (job.at_ms, job.id)):
            self.enters_ready(self.jobs[job.id])

    def rescued(self) -> None:
        """The worker's jobs go to others; another worker is hired."""
        age(self.db, 31_000)
        rescue_all(self.db)
        for entry in self.jobs.values():
            if entry.state == "running":
                self.buries(entry)
                self.fails(entry)
        self.hired += 1
        self.worker = hire(self.db, f"{self.worker.rpartition('-')[0]}-{self.hired}")

    # -- what must hold at every moment ---------------------------------------------------------------

    @invariant()
    def states_agree(self) -> None:
        if not hasattr(self, "jobs"):
            return
        found: dict[str, int] = {}
        for row in self.here.run(jobs.stats):
            found[row.state] = found.get(row.state, 0) + row.count
        mine: dict[str, int] = {}
        for entry in self.jobs.values():
            mine[entry.state] = mine.get(entry.state, 0) + 1
        assert found == mine
        assert self.here.run(lambda tx: tx.total("done")) == self.effects

    @invariant()
    def failures_agree(self) -> None:
        if not hasattr(self, "jobs"):
            return
        rows = self.here.reader().run(
            lambda tx: tx.all("SELECT id, attempt FROM onefold.jobs_failures WHERE space = :space ORDER BY id, attempt")
        )
        assert rows == sorted((entry.id, number) for entry in self.jobs.values() for number in entry.failed)

    # -- the model's own arithmetic -------------------------------------------------------------------

    def pick(self, data: st.DataObject, *, held: bool = False) -> Entry:
        return data.draw(st.sampled_from([e for e in self.jobs.values() if e.held or not held]))

    def enters_ready(self, entry: Entry) -> None:
        entry.state, entry.turn = "ready", next(self.turns)

    def buries(self, entry: Entry) -> None:
        """Its attempt, if it has one, is over: from now on it is a zombie."""
        if entry.held is not None:
            self.zombies.append(entry.held)
            entry.held = None

    def fails(self, entry: Entry) -> None:
        entry.failures += 1
        entry.failed.append(entry.attempt)
        entry.state = "dead" if entry.failures >= ATTEMPTS else "scheduled"


@pytest.mark.usefixtures("again")
def test_histories_agree_with_the_model(db: Database) -> None:
    machine = type("Model", (Model,), {"db": db})
    few = db.dialect == "postgres"
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=15 if few else 40, stateful_step_count=25 if few else 40, deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
