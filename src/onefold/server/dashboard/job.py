"""*One job*: its state in one sentence, what it was called with, how it failed, and what can be done."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

from onefold.core import codec
from onefold.core.errors import OnefoldError
from onefold.engine.tx import Tx
from onefold.identity import audit
from onefold.messaging import events, jobs
from onefold.server.dashboard import parts
from onefold.server.dashboard.markup import Markup, join, link, tag
from onefold.server.dashboard.request import Fields, Scene
from onefold.server.dashboard.views import Draw, Outcome

ARGS_SHOWN_MAX = 8_192  # Characters.
EVENTS_MAX = 20
FAILURES_MAX = 20
DEPTH_MAX = 32
HIDDEN = "(hidden)"

_SECRET = re.compile(
    r"passw|secret|token|api.?key|authori[sz]ation|cookie|credential|private|signature|card|cvv|cvc|iban|ssn|\bpin\b",
    re.IGNORECASE,
)


def prepare(fields: Fields) -> Draw:
    """Which job."""
    job_id = fields.must("id", most=jobs.ID_LENGTH_MAX)
    return lambda tx, scene: _job(tx, scene, job_id)


def _job(tx: Tx, scene: Scene, job_id: str) -> Markup:
    job = jobs.get(tx, job_id)
    scene.title = f"{job.kind} {job.id}"
    moments = {"ready": "Ready since", "scheduled": "Due", "running": "Started", "dead": "Died", "done": "Done"}
    facts = parts.pairs(
        (
            "Kind",
            link(scene.at("jobs", {"state": job.state if job.state != "done" else None, "kind": job.kind}), job.kind),
        ),
        ("Queue", job.queue),
        ("Priority", job.priority),
        ("Put", parts.ago(scene, job.put_at_ms)),
        (moments[job.state], parts.ago(scene, job.at_ms)),
        *((("Unique key", job.unique),) if job.unique else ()),
        *((("Worker", job.worker),) if job.worker else ()),
    )
    return join(
        (
            tag("h1", job.kind, " ", parts.badge(job.state)),
            tag("p", tag("code", job.id), class_="note"),
            parts.section(
                "Why is it not running?" if job.state != "running" else "What is it doing?",
                tag("p", jobs.why(tx, job_id), class_="why"),
                parts.command(scene, "onefold", "jobs", "why", job.id),
            ),
            _actions(scene, job),
            _attempts(tx, scene, job),
            parts.section("What it is", facts),
            parts.section(
                "Arguments", tag("pre", shown(job.args)), note="What looks like a secret by its name is hidden."
            ),
            parts.section("Progress it noted", tag("pre", shown(job.progress))) if job.progress else "",
            _chain(tx, scene, job.id),
        )
    )


def _attempts(tx: Tx, scene: Scene, job: jobs.Job) -> Markup:
    page = jobs.list_failures(tx, job.id, limit=FAILURES_MAX)
    rows = [
        (
            one.attempt,
            parts.ago(scene, one.started_at_ms),
            parts.lasted(one.ended_at_ms - one.started_at_ms),
            one.worker,
            _told(one.error),
        )
        for one in page.items
    ]
    if job.error and not rows:  # It failed before attempts were kept, or longer ago than they are.
        rows = [(job.attempt, "", "", "", _told(job.error))]
    headings = ("#Attempt", "Started", "#Took", "Worker", "Error")
    note = f"Started {parts.times(job.attempt)}; {job.failures} of {job.attempts_max} failures used up."
    if page.after is not None:
        note += f" The latest {FAILURES_MAX} that failed:"
    return parts.section(
        "Attempts",
        parts.meter(job.failures / job.attempts_max, label=f"{job.failures} of {job.attempts_max} failures"),
        parts.table(headings, rows, empty="None has failed."),
        parts.command(scene, "onefold", "jobs", "failures", job.id),
        note=note,
    )


def _told(error: str) -> Markup:
    """An error by its first line; the rest of it folded away."""
    first, _, rest = error.partition("\n")
    return parts.tucked(first, tag("pre", error), told=True) if rest else tag("code", first)


def _actions(scene: Scene, job: jobs.Job) -> Markup:
    if not scene.may("jobs:write") or job.state == "done":
        return Markup("")
    found: list[object] = []
    if job.state in {"dead", "scheduled"}:
        found += [
            parts.action(scene, "jobs.retry", "Run it now", {"id": job.id}),
            parts.command(scene, "onefold", "jobs", "retry", job.id),
        ]
    if job.state != "dead":
        found += [
            parts.action(scene, "jobs.cancel", "Cancel it", {"id": job.id}, danger=True),
            parts.command(scene, "onefold", "jobs", "cancel", job.id),
        ]
    return parts.section("What to do", *found)


def _chain(tx: Tx, scene: Scene, job_id: str) -> Markup:
    """What it caused: events that name it as the first cause of their chain."""
    if not scene.may("events:read"):
        return Markup("")
    rows = [
        (tag("code", event.id), event.kind, event.causation or "", parts.ago(scene, event.at_ms))
        for event in events.read_correlation(tx, job_id, limit=EVENTS_MAX)
    ]
    table = parts.table(
        ("Event", "Kind", "Caused by", "When"), rows, empty="No event names this job as its first cause."
    )
    return parts.section("What it caused", table)


def shown(stored: str | None) -> str:
    """JSON as people read it, without what looks like a secret and without its end if it is long."""
    if not stored:
        return ""
    try:
        value = codec.decode(stored, Any)  # type: ignore[arg-type]  Any is what msgspec takes for "whatever it is".
    except OnefoldError:
        return "(it cannot be read as JSON, and is not shown)"
    text = msgspec.json.format(msgspec.json.encode(redacted(value)), indent=2).decode()
    return text if len(text) <= ARGS_SHOWN_MAX else text[:ARGS_SHOWN_MAX] + "\n..."


def redacted(value: Any, depth: int = 0) -> Any:
    """The value without what stands under a name that speaks of secrets."""
    if depth > DEPTH_MAX:
        return "..."
    if isinstance(value, dict):
        return {name: HIDDEN if _SECRET.search(str(name)) else redacted(one, depth + 1) for name, one in value.items()}
    return [redacted(one, depth + 1) for one in value] if isinstance(value, list) else value


def retry(fields: Fields) -> Callable[[Tx, Scene], Outcome]:
    """Run a dead or scheduled job now."""
    job_id, reason = fields.must("id", most=jobs.ID_LENGTH_MAX), fields.must("reason", most=audit.REASON_LENGTH_MAX)

    def do(tx: Tx, scene: Scene) -> Outcome:
        kind = jobs.get(tx, job_id).kind
        jobs.retry(tx, job_id)
        entry = audit.record(tx, "jobs.retry", job_id, actor=scene.token.id, reason=reason, facts={"kind": kind})
        return Outcome(entry, "jobs", {"state": "dead", "kind": kind})

    return do


def cancel(fields: Fields) -> Callable[[Tx, Scene], Outcome]:
    """Cancel a job that waits or runs."""
    job_id, reason = fields.must("id", most=jobs.ID_LENGTH_MAX), fields.must("reason", most=audit.REASON_LENGTH_MAX)

    def do(tx: Tx, scene: Scene) -> Outcome:
        kind = jobs.get(tx, job_id).kind
        was = jobs.cancel(tx, job_id)
        facts = {"kind": kind, "was": was}
        entry = audit.record(tx, "jobs.cancel", job_id, actor=scene.token.id, reason=reason, facts=facts)
        return Outcome(entry, "jobs", {"state": was, "kind": kind})

    return do
