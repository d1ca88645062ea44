"""Attacks on the server that no other file tries: roundabout paths, borrowed methods, spoofed proxies, bombs."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import psycopg.conninfo
import pytest
from block_tables import dump
from dashboard_ground import Visit, Visitor
from http_calls import Direct, bearer_for, serving
from processes import command, environment, running
from raw_http import Raw

import onefold
from onefold import Database, jobs, ledger, locks
from onefold.core.errors import Invalid
from onefold.server import logs
from onefold.server.routes import all_routes
from onefold.testing.postgres import Cluster

ROUNDABOUT = [
    "//v1/tokens", "/v1//tokens", "/./v1/tokens", "/v1/./tokens", "/v1/../v1/tokens", "/livez/../v1/tokens", "/livez/..%2fv1/tokens",
    "/livez/%2e%2e/v1/tokens", "/docs/..;/v1/tokens", "/dashboard/login/../../v1/tokens", "/dashboard/style.css/../../../v1/tokens",
    "/V1/tokens", "/v1/Tokens", "/v1/TOKENS", "/v1/tokens/", "/v1/tokens/.", "/v1/tokens;x=1", "/v1/tokens%2f", "/v1%2ftokens",
    "/%76%31/tokens", "/v1/%74okens", "/v1/tokens%20", "/v1/tokens%00", "/v1/tokens.json", "/v1/tokens%23", "/v1/tokens%3f",
    "/v1/tokens\\", "/\\v1/tokens", "/v1\\tokens", "/livez%2f..%2fv1/tokens", "/metrics/", "//metrics", "/openapi.json/", "/docs/",
]  # fmt: skip


def test_no_roundabout_path_leads_past_the_door(direct: Direct, db: Database) -> None:
    weak = bearer_for(db, "jobs:read")
    for path in ROUNDABOUT:
        assert direct("GET", path, token=None).status in {400, 401, 404}, path
        assert direct("GET", path, token=weak).status in {400, 403, 404}, path


def test_each_path_has_one_spelling(direct: Direct) -> None:
    """Percent signs may be undone, and nothing else: a proxy's rule for a path covers all ways to write it."""
    found = {path for path in ROUNDABOUT if direct("GET", path).status == 200}
    assert found == {"/%76%31/tokens", "/v1/%74okens"}


OVERRIDES = ["x-http-method-override", "x-http-method", "x-method-override"]


def test_the_method_is_the_one_that_was_sent(direct: Direct, db: Database) -> None:
    endpoint = f"/v1/webhooks/endpoints/{db.run(onefold.webhooks.create, 'https://hooks.example.com/', key_id='k').id}"
    before = dump(db)
    for name in OVERRIDES:
        assert direct("GET", endpoint, headers={name: "DELETE"}).json["url"] == "https://hooks.example.com/"
    for query in ("_method=DELETE", "method=DELETE", "_HttpMethod=DELETE"):
        assert direct("GET", f"{endpoint}?{query}").status == 400
        assert direct("POST", f"{endpoint}?{query}", send={}).status == 405
    for method in ("TRACE", "TRACK", "PATCH", "PROPFIND", "delete", "Delete", "GET ", "\u0130"):
        assert direct(method, endpoint).status == 405, method
    assert dump(db) == before


def test_head_and_options_ask_who_calls_too(direct: Direct, db: Database) -> None:
    weak = bearer_for(db, "nothing:read")
    for route in all_routes():
        target = "/v1" + route.path.replace("{", "").replace("}", "")
        for method, status in (("HEAD", 401), ("OPTIONS", 405), ("TRACE", 405)):
            reply = direct(method, target, token=None)
            assert reply.status == (405 if route.verb != "GET" and method == "HEAD" and reply.status == 405 else status), target
            assert not {name for name in reply.headers if name.startswith("access-control")}, "no other site is let in"
        if route.verb == "GET":
            assert direct("HEAD", target, token=weak).status == 403, target


