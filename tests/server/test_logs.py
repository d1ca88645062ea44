"""Logs for machines: what stands in a line, and that no secret ever does."""

from __future__ import annotations

import base64
import http.client
import json
import logging
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from http_calls import Direct, bearer_for
from processes import command, environment, running
from waiting import until

import onefold
from onefold import Conflict
from onefold.core.route import Route
from onefold.server import logs

SECRET = "hunter2-is-no-secret"


def line_of(message: str, *arguments: Any, form: logging.Formatter | None = None, **more: Any) -> str:
    record = logging.LogRecord("shop", logging.WARNING, __file__, 1, message, arguments, more.pop("exc_info", None))
    record.__dict__.update(more)
    return (form or logs.JsonFormatter()).format(record)


def caught(error: Exception) -> Any:
    try:
        raise error
    except Exception:
        return sys.exc_info()


def test_a_line_says_when_what_and_which_request() -> None:
    token = logs.request_id.set("req-7")
    try:
        line = json.loads(line_of("%d seats\n\u2028left", 3, facts={"show": "s1", "n": 2}, stranger="not told"))
    finally:
        logs.request_id.reset(token)
    assert line.pop("at_ms") > 1_700_000_000_000
    assert line == {
        "level": "warning", "logger": "shop", "message": "3 seats\n\u2028left", "request_id": "req-7",
        "facts": {"show": "s1", "n": 2},
    }  # fmt: skip
    assert "request_id" not in json.loads(line_of("outside"))


def test_an_error_of_ours_has_its_code_and_facts() -> None:
    line = json.loads(line_of("it failed", exc_info=caught(Conflict("Taken.", code="taken", seat="A1"))))
    assert line["error"] == {"code": "taken", "text": "Taken.", "facts": {"seat": "A1"}}
    assert "test_logs.py" in line["trace"]
    assert json.loads(line_of("lone \ud800"))["message"] == "lone ?"
    assert len(json.loads(line_of("x" * 100_000))["message"]) == logs.TEXT_LENGTH_MAX


@pytest.mark.parametrize("text", [
    f"postgresql://ana:{SECRET}@db/shop", f"Authorization: Bearer {SECRET}", f"authorization=Basic {SECRET}",
    f"password={SECRET} host=db", f'{{"password": "{SECRET}"}}', f"client_secret='{SECRET}'", f"onefold_{'0a' * 16}_{SECRET}",
    f"API_KEY={SECRET}", f"sslpassword={SECRET}",
])  # fmt: skip
@pytest.mark.parametrize("form", [logs.JsonFormatter(), logs.TextFormatter("%(message)s")], ids=["json", "text"])
def test_what_looks_like_a_secret_is_blotted_out(text: str, form: logging.Formatter) -> None:
    error = caught(Conflict("No.", why=text, password=SECRET, nested={"a_secret": SECRET}))
    line = line_of("before %s after", text, form=form, exc_info=error, facts={"why": text, "authorization": SECRET})
    assert SECRET not in line
    assert "***" in line
    assert "before" in line


def test_ordinary_words_stay(form: str = "tokens.verify took 3 ms for token_0123 at http://127.0.0.1:8700/docs") -> None:
    assert json.loads(line_of(form))["message"] == form


def test_a_request_has_an_id_that_comes_back(direct: Direct) -> None:
    first, second = (direct("GET", "/livez").headers["x-request-id"] for _ in range(2))
    assert first != second
    assert direct("GET", "/v1/tokens", headers={"X-Request-Id": "abc-1:2"}).headers["x-request-id"] == "abc-1:2"
    for hostile in ("a b", "x" * 65, "a\x0bb", '"', "ü"):
        assert direct("GET", "/livez", headers={"X-Request-Id": hostile}).headers["x-request-id"] != hostile


def test_a_failure_is_logged_under_the_request_that_met_it(direct_to: Any, caplog: pytest.LogCaptureFixture) -> None:
    def look(_tx: Any) -> None:
        raise ZeroDivisionError(f"password={SECRET}")

    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(logs.JsonFormatter().format(record))

    keep = Keep()
    logging.getLogger("onefold.http").addHandler(keep)
    try:
        reply = direct_to(Route("GET", "/look", look, "look:read"))("GET", "/v1/look", headers={"X-Request-Id": "r9"})
    finally:
        logging.getLogger("onefold.http").removeHandler(keep)
    (line,) = map(json.loads, lines)
    assert (reply.status, line["request_id"], line["error_id"]) == (500, "r9", reply.json["error_id"])
    assert "ZeroDivisionError" in line["trace"]
    assert SECRET not in lines[0]


def test_no_secret_is_in_the_log_of_a_server(db_url: str, tmp_path: Path) -> None:
    with onefold.connect(db_url) as db:
        good, other = bearer_for(db), bearer_for(db, "jobs:read")
    wrong = good[:-4] + "AAAA"
    basic = base64.b64encode(f"me:{good}".encode()).decode()
    with running("--log", "json", "--access-log", "--transaction-log", url=db_url, folder=tmp_path) as process:
        for token in (good, other, wrong, f"{SECRET} {SECRET}"):
            process.request("GET", "/v1/tokens", token=token)
            process.request("GET", f"/v1/tokens?token={good}&password={SECRET}", token=token)
            process.request("POST", "/v1/tokens", token=token, send={"name": SECRET, "digest": SECRET, "rights": []})
            process.request("GET", f"/{SECRET}/{good}", token=token)
        connection = http.client.HTTPConnection("127.0.0.1", process.port, timeout=30)
        connection.request("GET", "/docs", headers={"authorization": f"Basic {basic}"})
        assert connection.getresponse().read()
        connection.close()
        assert process.end() == 0
        text = process.errors()
    lines = [json.loads(line) for line in text.splitlines()]
    access = [line for line in lines if line["logger"] == "onefold.access"]
    assert len(access) == 17
    assert len({line["request_id"] for line in access}) == 17
    done = [line for line in lines if line["logger"] == "onefold.transaction" and "request_id" in line]
    assert {line["request_id"] for line in done} <= {line["request_id"] for line in access}
    assert {line["outcome"] for line in done if line["message"].endswith("tokens.ops.list_tokens")} == {"read"}
    for secret in (good, other, wrong, basic, SECRET, good.split("_", 2)[2], wrong.split("_", 2)[2]):
        assert secret not in text


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_worker_logs_in_the_form_that_is_asked_for(tmp_path: Path, form: str) -> None:
    (tmp_path / "shop.py").write_text(
        f"""
import msgspec, onefold
from onefold import jobs

@jobs.kind("break", attempts=1)
class Break(msgspec.Struct, frozen=True):
    pass

async def fail_late(job):
    await job.finish()
    raise RuntimeError("password={SECRET}")

db = onefold.connect("shop.db")
worker = jobs.Worker(db, io={{Break: fail_late}})
db.run(jobs.put, Break())
""",
        encoding="utf-8",
    )
    with (tmp_path / "log").open("wb") as errors:
        process = subprocess.Popen(
            command("worker", "shop:worker", "--log", form), cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=errors,
            env=environment(),
        )  # fmt: skip
    try:
        text = until(lambda: (tmp_path / "log").read_text(encoding="utf-8"), "a line")
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 0
    finally:
        process.kill()
        process.wait()
    text = (tmp_path / "log").read_text(encoding="utf-8")
    assert "failed after its job was finished" in text
    assert SECRET not in text
    assert (json.loads(text.splitlines()[0])["level"] == "warning") if form == "json" else "WARNING" in text
