"""Jobs from outside: looking and steering. Putting is the program's business, in its own transactions."""

from __future__ import annotations

from typing import Any

import msgspec

from onefold.core.route import Route
from onefold.engine.tx import Tx
from onefold.messaging.jobs import bulk, counts, listing, look, ops, survey
from onefold.messaging.jobs.kinds import kind
from onefold.messaging.jobs.moves import to_dead
from onefold.messaging.jobs.records import Body


@kind("example.greet")
class _Greet(msgspec.Struct, frozen=True):
    name: str


def _put(tx: Tx) -> dict[str, Any]:
    return {"job_id": ops.put(tx, _Greet(name="Ana"))}


def _scheduled(tx: Tx) -> dict[str, Any]:
    return {"job_id": ops.put(tx, _Greet(name="Ana"), delay_ms=60_000)}


def _dead(tx: Tx) -> dict[str, Any]:
    name = "example.greet"
    to_dead(
        tx,
        Body(
            tx.space, tx.space_name, tx.new_id("job"), name, "default", 0, "{}", 8, 8, 8, None, tx.now_ms, None,
            "ConnectionError: mail.example is away",
        ),
    )  # fmt: skip
    return {"kind": name, "limit": 10}


def _listed(tx: Tx) -> dict[str, Any]:
    return {**_put(tx), "state": "ready", "kind": "example.greet", "limit": 10}


def _only(what: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: what[name] for name in names}


ROUTES = [
    Route("GET", "/jobs", listing.list_jobs, "jobs:read", lambda tx: _only(_listed(tx), "state", "kind", "limit")),
    Route("GET", "/jobs/stats", counts.stats, "jobs:read", lambda _tx: {"rows_max": 1_000}),
    Route("GET", "/jobs/paused", look.list_paused, "jobs:read", lambda _tx: {"limit": 10}),
    Route("GET", "/jobs/failures", survey.failure_groups, "jobs:read", lambda tx: _only(_dead(tx), "kind")),
    Route("POST", "/jobs/dead/retry", bulk.retry_dead, "jobs:write", _dead),
    Route("POST", "/jobs/dead/purge", bulk.purge_dead, "jobs:write", _dead),
    Route("POST", "/jobs/pause", ops.pause, "jobs:write", lambda _tx: {"queue": "default"}),
    Route("POST", "/jobs/resume", ops.resume, "jobs:write", lambda _tx: {"queue": "default"}),
    Route("GET", "/jobs/{job_id}", look.get, "jobs:read", _put),
    Route("GET", "/jobs/{job_id}/why", look.why, "jobs:read", _put),
    Route("GET", "/jobs/{job_id}/failures", look.list_failures, "jobs:read", lambda tx: {**_put(tx), "limit": 10}),
    Route("POST", "/jobs/{job_id}/cancel", ops.cancel, "jobs:write", _put),
    Route("POST", "/jobs/{job_id}/retry", ops.retry, "jobs:write", _scheduled),
]