SPOOFS = {
    "x-forwarded-for": "127.0.0.1", "x-forwarded-host": "evil.example", "x-forwarded-prefix": "/evil", "x-forwarded-user": "root",
    "forwarded": "for=127.0.0.1;host=evil.example;proto=https", "x-real-ip": "127.0.0.1", "x-original-url": "/livez",
    "x-rewrite-url": "/livez", "x-remote-user": "root", "x-script-name": "/evil", "host": "evil.example", "via": "1.1 evil.example",
}  # fmt: skip


def test_what_a_proxy_says_opens_nothing_and_leads_nowhere(direct: Direct) -> None:
    visitor = Visitor(direct)
    for name, value in {**SPOOFS, "all": ""}.items():
        headers = {name: value} if name in SPOOFS else SPOOFS
        assert direct("GET", "/v1/tokens", token=None, headers=headers).status == 401, name
        for path in ("", "jobs", "jobs?next=//evil.example"):
            reply = direct("GET", f"/dashboard/{path}", token=None, headers=headers)
            assert (reply.status, reply.headers["location"]) == (303, "/dashboard/login"), name
        page = visitor.post("login", headers, token=visitor.bearer, form_token=None)
        assert (page.status, page.headers["location"]) == (303, "/dashboard"), name
        assert "evil" not in json.dumps(dict(page.headers))


def test_logging_in_leads_to_the_dashboard_alone(direct: Direct) -> None:
    visitor = Visitor(direct)
    addresses = ("//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)")
    for name, address in itertools.product(("next", "return_to", "redirect", "url"), addresses):
        reply = direct("POST", f"/dashboard/login?{urlencode({name: address})}", token=None, body=urlencode({"token": visitor.bearer}).encode(),
                       headers={"content-type": "application/x-www-form-urlencoded"})  # fmt: skip
        assert reply.headers["location"] == "/dashboard"
        assert visitor.post("login", token=visitor.bearer, form_token=None, **{name: address}).status == 400


def test_a_session_opens_the_dashboard_and_no_route(visit: Visit, direct: Direct) -> None:
    ana = visit()
    assert ana.get("jobs").status == 200
    value = ana.cookie.partition("=")[2]
    for headers in ({"cookie": ana.cookie}, {"cookie": ana.cookie, "authorization": f"Bearer {value}"}, {"authorization": f"Cookie {ana.cookie}"}):
        for path in ("/v1/tokens", "/metrics", "/openapi.json"):
            assert direct("GET", path, token=None, headers=headers).status == 401


def test_a_token_is_taken_from_its_field_only(direct: Direct) -> None:
    """In a query it would stand in every log and every Referer on the way."""
    for name in ("token", "access_token", "api_key", "authorization"):
        assert direct("GET", f"/v1/tokens?{name}={direct.token}", token=None).status == 401
        assert direct("GET", "/v1/tokens", token=None, headers={f"x-{name.replace('_', '-')}": direct.token}).status == 401
        assert direct("GET", "/v1/tokens", token=None, headers={"cookie": f"{name}={direct.token}"}).status == 401


def test_no_answer_repeats_what_came_for_a_token(direct: Direct) -> None:
    for sent in (direct.token, direct.token[:-1] + "!", "onefold_" + "0" * 32 + "_secret-of-somebody"):
        for method, target in (("GET", "/v1/tokens?x=1"), ("POST", "/v1/tokens"), ("GET", "/v1/none"), ("GET", "/docs"), ("BREW", "/v1/tokens")):
            reply = direct(method, target, token=sent, headers={"idempotency-key": "k", "x-request-id": sent})
            secret = sent.split("_", 2)[2]
            assert secret.encode() not in reply.body, (method, target)
            assert secret not in json.dumps({name: value for name, value in reply.headers.items() if name != "x-request-id"})


