"""`onefold jobs`, `events` and `locks`: looking at a database and steering it, without a server."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from events_kinds import number, place
from jobs_ground import Mail, Other, claim, fail, hire, states

import onefold
from onefold import Database, Invalid, Tx, events, jobs, locks, sessions, tokens
from onefold.cli import jobs as command
from onefold.cli.main import run

SOURCES = str(Path(onefold.__file__).parent.parent)


def kill(db: Database, count: int, kind: type = Mail) -> list[str]:
    """Jobs that fail until they are dead; the kind has three attempts."""
    ids = db.run(lambda tx: jobs.put_many(tx, [kind(f"m{n}") for n in range(count)]))
    hire(db, "w1")
    for _ in range(3):
        for attempt in claim(db, room=1_000):
            fail(db, attempt, "ConnectionError: mail is away\nin line 7")
        for job in db.run(jobs.list_jobs, state="scheduled", limit=1_000).items:
            db.run(jobs.retry, job.id)
    assert states(db) == {"dead": count}
    return ids


def test_jobs_are_listed_state_by_state_and_page_by_page(db: Database, ask: Any) -> None:
    dead = kill(db, 3)
    ready = db.run(lambda tx: jobs.put_many(tx, [Other()] * 2))
    later = db.run(jobs.put, Mail(), delay_ms=60_000)
    assert [job["id"] for job in ask("jobs", "ls")[1]["items"]] == [*ready, later, *dead]
    seen, after = [], []
    for _ in range(10):
        page = ask("jobs", "ls", "--limit", "1", *after)[1]
        seen += [(job["state"], job["id"]) for job in page["items"]]
        if page["after"] is None:
            break
        after = ["--after", page["after"]]
    assert [job_id for _, job_id in seen] == [*ready, later, *dead]
    assert [state for state, _ in seen] == ["ready", "ready", "scheduled", "dead", "dead", "dead"]
    only = ask("jobs", "ls", "--state", "dead", "--kind", "mail.send", "--limit", "2")[1]
    assert ([job["id"] for job in only["items"]], only["after"]) == (dead[:2], f"dead/{dead[1]}")
    assert ask("jobs", "ls", "--after", "nonsense")[0] == 2
    with pytest.MonkeyPatch.context() as patch:  # A page by kind looks on until it is full.
        patch.setattr("onefold.messaging.jobs.listing.LOOKED_MAX", 1)
        assert [job["id"] for job in ask("jobs", "ls", "--kind", "other.thing")[1]["items"]] == ready
        assert ask("jobs", "ls", "--kind", "none")[1] == {"items": [], "after": None}
    assert ask("jobs", "ls", "--space", "another")[1]["items"] == []
    counted = {(s["kind"], s["state"]): s["count"] for s in ask("jobs", "stats")[1]}
    assert counted == {("other.thing", "ready"): 2, ("mail.send", "scheduled"): 1, ("mail.send", "dead"): 3}


def test_people_get_a_table(db: Database, db_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    kill(db, 2)
    assert run(["jobs", "ls", "--limit", "1", "--url", db_url]) == 0
    head, row, more = capsys.readouterr().out.splitlines()
    assert head.split() == ["ID", "KIND", "STATE", "QUEUE", "TRIED", "AT", "ERROR"]
    assert "3/3" in row
    assert row.endswith("ConnectionError: mail is away")
    assert more.startswith("More: --after dead/job_")
    assert run(["jobs", "stats", "--url", db_url]) == 0
    assert "mail.send" in capsys.readouterr().out


def test_why_is_one_sentence(db: Database, ask: Any) -> None:
    job_id = str(db.run(jobs.put, Mail()))
    assert ask("jobs", "why", job_id) == (0, {"id": job_id, "why": 'No live worker serves its queue "default".'})
    code, said = ask("jobs", "why", "job_none")
    assert (code, said["error"]["code"]) == (3, "not_found")


def test_the_failures_of_a_job_are_told_the_latest_first(db: Database, db_url: str, ask: Any, capsys: pytest.CaptureFixture[str]) -> None:
    (job_id,) = kill(db, 1)
    code, page = ask("jobs", "failures", job_id, "--limit", "2")
    assert (code, [one["attempt"] for one in page["items"]], page["after"]) == (0, [3, 2], "2")
    assert [one["attempt"] for one in ask("jobs", "failures", job_id, "--after", "2")[1]["items"]] == [1]
    code, said = ask("jobs", "failures", "mail.send")
    assert (code, said["error"]["code"]) == (3, "not_found")
    assert run(["jobs", "failures", job_id, "--url", db_url]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["ATTEMPT", "STARTED", "MS", "WORKER", "ERROR"]
    assert len(rows) == 3
    assert all(row.endswith("ConnectionError: mail is away") and " w1 " in row for row in rows)


def test_retry_by_id_says_what_was_refused(db: Database, ask: Any) -> None:
    one, two = kill(db, 2)
    code, said = ask("jobs", "retry", one, "job_none", "--dry-run")
    assert (code, said["count"], [no["id"] for no in said["refused"]]) == (3, 1, ["job_none"])
    assert states(db) == {"dead": 2}
    assert ask("jobs", "retry", one, "--dry-run")[1]["count"] == 1
    code, said = ask("jobs", "retry", one, "job_none", two)
    assert (code, said["retried"], [no["id"] for no in said["refused"]]) == (3, 2, ["job_none"])
    assert states(db) == {"ready": 2}
    assert ask("jobs", "retry")[0] == 2
    assert ask("jobs", "retry", one, "--kind", "mail.send")[0] == 2


@pytest.mark.parametrize("word", ["retry", "purge"])
def test_all_dead_ones_of_a_kind_in_bounded_steps(db: Database, ask: Any, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "STEP_JOBS", 2)
    ids = kill(db, 5)
    past = {"retry": "retried", "purge": "purged"}[word]
    code, said = ask("jobs", word, "--kind", "mail.send", "--dry-run")
    assert (code, said["dry_run"], said["count"], [job["id"] for job in said["sample"]]) == (0, True, 5, ids)
    assert states(db) == {"dead": 5}
    assert ask("jobs", word, "--kind", "mail.send", "--space", "another")[1] == {past: 0}
    assert ask("jobs", word, "--kind", "mail.send")[1] == {past: 5}
    assert states(db) == ({"ready": 5} if word == "retry" else {})


def test_those_of_one_error_only(db: Database, ask: Any) -> None:
    kill(db, 2)
    (group,) = db.run(jobs.failure_groups)
    other = ("--kind", "mail.send", "--error", "0" * 16)
    assert ask("jobs", "purge", *other, "--dry-run")[1]["count"] == 0
    assert ask("jobs", "purge", *other)[1] == {"purged": 0}
    code, said = ask("jobs", "retry", "--kind", "mail.send", "--error", group.fingerprint, "--dry-run")
    assert (code, said["count"], len(said["sample"])) == (0, 2, 2)
    assert ask("jobs", "retry", "--kind", "mail.send", "--error", group.fingerprint)[1] == {"retried": 2}
    assert ask("jobs", "retry", "--kind", "mail.send", "--error", "no print")[0] == 2


def test_queues_are_paused_and_go_on(db: Database, ask: Any) -> None:
    assert ask("jobs", "pause", "default") == (0, {"paused": "default"})
    assert [one.queue for one in db.run(jobs.list_paused).items] == ["default"]
    assert ask("jobs", "resume", "default") == (0, {"resumed": "default"})
    assert db.run(jobs.list_paused).items == []
    assert ask("jobs", "pause", "")[0] == 2


def test_cancel_by_id_and_by_kind(db: Database, ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "STEP_JOBS", 2)
    ids = [str(db.run(jobs.put, Mail())) for _ in range(5)]
    other = db.run(jobs.put, Other())
    db.run(jobs.put, Mail(), delay_ms=60_000)
    assert ask("jobs", "cancel", ids[0])[1] == {"cancelled": 1, "refused": []}
    code, said = ask("jobs", "cancel", ids[0], ids[1], "--dry-run")
    assert (code, [job["id"] for job in said["sample"]], [no["id"] for no in said["refused"]]) == (3, [ids[1]], [ids[0]])
    assert ask("jobs", "cancel", "--kind", "mail.send", "--dry-run")[1]["count"] == 4
    assert ask("jobs", "cancel", "--kind", "mail.send")[1] == {"cancelled": 4}
    assert db.run(jobs.get, other).state == "ready"
    assert ask("jobs", "cancel", "--kind", "mail.send", "--state", "scheduled")[1] == {"cancelled": 1}
    assert states(db) == {"ready": 1}


def test_locks_are_listed_and_released_with_a_reason(db: Database, ask: Any) -> None:
    handle = db.at("t/7")
    for name in ("a/1", "a/2", "b/1"):
        handle.run(locks.acquire, name, owner="w1", ttl_ms=60_000)
    page = ask("locks", "ls", "--space", "t/7", "--prefix", "a/", "--limit", "1")[1]
    assert ([lock["name"] for lock in page["items"]], page["after"]) == (["a/1"], "a/1")
    assert [lock["name"] for lock in ask("locks", "ls", "--space", "t/7", "--after", "a/1")[1]["items"]] == ["a/2", "b/1"]
    assert ask("locks", "ls")[1]["items"] == []
    release = ("locks", "release", "a/1", "--reason", "w1 is gone", "--space", "t/7")
    code, said = ask(*release, "--dry-run")
    assert (code, said["count"], said["sample"][0]["owner"]) == (0, 1, "w1")
    assert handle.run(locks.lock_of, "a/1") is not None
    assert ask(*release)[1]["owner"] == "w1"
    assert handle.run(locks.lock_of, "a/1") is None
    for arguments in (release, (*release, "--dry-run")):
        code, said = ask(*arguments)
        assert (code, said["error"]["code"]) == (3, "not_held")


def test_sessions_are_listed_and_ended(db: Database, ask: Any, db_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    token = db.run(tokens.create, "ana", digest=tokens.new_secret()[1], rights=("*",))
    # Listed by their ids; two of one millisecond come in any order.
    one, two = sorted(db.run(sessions.begin, token.id, digest=sessions.new_secret()[1]).id for _ in range(2))
    page = ask("sessions", "ls", "--limit", "1")[1]
    assert ([session["id"] for session in page["items"]], page["after"]) == ([one], one)
    assert [session["token_id"] for session in ask("sessions", "ls", "--after", one)[1]["items"]] == [token.id]
    code, said = ask("sessions", "end", one, "--dry-run")
    assert (code, [session["id"] for session in said["sample"]]) == (0, [one])
    assert ask("sessions", "end", one) == (0, {**said["sample"][0]})
    assert [ask("sessions", "end", one, *more)[0] for more in ((), ("--dry-run",))] == [3, 3]
    assert run(["sessions", "ls", "--url", db_url]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert (head.split(), row.split()[0]) == (["ID", "TOKEN", "BEGAN", "ENDS"], two)


def test_tail_prints_what_there_is_and_goes_on_by_position(db: Database, db_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    db.run(place, "order/1", 1, 2)
    db.run(place, "cart/1", 3)
    number(db)

    def tail(*arguments: str) -> list[Any]:
        assert run(["events", "tail", "--no-follow", "--url", db_url, "--json", *arguments]) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    assert [event["position"] for event in tail("--after", "0")] == [1, 2, 3]
    assert [event["data"]["n"] for event in tail("--after", "1")] == [2, 3]
    assert [event["id"] for event in tail("--after", "0", "--category", "cart")] == ["cart/1@1"]
    assert tail() == []
    assert run(["events", "tail", "--no-follow", "--after", "2", "--url", db_url]) == 0
    assert capsys.readouterr().out == '3  cart/1@1  order.placed  {"n":3,"saw":0}\n'


def test_tail_is_live_until_ctrl_c_and_says_where_it_was(db: Database, db_url: str) -> None:
    db.run(place, "order/1")
    number(db)
    follower = subprocess.Popen(
        [sys.executable, "-m", "onefold.cli.main", "events", "tail", "--after", "0", "--url", db_url],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": SOURCES},
        # As from a terminal: a shell in the background has its children ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        assert follower.stdout is not None
        assert follower.stdout.readline().startswith("1  order/1@1")
        db.run(place, "order/2")
        number(db)
        assert follower.stdout.readline().startswith("2  order/2@1")
        follower.send_signal(signal.SIGINT)
        _, said = follower.communicate(timeout=30)
        assert follower.returncode == 130
        # After what was printed, or one before: an event is told again rather than left out.
        assert re.search(r"To go on: onefold events tail --after [12]\n", said)
        assert "Traceback" not in said
    finally:
        follower.kill()
        follower.communicate()


def test_a_mistyped_path_makes_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (("jobs", "ls"), ("jobs", "why", "x"), ("locks", "ls"), ("events", "tail")):
        assert run([*arguments, "--url", str(tmp_path / "typo.db")]) == 3
    assert "no database at this path" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_event_of_a_transaction_that_failed_is_not_told(db: Database, db_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    def half(tx: Tx) -> None:
        place(tx, "order/9")
        raise Invalid("No.")

    with pytest.raises(Invalid):
        db.run(half)
    db.run(place, "order/1")
    number(db)
    assert run(["events", "tail", "--no-follow", "--after", "0", "--url", db_url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == "order/1@1"
    assert db.run(events.head) == 1


def park_two(db: Database) -> None:
    """A subscription that has put both of its events aside."""
    for n in range(2):
        db.run(place, f"count/{n}")
        number(db)
    db.run(events.subscribe, "totals", category="count")
    for _ in range(2):
        db.run(events.fail_next, "totals", error="it broke", attempts_max=1)


def test_what_was_parked_is_tried_again_by_whoever_runs_it(db: Database, ask: Any) -> None:
    park_two(db)
    assert ask("events", "retry-parked", "totals", "--stream", "count/1") == (0, {"streams": 1})
    assert [one.stream for one in db.run(events.list_retries, "totals").items] == ["count/1"]
    assert ask("events", "retry-parked", "totals") == (0, {"streams": 2})
    assert ask("events", "retry-parked", "none")[0] == 3


def test_what_was_parked_of_a_stream_is_dropped(db: Database, ask: Any) -> None:
    park_two(db)
    parked = db.run(events.list_parked, "totals").items
    assert [one.stream for one in parked] == ["count/0", "count/1"]
    words = ("events", "drop-parked", "totals", "--stream", "count/0")
    code, said = ask(*words, "--dry-run")
    assert (code, said["count"], said["sample"][0]["error"]) == (0, 1, "RuntimeError: it broke")
    assert ask(*words) == (0, {"dropped": 1})
    assert [one.stream for one in db.run(events.list_parked, "totals").items] == ["count/1"]
    assert ask("events", "drop-parked", "none", "--stream", "count/0")[0] == 3
