"""`/metrics`, read by Prometheus's own parser."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest
from http_calls import Direct, bearer_for
from processes import running
from prometheus_client.parser import text_string_to_metric_families

import onefold
from onefold import Database, Tx, jobs
from onefold.messaging.jobs import counts
from onefold.server import app, metrics


@jobs.kind("metrics.mail")
class Mail(msgspec.Struct, frozen=True):
    to: str = "ana"


def parsed(text: bytes) -> dict[str, dict[frozenset[tuple[str, str]], float]]:
    """Value by sample's name and labels; no sample may come twice, and each family has a type and a help."""
    found: dict[str, dict[frozenset[tuple[str, str]], float]] = {}
    for family in text_string_to_metric_families(text.decode()):
        assert family.type in {"gauge", "counter", "summary"}, family.name
        assert family.documentation
        for sample in family.samples:
            labels = frozenset(item for item in sample.labels.items() if item[0] != "pid")
            assert labels not in found.setdefault(sample.name, {}), sample
            found[sample.name][labels] = sample.value
    return found


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each request looks anew."""
    monkeypatch.setattr(app, "METRICS_MS", 0)


def at(found: dict[str, Any], name: str, **labels: str) -> float:
    return found[name][frozenset(labels.items())]


def test_the_page_is_what_prometheus_reads(direct: Direct) -> None:
    def fail(_tx: Tx) -> None:
        raise onefold.Conflict("No.", code='a "code"\\\n')

    direct.db.run(lambda tx: jobs.put_many(tx, [Mail()] * 3))
    direct.db.at("t/7").run(jobs.put, Mail(), delay_ms=60_000)
    with pytest.raises(onefold.Conflict):
        direct.db.run(fail)
    direct("GET", "/v1/nothing")
    reply = direct("GET", "/metrics")
    assert (reply.status, reply.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    found = parsed(reply.body)
    assert at(found, "onefold_jobs", kind="metrics.mail", state="ready") == 3
    assert at(found, "onefold_jobs", kind="metrics.mail", state="scheduled") == 1
    assert at(found, "onefold_jobs_oldest_seconds", kind="metrics.mail", state="scheduled") == 0
    assert at(found, "onefold_jobs_capped", state="ready") == 0
    assert at(found, "onefold_http_requests_total", status="404") == 1
    assert at(found, "onefold_commits_total") > 0
    assert at(found, "onefold_commit_seconds_count") > 0
    assert at(found, "onefold_transaction_seconds", quantile="0.99") >= at(found, "onefold_transaction_seconds", quantile="0.5")
    codes = {dict(labels)["code"] for labels in found["onefold_aborts_total"]}
    assert 'a "code"\\\n' in codes
    assert "onefold_queued" in found
    before = at(found, "onefold_commits_total")
    direct.db.run(jobs.put, Mail())
    again = parsed(direct("GET", "/metrics").body)
    assert at(again, "onefold_commits_total") > before
    assert at(again, "onefold_http_requests_total", status="200") == 1


def test_it_is_for_tokens_of_the_root_space_with_the_right(direct: Direct) -> None:
    assert direct("GET", "/metrics", token=None).status == 401
    assert direct("GET", "/metrics", token=bearer_for(direct.db, "jobs:read")).status == 403
    tenant = direct("GET", "/metrics", token=bearer_for(direct.db, "*", space_name="t/7"))
    assert (tenant.status, tenant.json["code"]) == (403, "space")
    assert direct("GET", "/metrics", token=bearer_for(direct.db, "metrics:read")).status == 200
    assert direct("POST", "/metrics").status == 405


def test_a_kind_beyond_the_limit_is_told_with_others(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "KINDS_MAX", 2)

    def put(tx: Tx) -> None:
        for name in ("a", "b", "c", "d"):
            jobs.put(tx, jobs.kind(f"metrics.{name}")(msgspec.defstruct("Made", [], frozen=True))())

    db.run(put)
    found = parsed(metrics.page(db, {}, 0, 0))
    assert {dict(labels)["kind"]: count for labels, count in found["onefold_jobs"].items()} == {
        "metrics.a": 1, "metrics.b": 1, "other": 2,
    }  # fmt: skip


def test_the_census_is_bounded_and_quick(db_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with onefold.connect(db_url) as db:
        for _ in range(8):
            db.run(lambda tx: jobs.put_many(tx, [Mail()] * 5_000))
        db.reader().run(jobs.census)
        began = time.perf_counter()
        (counted,) = db.reader().run(jobs.census)
        took_ms = (time.perf_counter() - began) * 1_000
        print(f"a census of 40,000 jobs took {took_ms:.1f} ms")
        assert (counted.count, counted.at_least) == (counts.CENSUS_ROWS_MAX + 1, True)
        assert took_ms < 200, "tens of ms on an idle machine; this one is shared"
        assert at(parsed(metrics.page(db, {}, 0, 0)), "onefold_jobs_capped", state="ready") == 1


def test_a_server_tells_of_its_loops(db_url: str, tmp_path: Any) -> None:
    with onefold.connect(db_url) as db:
        token = bearer_for(db, "metrics:read")
    with running(url=db_url, folder=tmp_path) as process:
        import http.client

        connection = http.client.HTTPConnection("127.0.0.1", process.port, timeout=30)
        connection.request("GET", "/metrics", headers={"authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        found = parsed(answer.read())
        connection.close()
        assert answer.status == 200
        loops = {dict(labels)["loop"] for labels in found["onefold_loop_lag_seconds"]}
        assert {"events.sequencer", "counters.fold"} <= loops
        assert all(value >= 0 for value in found["onefold_loop_steps_total"].values())