def test_what_is_served_does_not_say_by_what(direct: Direct) -> None:
    for path in ("/livez", "/readyz", "/v1/none", "/dashboard/login"):
        assert not {"server", "x-powered-by"} & set(direct("GET", path, token=None).headers)
    assert set(direct("GET", "/readyz", token=None).json) == {"status"}


FILES = [
    "../../../../etc/passwd", "..%2f..%2f..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd", "....//....//etc/passwd", "/etc/passwd",
    "%2fetc%2fpasswd", "..\\..\\etc\\passwd", "style.css%00.html", "style.css/../../site.py", "../site.py", "site.py", "C:\\boot.ini",
    "file:///etc/passwd", "__init__.py", ".",
]  # fmt: skip


def test_no_path_leads_to_a_file(visit: Visit, direct: Direct) -> None:
    ana = visit()
    for root, name in itertools.product(("/", "/docs/", "/dashboard/", "/v1/", "/v1/jobs/"), FILES):
        assert ana.get(name).status in {303, 400, 404}, name
        reply = direct("GET", root + name)
        assert reply.status in {303, 400, 404}, root + name
        assert b"root:" not in reply.body
        assert b"import" not in reply.body


def test_a_space_is_a_name_and_no_path(direct: Direct, db: Database, tmp_path: Path) -> None:
    files = sorted(tmp_path.rglob("*"))
    for name in ("../../up", "/etc/cron.d/x", "..", "a/../b", "'; DROP TABLE onefold_jobs; --", "%", "*"):
        bearer = bearer_for(db, space_name=name)
        assert direct("POST", "/v1/locks/acquire", token=bearer, send={"name": "n", "owner": "o", "ttl_ms": 60_000}).status == 200
        assert [lock["name"] for lock in direct("GET", "/v1/locks", token=bearer).json["items"]] == ["n"]
    assert direct("GET", "/v1/locks").json["items"] == []
    assert sorted(tmp_path.rglob("*")) == files


CRLF = ["a\r\nset-cookie: onefold_session=evil", "a\nx: y", "a\r\n\r\n<script>alert(1)</script>", "a\u560d\u560aset-cookie:x", "a\x85b\u2028c"]


def test_a_name_starts_no_line_of_a_head(visit: Visit, direct: Direct) -> None:
    ana = visit()
    for name in CRLF:
        direct("POST", "/v1/jobs/pause", send={"queue": name})
        for page in (
            ana.post("do/jobs.pause", queue=name, reason=name), ana.post("do/jobs.resume", queue=name, reason=name),
            ana.get(f"jobs?{urlencode({'kind': name})}"),
        ):  # fmt: skip
            assert page.status < 500
            assert not {"set-cookie", "x"} & set(page.headers)
            assert not any("\r" in value or "\n" in value for value in page.headers.values())
        headers = {"x-request-id": name.encode("utf-8").decode("latin-1")}
        reply = direct("GET", f"/v1/jobs/{quote(name, safe='')}", headers=headers)
        assert reply.status in {400, 404}
        assert not any("\r" in value or "\n" in value for value in reply.headers.values())
        assert "evil" not in reply.headers["x-request-id"]


def caught(error: Exception) -> Any:
    try:
        raise error
    except Exception:
        return sys.exc_info()


@pytest.mark.parametrize("form", [logs.JsonFormatter(), logs.TextFormatter("%(levelname)s %(message)s")], ids=["json", "text"])
def test_a_name_starts_no_line_of_a_log(form: logging.Formatter) -> None:
    evil = "a\r\nERROR all is lost\x1b[2J\u2028ERROR"
    error = Invalid("No such thing.", name=evil)
    record = logging.LogRecord("x", logging.WARNING, __file__, 1, "%s: %s", ("GET /v1/x", error), None)
    record.__dict__.update(facts={"name": evil}, token=evil)
    line = form.format(record)
    assert "all is lost" in line
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", line)
    record.msg, record.args = "%s", (evil,)
    record.exc_info = caught(ValueError("x"))
    assert len(form.format(record).split("\n")) == (1 if isinstance(form, logs.JsonFormatter) else 5)


