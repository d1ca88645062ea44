"""Who gets into the dashboard, and what is refused at its door."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from block_tables import dump
from dashboard_ground import Visit, Visitor, dead, field, furnish
from http_calls import Direct, bearer_for, serving

from onefold import Database, Tx, audit, events, jobs, locks, sessions, tokens, webhooks
from onefold.server import dashboard
from onefold.server.dashboard.catalogue import ACTIONS, VIEWS

NEEDED = {"endpoint": "id=ep_0", "job": "id=job_0", "bulk": "do=retry&state=dead&kind=a", "parked": "subscription=a"}

JOB = {"id": jobs.ID_LENGTH_MAX}
QUEUE = {"queue": jobs.NAME_LENGTH_MAX}
PARKED = {"subscription": events.NAME_LENGTH_MAX, "stream": events.STREAM_LENGTH_MAX}
ENDPOINT = {"id": webhooks.ID_LENGTH_MAX}
LENGTHS = {
    "jobs.retry": JOB, "jobs.cancel": JOB, "jobs.pause": QUEUE, "jobs.resume": QUEUE,
    "jobs.bulk": {"kind": jobs.NAME_LENGTH_MAX, "error": jobs.FINGERPRINT_LENGTH, "step": audit.ID_LENGTH_MAX},
    "events.retry": PARKED, "events.drop": PARKED, "webhooks.enable": ENDPOINT,
    "webhooks.disable": ENDPOINT, "webhooks.replay": {**ENDPOINT, "message": webhooks.ID_LENGTH_MAX}, "webhooks.replay_failed": ENDPOINT,
    "locks.release": {"name": locks.NAME_LENGTH_MAX}, "sessions.end": {"id": sessions.ID_LENGTH_MAX},
}  # fmt: skip
CHOICES = {"jobs.bulk": {"do": "retry", "state": "dead"}}
TOO_LONG = "A parameter is too long"


def with_needed(path: str) -> str:
    return f"{path}?{NEEDED[path]}" if path in NEEDED else path


def test_nothing_is_seen_or_done_without_a_session(direct: Direct, db: Database) -> None:
    stranger = Visitor(direct)
    before = dump(db)
    for path in ("", *map(with_needed, VIEWS)):
        for cookie in ("", "onefold_session=x", "onefold_session=" + "0" * 32 + "." + "a" * 43, f"onefold_session={stranger.bearer}"):
            assert stranger.get(path, {"cookie": cookie}).to == "login", path
    for name in ACTIONS:
        assert stranger.post(f"do/{name}", reason="x").to == "login", name
    assert stranger.get("now", {"accept": "text/event-stream"}).status == 401
    assert stranger.get("jobs", {"authorization": f"Bearer {stranger.bearer}"}).to == "login"  # Only sessions count here.
    assert dump(db) == before


def test_no_page_and_no_action_without_its_right(visit: Visit, db: Database) -> None:
    weak = visit("nothing:read")
    before = dump(db)
    for path, view in VIEWS.items():
        assert weak.get(with_needed(path)).status == (403 if view.needs else 200), path
        if view.live and view.needs:
            assert weak.get(with_needed(path), {"accept": "text/event-stream"}).status == 403, path
    for name, action in ACTIONS.items():
        page = weak.post(f"do/{name}", id="job_0", reason="x")
        assert page.status == 403, name
        assert action.needs in page.words
    assert dump(db) == before


def test_who_may_look_only_sees_no_button(visit: Visit, db: Database) -> None:
    names = db.run(furnish)
    reader = visit("jobs:read", "locks:read", "events:read")
    for path in ("jobs", f"job?id={names['dead']}", "jobs?state=dead&kind=mail.letter", "failures", "locks", "streams"):
        page = reader.get(path)
        assert page.status == 200
        assert "/dashboard/do/" not in page.text, path
        assert "bulk?" not in page.text, path
    navigation = reader.get("now").text.partition("<nav")[2].partition("</nav>")[0]
    assert "locks" in navigation
    assert "ledger" not in navigation
    assert reader.post("do/jobs.retry", id=names["dead"], reason="x").status == 403


def test_a_form_of_another_site_or_session_changes_nothing(visit: Visit, db: Database) -> None:
    job_id = db.run(dead)
    ana, bob = visit(), visit()
    before = dump(db)
    for token in ("", "x", "\u00e4", bob.form_token, ana.form_token[:-1], None):
        assert ana.post("do/jobs.retry", form_token=token, id=job_id, reason="x").status == 403, token
        assert ana.post("logout", form_token=token).status == 403
    for headers in (
        {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}, {"origin": "https://evil.example", "host": "127.0.0.1"},
        {"origin": "null", "host": "127.0.0.1"}, {"origin": "http://127.0.0.1:1", "host": "127.0.0.1"},
    ):  # fmt: skip
        assert ana.post("do/jobs.retry", headers, id=job_id, reason="x").status == 403, headers
        assert ana.post("login", headers, token=ana.bearer, form_token=None).status == 403, headers
    assert ana.get(f"do/jobs.retry?id={job_id}&reason=x&form_token={ana.form_token}").status == 405
    assert dump(db) == before
    assert ana.post("do/jobs.retry", {"sec-fetch-site": "same-origin"}, id=job_id, reason="x").status == 303


def test_the_cookie_is_kept_from_scripts_other_sites_and_plain_text(direct: Direct) -> None:
    visitor = Visitor(direct)
    plain = visitor.post("login", token=visitor.bearer, form_token=None).headers["set-cookie"]
    assert {"HttpOnly", "SameSite=Strict", "Path=/dashboard", f"Max-Age={sessions.TTL_MS_DEFAULT // 1_000}"} <= set(plain.split("; "))
    assert "Secure" not in plain
    secret = visitor.bearer.split("_", 2)[2]  # A secret may have the underscore in it too.
    assert secret not in plain
    behind = visitor.post("login", {"x-forwarded-proto": "https"}, token=visitor.bearer, form_token=None).headers["set-cookie"]
    assert "Secure" in behind.split("; ")


def test_every_answer_says_how_it_may_be_used(visit: Visit, direct: Direct) -> None:
    ana = visit()
    for page in (ana.get("now"), ana.get("login"), ana.get("style.css"), ana.get("live.js"), ana.get("nowhere"), ana.post("do/jobs.retry"),
                 Visitor(direct).get("now")):  # fmt: skip
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert page.headers["x-content-type-options"] == "nosniff"
        assert page.headers["cache-control"] == "no-store"
        assert page.headers["referrer-policy"] == "same-origin"
    text = ana.get("now").text
    assert "<style" not in text
    assert " style=" not in text
    assert " onclick" not in text
    assert "http://" not in text.replace("http-equiv", "")


def test_a_wrong_token_does_not_log_in(direct: Direct, db: Database) -> None:
    visitor = Visitor(direct)
    ended = Visitor(direct)
    db.run(tokens.revoke, ended.token_id)
    before = dump(db)
    for token in ("x", "", visitor.bearer[:-1] + "!", ended.bearer, "\u00fc" * 50, "a" * 201):
        page = visitor.post("login", token=token, form_token=None)
        assert page.status in {400, 401}, token
        assert "set-cookie" not in page.headers
    assert dump(db) == before


def test_logging_in_and_out_is_recorded_and_ends_the_session(direct: Direct, db: Database) -> None:
    ana = Visitor(direct).log_in()
    assert ana.get("jobs").status == 200
    reply = ana.post("logout")
    assert reply.to == "login"
    assert "Max-Age=0" in reply.headers["set-cookie"]
    assert ana.get("jobs").to == "login"
    actions = sorted(entry.action for entry in db.reader().run(audit.list_entries).items)
    assert actions == ["sessions.begin", "sessions.end"]
    assert db.reader().run(sessions.list_sessions).items == []


def test_a_session_ends_with_its_token_and_its_time(visit: Visit, db: Database) -> None:
    ana, bob = visit(), visit()
    db.run(tokens.revoke, ana.token_id)
    assert ana.get("jobs").to == "login"
    assert bob.get("jobs").status == 200

    def age(tx: Tx) -> None:
        tx.run("UPDATE onefold.sessions SET created_at_ms = 1, expires_at_ms = 2 WHERE space = :space")

    db.run(age)
    assert bob.get("jobs").to == "login"


HOSTILE = ["", "x" * 5_000, "a%00b", "%ff", "%F0%9F%98%80", "..%2f..%2fetc", "<script>", "%22%3E%3Cscript%3E", "-1", "9" * 40, "%0d%0aset-cookie:a", "'; --"]


@pytest.mark.parametrize("path", sorted(VIEWS))
def test_hostile_parameters_are_refused_or_harmless(visit: Visit, db: Database, path: str) -> None:
    db.run(furnish)
    ana = visit()
    before = dump(db)
    needed = dict(pair.split("=") for pair in NEEDED.get(path, "").split("&") if pair)
    for name in ("after", "state", "kind", "error", "id", "prefix", "subscription", "do", "did", "step", "unknown"):
        for value in HOSTILE:
            query = "&".join(f"{key}={given}" for key, given in {**needed, name: value}.items())
            page = ana.get(f"{path}?{query}")
            assert page.status == 200 or 400 <= page.status < 500, (name, value, page.status)
            assert "<script>" not in page.text.replace("<script src", ""), (name, value)
            assert "set-cookie" not in page.headers
    for query in ("a", "&&&", "=", "state=ready&state=dead", "&".join(f"a{n}=1" for n in range(50)), "unknown=1"):
        assert 400 <= ana.get(f"{path}?{query}").status < 500, query
    assert dump(db) == before


@pytest.mark.parametrize("name", sorted(ACTIONS))
def test_hostile_forms_are_refused(visit: Visit, db: Database, name: str) -> None:
    ana = visit()
    before = dump(db)
    names = ("id", "reason", "queue", "kind", "state", "do", "name", "subscription", "stream", "after", "step", "error")
    for value in ("x" * 3_000, "a\0b", "\ud83d\ude00"[:0], "-1", "<script>"):
        page = ana.post(f"do/{name}", **dict.fromkeys(names, value))
        assert 400 <= page.status < 500, (value, page.status)
    assert ana.raw(f"do/{name}", b"\xff\xfe").status == 403 or ana.raw(f"do/{name}", b"\xff").status == 400
    assert ana.raw(f"do/{name}", b"a=" + b"x" * 20_000).status == 413
    assert ana.raw(f"do/{name}", b"{}", {"content-type": "application/json"}).status == 415
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
        assert ana.get(f"do/{name}", method=method).status == 405
    assert dump(db) == before


def test_an_action_without_a_reason_is_refused(visit: Visit, db: Database) -> None:
    job_id = db.run(dead)
    ana = visit()
    for reason in ("", "   ", "x" * 501, None):
        assert ana.post("do/jobs.retry", id=job_id, reason=reason).status == 400
    assert db.reader().run(jobs.get, job_id).state == "dead"


def test_what_was_done_is_told_only_to_who_did_it(visit: Visit, db: Database) -> None:
    job_id = db.run(dead)
    ana, bob = visit(), visit()
    back = ana.post("do/jobs.retry", id=job_id, reason="x").to
    assert ana.get(back).status == 200
    assert bob.get(back).status == 400


def test_a_page_that_is_mounted_elsewhere_links_to_itself(direct: Direct) -> None:
    visitor = Visitor(direct)
    reply = direct("GET", "/dashboard/login", token=None, root_path="/tools/onefold")
    assert field(reply.body.decode().replace('action="', 'name="action" value="'), "action") == "/tools/onefold/dashboard/login"
    assert b'href="/tools/onefold/dashboard/style.css"' in reply.body
    assert visitor.get("login").status == 200


def test_an_event_stream_brings_the_page_anew(db: Database) -> None:
    import http.client
    import json

    with serving(db) as server:
        direct_login = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        form = f"token={bearer_for(db)}"
        direct_login.request("POST", "/dashboard/login", form, {"content-type": "application/x-www-form-urlencoded"})
        cookie = direct_login.getresponse().getheader("set-cookie", "").partition(";")[0]
        direct_login.close()
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        connection.request("GET", "/dashboard/jobs", headers={"cookie": cookie, "accept": "text/event-stream"})
        stream = connection.getresponse()
        assert stream.getheader("content-type") == "text/event-stream"

        def next_page() -> str:
            while True:
                line = stream.readline()
                assert line, "the stream ended"
                if line.startswith(b"data: "):
                    return json.loads(line[6:])

        assert "There are no jobs." in next_page()
        db.run(dead)
        assert "mail.letter" in next_page()
        connection.close()


def test_a_field_takes_what_its_block_takes_and_no_more(visit: Visit, db: Database) -> None:
    ana = visit()
    before = dump(db)
    assert LENGTHS.keys() == ACTIONS.keys()
    for name, lengths in LENGTHS.items():
        longest = {what: "a" * most for what, most in {**lengths, "reason": audit.REASON_LENGTH_MAX}.items()}
        form = {**CHOICES.get(name, {}), **longest}
        if name not in {"jobs.pause", "jobs.resume"}:  # Those would be done.
            assert TOO_LONG not in ana.post(f"do/{name}", **form).words, name
        for what, value in longest.items():
            page = ana.post(f"do/{name}", **{**form, what: value + "a"})
            assert (page.status, TOO_LONG in page.words) == (400, True), (name, what)
    assert dump(db) == before


def test_no_field_has_a_length_of_its_own() -> None:
    """A number here would be a second one beside that of the block."""
    given = [
        (path.name, ast.unparse(word))
        for path in sorted(Path(dashboard.__file__).parent.glob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        for word in node.keywords
        if word.arg in {"most", "maxlength"}
    ]
    assert len(given) > 20
    assert [found for found in given if found[1].partition("=")[2].isdecimal()] == []
