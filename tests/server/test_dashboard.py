"""Every page of the dashboard and every action, on both engines."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import parse_qsl

import pytest
from dashboard_ground import EVIL, Letter, Sent, Visit, claim, dead, furnish, hire, park

from onefold import Database, NotFound, Tx, audit, events, jobs, locks, sessions, tokens, webhooks
from onefold.messaging.jobs.leases import beat
from onefold.server.dashboard import now
from onefold.server.dashboard.catalogue import ACTIONS, VIEWS
from onefold.server.dashboard.failures import STEP
from onefold.server.dashboard.request import Scene

EMPTY = {
    "now": "All well", "jobs": "There are no jobs.", "failures": "No job has failed for good.", "streams": "Nobody subscribes.",
    "webhooks": "There are no endpoints.", "locks": "Nobody holds a lock.", "ledger": "There are no accounts.", "booking": "There are no shows.",
    "sessions": "Logged in", "audit": "Logged in.",
}  # fmt: skip


def entries(db: Database, action: str) -> list[audit.Record]:
    return [one for one in db.reader().run(audit.list_entries).items if one.action == action]


@pytest.mark.parametrize("path", sorted(EMPTY))
def test_a_page_of_an_empty_database(visit: Visit, path: str) -> None:
    page = visit().get(path)
    assert page.status == 200
    assert EMPTY[path] in page.words


def test_every_page_shows_what_there_is_and_as_text(visit: Visit, db: Database) -> None:
    names = db.run(furnish)
    park(db)
    ana = visit()
    seen = {
        "now": "put aside",
        "jobs": "mail.letter", "jobs?state=ready&kind=mail.letter": names["ready"], "jobs?state=dead": names["dead"],
        "jobs?state=scheduled": names["scheduled"], "jobs?state=running": "There are none.", "failures": EVIL.partition("'")[0],
        f"job?id={names['ready']}": "No live worker serves its queue", f"job?id={names['dead']}": EVIL,
        f"job?id={names['scheduled']}": "It waits until", "streams": "mailer", "parked?subscription=mailer": EVIL, "locks": EVIL,
        "webhooks": "https://hooks.example.com/in", f"endpoint?id={names['endpoint']}": names["message"],
        "locks?prefix=invoice": "invoice/42", "ledger": "wallet/ana", "booking": EVIL, "sessions": ana.token_id, "audit": "sessions.begin",
        "bulk?do=retry&state=dead&kind=mail.letter": "3 dead jobs of kind mail.letter",
        "bulk?do=cancel&state=ready&kind=mail.letter": "1 ready job of kind mail.letter",
    }  # fmt: skip
    assert {path.partition("?")[0] for path in seen} == set(VIEWS)
    for path, expected in seen.items():
        page = ana.get(path)
        assert page.status == 200, (path, page.words)
        assert expected in page.words, path
        assert "<script>alert" not in page.text, path
        assert "<img" not in page.text, path
        assert "sk-very-secret" not in page.text, path


def test_the_verdict_counts_the_problems_and_links_to_their_fixes(visit: Visit, db: Database) -> None:
    db.run(furnish)
    park(db)
    ana = visit()
    page = ana.get("now")
    verdict = page.text.partition("</ul>")[0].partition("<h1>")[2]
    links = re.findall(r'href="/dashboard/([^"]+)"', verdict)
    assert verdict.startswith(f"{len(links)} problems")
    assert len(links) == 4  # No worker, dead jobs, a paused queue, a parked event.
    for where in links:
        assert ana.get(where.replace("&amp;", "&")).status == 200


def test_the_engine_names_the_longest_transaction_and_the_replicas(db: Database) -> None:
    digest = tokens.new_secret()[1]
    scene = Scene("/dashboard", db.run(tokens.create, "ana", digest=digest, rights=("*",)), "", 0)
    numbers = {**db.metrics(), "open": {"function": "shop.sell", "ms": 90_000.0, "where": "this process"}, "open_transaction_ms": 90_000.0}
    numbers["replicas"] = [
        {"name": "b", "state": "streaming", "sync": "async", "behind_bytes": 1_234, "lag_ms": 61_000},
        {"name": EVIL, "state": "", "sync": "", "behind_bytes": None, "lag_ms": None},
    ]
    problems = [what for what, _, _ in now._engine_problems(scene, numbers)]
    assert problems == ["A transaction is open for 90 s: shop.sell. It keeps its locks and old rows.", "The replica b is 61 s behind."]
    drawn = now._engine(numbers) + now._replicas(numbers["replicas"])
    assert "<script>" not in drawn
    for words in ("shop.sell", "90 s", "async", "1,234 B", "61 s"):
        assert words in drawn
    numbers["open"] = {"function": "", "ms": 1.0, "where": "psql, pid 7, idle in transaction"}
    assert "psql, pid 7, idle in transaction" in now._engine(numbers)


def test_rates_are_told_of_all_spaces_to_the_root_space_only(visit: Visit, db: Database) -> None:
    hire(db, "w1")
    hire(db, "w2")
    for worker in ("w1", "w2"):
        db.run(beat, worker, lease_ms=60_000, rates={"mail.letter": (1_200, 3), "mail.card": (1, 0)})
    rows = re.findall(r"<tr>(.*?)</tr>", visit().get("jobs").text.partition("Ended in the last minute")[2].partition("</table>")[0])
    assert [re.sub(r"<[^>]*>", " ", row).split() for row in rows[1:]] == [["mail.letter", "2,400", "6"], ["mail.card", "2", "0"]]
    assert "mail.card" not in visit(space_name="tenant/7").get("jobs").words


def test_retrying_one_job_records_why(visit: Visit, db: Database) -> None:
    job_id = db.run(dead)
    ana = visit()
    back = ana.post("do/jobs.retry", id=job_id, reason="The mail server is back.").to
    assert db.reader().run(jobs.get, job_id).state == "ready"
    (entry,) = entries(db, "jobs.retry")
    assert (entry.actor, entry.subject, entry.reason) == (ana.token_id, job_id, "The mail server is back.")
    page = ana.get(back)
    assert f"Done: jobs.retry {job_id}" in page.words
    assert f"id={job_id}" not in page.text  # It has left the list.
    assert ana.post("do/jobs.retry", id=job_id, reason="Again.").status == 404
    assert len(entries(db, "jobs.retry")) == 1


def test_a_job_tells_each_attempt_that_failed(visit: Visit, db: Database) -> None:
    job_id = db.run(jobs.put, Letter())
    hire(db, "w1")
    assert "None has failed." in visit().get(f"job?id={job_id}").words
    for error in ("TimeoutError: no answer", f"{EVIL}\nTraceback: line 7"):
        (attempt,) = claim(db)
        db.run(jobs.fail, attempt, error=error, backoff_ms=1, backoff_max_ms=1)
        db.run(jobs.retry, job_id)
    page = visit().get(f"job?id={job_id}")
    for expected in ("TimeoutError: no answer", EVIL, "Traceback: line 7", "w1", "Started 2 times; 2 of 3 failures used up."):
        assert expected in page.words, expected
    assert "<script>alert" not in page.text
    assert f"<title>mail.letter {job_id} · Onefold</title>" in page.text


def test_the_verdict_names_an_endpoint_that_fails(visit: Visit, db: Database) -> None:
    names = db.run(furnish)
    ana = visit()
    assert "hooks.example.com" not in ana.get("now").words

    def fails(tx: Tx) -> None:
        tx.run(
            "UPDATE onefold.webhook_endpoints SET failing_since_ms = :now_ms - 600000 WHERE space = :space AND id = :to",
            to=names["endpoint"],
        )

    db.run(fails)
    assert "The endpoint hooks.example.com fails for 10 min." in ana.get("now").words
    assert "The endpoint" not in visit("jobs:read").get("now").words


def test_the_verdict_tells_that_nobody_delivers_and_what_was_disabled_by_itself(visit: Visit, db: Database) -> None:
    to = db.run(furnish)["endpoint"]
    assert "hooks.example.com" not in visit().get("now").words

    def age(tx: Tx) -> None:
        tx.run("UPDATE onefold.webhook_pending SET at_ms = at_ms - 600000 WHERE space = :space")

    db.run(age)
    assert "Messages for hooks.example.com wait for 10 min: no dispatcher runs" in visit().get("now").words
    (late,) = db.run(webhooks.late, by_ms=300_000)
    assert late.endpoint_id == to
    assert db.run(webhooks.late, by_ms=900_000) == []
    for why, told in (("it moves", False), ("it answered 410", True)):
        db.run(webhooks.enable, to)
        db.run(webhooks.disable, to, why=why)
        words = visit().get("now").words
        assert ("The endpoint hooks.example.com was disabled" in words, "it answered 410. It gets nothing." in words) == (told, told)
        assert "no dispatcher runs" not in words


def test_a_page_below_another_shows_where_it_belongs(visit: Visit, db: Database) -> None:
    names = db.run(furnish)
    ana = visit()
    for path, under in ((f"job?id={names['dead']}", "Jobs"), (f"endpoint?id={names['endpoint']}", "Webhooks"), ("parked?subscription=mailer", "Streams")):
        assert f'aria-current="true">{under}</a>' in ana.get(path).text, path
    assert all(view.under in VIEWS for view in VIEWS.values() if not view.listed)


def test_cancelling_a_job_records_why(visit: Visit, db: Database) -> None:
    job_id = db.run(jobs.put, Letter())
    assert visit().post("do/jobs.cancel", id=job_id, reason="Wrong address.").status == 303
    with pytest.raises(NotFound):
        db.reader().run(jobs.get, job_id)
    assert entries(db, "jobs.cancel")[0].facts == {"kind": "mail.letter", "was": "ready"}


@pytest.mark.parametrize(("verb", "state", "left"), [("retry", "dead", "ready"), ("purge", "dead", None), ("cancel", "ready", None)])
def test_many_jobs_go_in_bounded_steps(visit: Visit, db: Database, verb: str, state: str, left: str | None) -> None:
    count = STEP + 7

    def fill(tx) -> None:
        if state == "dead":
            for number in range(count):
                dead(tx, f"ConnectionError: mail {number} is away")
            dead(tx, "Another error altogether")
        else:
            jobs.put_many(tx, [Letter()] * count)

    db.run(fill)
    ana = visit()
    form = {"do": verb, "state": state, "kind": "mail.letter"}
    if state == "dead":
        form["error"] = jobs.fingerprint_of("ConnectionError: mail 5 is away")
    preview = ana.get("bulk?" + "&".join(f"{name}={value}" for name, value in form.items()))
    assert f"{count} {state} jobs" in preview.words
    went_on = dict(parse_qsl(ana.post("do/jobs.bulk", reason="Back again.", **form).to.partition("?")[2]))
    assert f"{STEP} jobs so far" in ana.get("bulk?" + "&".join(f"{k}={v}" for k, v in went_on.items() if k != "did")).words
    last = ana.post("do/jobs.bulk", reason="Back again.", **form, after=went_on["after"], step=went_on["step"]).to
    assert f"Finished: {count} jobs" in ana.get(last).words
    assert sorted(entry.facts["done"] for entry in entries(db, f"jobs.{verb}_many")) == [7, STEP]
    stats = {one.state: one.count for one in db.reader().run(jobs.stats)}
    assert stats == ({left: count} if left else {}) | ({"dead": 1} if state == "dead" else {})


def test_a_bulk_retry_leaves_out_what_has_lost_its_unique_key(visit: Visit, db: Database) -> None:
    db.run(jobs.put, Letter(), unique="once")
    loser = db.run(lambda tx: dead(tx, unique="once"))
    twins = [db.run(lambda tx: dead(tx, unique="twice")) for _ in range(2)]
    assert visit().post("do/jobs.bulk", do="retry", state="dead", kind="mail.letter", reason="x").status == 303
    assert entries(db, "jobs.retry_many")[0].facts == {"done": 1, "left_out": 2, "so_far": 1}
    states = sorted(db.reader().run(jobs.get, twin).state for twin in twins)
    assert (db.reader().run(jobs.get, loser).state, states) == ("dead", ["dead", "ready"])


def test_a_queue_is_paused_and_resumed(visit: Visit, db: Database) -> None:
    ana = visit()
    assert ana.post("do/jobs.pause", queue="mail", reason="Maintenance.").status == 303
    assert [one.queue for one in db.reader().run(jobs.list_paused).items] == ["mail"]
    assert ana.post("do/jobs.resume", queue="mail", reason="Over.").status == 303
    assert db.reader().run(jobs.list_paused).items == []
    assert [entries(db, f"jobs.{verb}")[0].subject for verb in ("pause", "resume")] == ["mail", "mail"]


def test_a_lock_is_released_by_force(visit: Visit, db: Database) -> None:
    db.run(locks.acquire, "nightly", owner="w1", ttl_ms=60_000)
    assert visit().post("do/locks.release", name="nightly", reason="w1 is gone.").status == 303
    assert db.reader().run(locks.lock_of, "nightly") is None
    assert entries(db, "locks.release")[0].facts["owner"] == "w1"


def test_parked_events_are_tried_again_by_whoever_runs_the_subscription(visit: Visit, db: Database) -> None:
    db.run(furnish)
    park(db)
    ana = visit()
    back = ana.post("do/events.retry", subscription="mailer", stream="letter/1", reason="The handler is mended.").to
    assert "retry asked for" in ana.get(back).words
    assert entries(db, "events.retry")[0].facts == {"stream": "letter/1", "streams": 1}
    assert ana.post("do/events.retry", subscription="mailer", reason="All of them.").status == 303
    assert sorted(entry.facts["streams"] for entry in entries(db, "events.retry")) == [1, 1]
    seen: list[str] = []
    db.run(lambda tx: events.consume(tx, "mailer", lambda _tx, event: seen.append(event.stream), category="letter"))
    assert set(seen) == {"letter/1"}
    assert "Nothing is put aside." in ana.get(back.partition("&did=")[0]).words
    assert ana.post("do/events.retry", subscription="nobody", reason="x").status == 404


def test_those_that_wait_behind_a_parked_event_are_one_number(visit: Visit, db: Database) -> None:
    db.run(furnish)
    db.run(lambda tx: [events.append(tx, "letter/1", Sent()) for _ in range(3)])
    park(db)

    def untouched(_tx: Tx, _event: events.Event) -> None:
        raise AssertionError("they wait")

    db.run(lambda tx: events.consume(tx, "mailer", untouched, category="letter"))
    page = visit().get("parked?subscription=mailer")
    assert "4 events" in page.words
    assert page.text.count("<tr>") == 2  # The heading, and the stream.
    assert 'data-label="Behind it" class="number">3<' in page.text


def test_parked_events_are_dropped(visit: Visit, db: Database) -> None:
    db.run(furnish)
    park(db)
    ana = visit()
    back = ana.post("do/events.drop", subscription="mailer", stream="letter/1", reason="A test letter.").to
    assert db.reader().run(events.list_parked, "mailer").items == []
    assert "Nothing is put aside." in ana.get(back).words
    assert entries(db, "events.drop")[0].facts == {"stream": "letter/1", "dropped": 1}


def test_an_endpoint_is_disabled_and_enabled(visit: Visit, db: Database) -> None:
    names = db.run(furnish)
    ana, to = visit(), names["endpoint"]
    back = ana.post("do/webhooks.disable", id=to, reason="It moves house.").to
    assert db.reader().run(webhooks.get, to).disabled_why == "It moves house."
    assert "It moves house." in ana.get(back).words
    assert ana.post("do/webhooks.replay", id=to, message=names["message"], reason="x").status == 409
    assert ana.post("do/webhooks.enable", id=to, reason="It has moved.").status == 303
    assert db.reader().run(webhooks.get, to).disabled_at_ms is None
    assert [len(entries(db, f"webhooks.{verb}")) for verb in ("disable", "enable", "replay")] == [1, 1, 0]


def give_up(tx: Tx, endpoint_id: str, message_id: str) -> None:
    """As a dispatcher leaves a message after its last attempt."""
    tx.run("DELETE FROM onefold.webhook_pending WHERE space = :space AND endpoint_id = :to", to=endpoint_id)
    tx.run(
        """INSERT INTO onefold.webhook_failed (space, endpoint_id, message_id, failed_at_ms)
           VALUES (:space, :to, :id, :now_ms)""",
        to=endpoint_id, id=message_id,
    )  # fmt: skip
    tx.run(
        """INSERT INTO onefold.webhook_attempts (space, endpoint_id, message_id, attempt, outcome, status, took_ms,
                                                 detail, at_ms)
           VALUES (:space, :to, :id, 1, 'refused', 500, 7, :detail, :now_ms)""",
        to=endpoint_id, id=message_id, detail=EVIL,
    )  # fmt: skip


def test_a_webhook_is_delivered_again(visit: Visit, db: Database) -> None:
    names = db.run(furnish)
    to, message = names["endpoint"], names["message"]
    db.run(give_up, to, message)
    ana = visit()
    page = ana.get(f"endpoint?id={to}")
    assert EVIL in page.words
    assert "<script>alert" not in page.text
    assert ana.post("do/webhooks.replay", id=to, message=message, reason="It is back.").status == 303
    assert [one.message_id for one in db.reader().run(webhooks.list_pending, to).items] == [message]
    assert db.reader().run(webhooks.list_failed, to).items == []
    assert entries(db, "webhooks.replay")[0].facts == {"message": message}


def test_all_that_was_given_up_is_delivered_again(visit: Visit, db: Database) -> None:
    names = db.run(furnish)
    to = names["endpoint"]
    db.run(give_up, to, names["message"])
    assert visit().post("do/webhooks.replay_failed", id=to, reason="It is back.").status == 303
    assert db.reader().run(webhooks.list_failed, to).items == []
    assert entries(db, "webhooks.replay_failed")[0].facts == {"replayed": 1}


def test_another_session_is_ended(visit: Visit, db: Database) -> None:
    bob, ana = visit("jobs:read"), visit()
    theirs = next(one for one in db.reader().run(sessions.list_sessions).items if one.token_id == bob.token_id)
    assert ana.post("do/sessions.end", id=theirs.id, reason="Left the company.").status == 303
    assert bob.get("jobs").to == "login"
    assert any(entry.subject == theirs.id for entry in entries(db, "sessions.end"))


def test_an_action_and_its_entry_are_one(visit: Visit, db: Database) -> None:
    job_id = db.run(dead)
    ana = visit()
    assert ana.post("do/jobs.retry", id=job_id, reason="two\nlines").status == 400  # The entry is refused, after the retry.
    assert db.reader().run(jobs.get, job_id).state == "dead"
    assert entries(db, "jobs.retry") == []


def test_every_action_is_tested_here() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in ACTIONS if f'post("do/{name}"' not in text] == []


def test_a_page_goes_on_where_the_one_before_ended(visit: Visit, db: Database) -> None:
    ids = sorted(db.run(lambda tx: [dead(tx) for _ in range(120)]))
    ana, seen, path = visit(), [], "jobs?state=dead&kind=mail.letter"
    for _ in range(4):
        page = ana.get(path)
        seen += re.findall(r"<code[^>]*>(job_[0-9a-f]+)</code>", page.text)
        found = re.search(r'href="/dashboard/([^"]+)"[^>]*rel="next"', page.text)
        if found is None:
            break
        path = found[1].replace("&amp;", "&")
    assert seen == ids


def test_a_tenant_sees_its_own_and_nothing_of_the_engine(visit: Visit, db: Database) -> None:
    mine = db.at("tenant/7").run(dead)
    theirs = db.run(dead)
    tenant = visit(space_name="tenant/7")
    page = tenant.get("jobs?state=dead")
    assert mine in page.text
    assert theirs not in page.text
    assert tenant.get(f"job?id={theirs}").status == 404
    assert "Commit p99" not in tenant.get("now").words
    assert "Commit p99" in visit().get("now").words
    assert tenant.get("sessions").status == 403
    assert tenant.post("do/sessions.end", id="session_0", reason="x").status == 403
    assert tenant.post("do/jobs.retry", id=mine, reason="x").status == 303
    assert [one.subject for one in db.at("tenant/7").reader().run(audit.list_entries).items] == [mine]