WILD = ["%", "_", "a%", "' OR '1'='1", "' OR 1=1 --", '" OR ""="', "a' UNION SELECT 1 --", "$1", ":space", "?", "a*", "[a-z]*", "\\"]


def test_a_text_is_neither_sql_nor_a_pattern(direct: Direct, db: Database) -> None:
    """Each would find, or change, what it does not name."""
    db.run(locks.acquire, "abc", owner="ana", ttl_ms=60_000)
    db.run(ledger.open_account, "abc", currency="EUR")
    db.run(jobs.pause, "abc")
    before = dump(db)
    for text in WILD:
        one = quote(text, safe="")
        assert direct("GET", f"/v1/locks?prefix={one}").json["items"] == [], text
        assert direct("GET", f"/v1/locks/of?name={one}").json is None, text
        assert direct("GET", f"/v1/ledger/accounts/{one}").status in {400, 404}, text
        assert direct("GET", f"/v1/jobs?state=ready&kind={one}").json.get("items", []) == [], text
        assert direct("GET", f"/v1/events/category?category={one}").json.get("items", []) == [], text
        assert direct("POST", f"/v1/tokens/{one}/revoke").status in {400, 404}, text
        assert direct("POST", f"/v1/sessions/{one}/end").status in {400, 404}, text
    assert dump(db) == before


def _deep(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


BOMBS = {
    "deep objects": _deep(150_000), "deep lists": b"[" * 1_000_000, "wide list": b"[" + b"1," * 500_000 + b"1]",
    "wide object": b"{" + b",".join(b'"k%d":1' % n for n in range(70_000)) + b"}", "a number of a megabyte": b"1" * 1_000_000,
    "an exponent": b"1e" + b"9" * 100_000, "a fraction": b"0." + b"1" * 1_000_000, "escapes": b'"' + b"\\u0041" * 170_000 + b'"',
    "white space": b" " * 1_000_000,
}  # fmt: skip


def test_a_bomb_is_small_and_short(direct: Direct, db: Database) -> None:
    before = dump(db)
    started = time.process_time()
    for name, bomb in BOMBS.items():
        for target in ("/v1/webhooks/messages", "/v1/events", "/v1/tokens"):
            for body in (bomb, b'{"type":"a.b","payload":' + bomb + b"}", b'{"stream":"a","events":[{"kind":"a.b","data":' + bomb + b"}]}"):
                assert 400 <= direct("POST", target, body=body[: 1 << 20]).status < 500, name
    assert time.process_time() - started < 30, "eighty requests"
    assert dump(db) == before


def test_of_one_key_twice_the_last_counts_for_all(direct: Direct, db: Database) -> None:
    """What is checked is what is done: nothing here looks at the first."""
    weak = bearer_for(db, "tokens:write", "jobs:read")
    for rights, status in ((b'"rights":["jobs:read"],"rights":["*"]', 403), (b'"rights":["*"],"rights":["jobs:read"]', 200)):
        reply = direct("POST", "/v1/tokens", token=weak, body=b'{"name":"n","digest":"' + b"0" * 64 + b'",' + rights + b"}")
        assert reply.status == status
        assert status != 200 or reply.json["rights"] == ["jobs:read"]
    again = b'{"type":"a.b","payload":{' + b'"a":1,' * 150_000 + b'"a":2}}'
    assert direct("POST", "/v1/webhooks/messages", body=again).status == 200


def test_nothing_is_unpacked(direct: Direct) -> None:
    for coding in ("gzip", "deflate", "br", "zstd", "gzip, identity", "identity, gzip", "x-gzip"):
        for target, kind in (("/v1/tokens", "application/json"), ("/dashboard/login", "application/x-www-form-urlencoded")):
            reply = direct("POST", target, body=b"\x1f\x8b\x08\x00", headers={"content-encoding": coding, "content-type": kind})
            assert (reply.status, b"compressed" in reply.body) == (415, True), coding


KINDS = [
    "application/xml", "text/xml", "multipart/form-data; boundary=x", "text/plain", "application/json, text/plain",
    "application/x-yaml", "application/json;charset=utf-16",
]  # fmt: skip


def test_only_json_is_read(direct: Direct, db: Database) -> None:
    """No entities, no parts, and nothing that a form of another site can send."""
    before = dump(db)
    entity = b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><x>&a;</x>'
    for kind, body in itertools.product(KINDS, (entity, b'{"queue":"q"}')):
        assert direct("POST", "/v1/jobs/pause", body=body, headers={"content-type": kind}).status == 415, kind
    assert dump(db) == before


LOOK = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n"


def test_more_connections_than_allowed_are_told_so_and_harm_none(tmp_path: Path) -> None:
    with onefold.connect(tmp_path / "t.db") as db, serving(db, connections_max=8) as server, contextlib.ExitStack() as crowd:
        everybody = [crowd.enter_context(Raw(server)) for _ in range(7)]
        for one in everybody:
            one.send(LOOK)
            assert one.answer()[0] == 200
        for _ in range(30):
            late = crowd.enter_context(Raw(server))
            late.send(LOOK)
            assert late.answer()[0] == 503
            assert late.ended()
        for one in everybody:
            one.send(LOOK)
            assert one.answer()[0] == 200, "whoever was there stays"


def test_strangers_who_say_nothing_keep_nobody_out(tmp_path: Path) -> None:
    """Each waits for the end of its ten seconds; whoever asks meanwhile is answered."""
    with onefold.connect(tmp_path / "t.db") as db, serving(db, connections_max=8) as server, contextlib.ExitStack() as crowd:
        talker = crowd.enter_context(Raw(server))
        talker.send(LOOK)
        assert talker.answer()[0] == 200
        silent = [crowd.enter_context(Raw(server)) for _ in range(40)]
        silent[0].send(b"GET /livez HTT")
        assert server.request("GET", "/v1/tokens").status == 200
        assert all(one.ended() for one in silent[:30])
        talker.send(LOOK)
        assert talker.answer()[0] == 200, "whoever was there stays"


def test_a_crowd_leaves_the_database_its_files(tmp_path: Path) -> None:
    """A process that may open few files takes fewer connections than it could."""
    url = str(tmp_path / "t.db")
    with onefold.connect(url) as db:
        bearer = bearer_for(db)
    with running(url=url, folder=tmp_path, files_max=256) as process, contextlib.ExitStack() as crowd:
        for _ in range(40):  # One loop takes all that stand in the queue, so they must not all stand there at once.
            for _ in range(8):
                crowd.enter_context(socket.create_connection(("127.0.0.1", process.port), timeout=20))
            assert process.request("GET", "/livez")[0] == 200
        assert process.request("POST", "/v1/jobs/pause", token=bearer, send={"queue": "q"})[0] == 204
        assert process.request("GET", "/v1/jobs/paused", token=bearer)[0] == 200
        assert "Traceback" not in process.errors()


def test_a_url_given_by_the_environment_stands_in_no_list_of_processes(postgres_cluster: Cluster, postgres_url: str) -> None:
    """Anybody on the machine may read the arguments of processes; their environment only their owner."""
    url = postgres_cluster.dsn(psycopg.conninfo.conninfo_to_dict(postgres_url)["dbname"], tcp=True)
    process = subprocess.Popen(
        command("serve", "--json", "--port", "0", "--workers", "2", "--lame-duck-ms", "0"), stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, env={**environment(), "ONEFOLD_URL": url}, start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        pids = json.loads(process.stdout.readline())["pids"]
        assert len(pids) == 2
        lists = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in (process.pid, *pids)]
        assert all(b"serve" in line for line in lists)
        assert not any(postgres_cluster.password.encode() in line for line in lists)
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.communicate()
