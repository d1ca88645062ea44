"""*Failures*: dead jobs by what they died of, and one thing done to many jobs in steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from onefold.core.errors import Conflict
from onefold.engine.tx import Tx
from onefold.identity import audit
from onefold.messaging import jobs
from onefold.server.dashboard import parts
from onefold.server.dashboard.markup import Markup, join, link, tag
from onefold.server.dashboard.request import CURSOR_LENGTH_MAX, Fields, Scene
from onefold.server.dashboard.views import Draw, Outcome

GROUPS_MAX = 100
VERBS = ("retry", "purge", "cancel")
STATES = ("dead", "ready", "scheduled")
STEP = 200  # Jobs in one transaction.
_LOOKED = "2,000"  # jobs.failure_groups says so.


def prepare(fields: Fields) -> Draw:
    """All kinds, or one."""
    kind = fields.text("kind", most=jobs.NAME_LENGTH_MAX) or None
    return lambda tx, scene: _groups(tx, scene, kind)


def _groups(tx: Tx, scene: Scene, kind: str | None) -> Markup:
    groups = jobs.failure_groups(tx, kind=kind)
    deaths = jobs.deaths_per_minute(tx)
    rows = [
        (
            tag("code", group.pattern),
            link(scene.at("failures", {"kind": group.kind}), group.kind),
            parts.count(group.count),
            parts.ago(scene, group.last_ms),
            _verbs(scene, group),
        )
        for group in groups[:GROUPS_MAX]
    ]
    headings = ("Error", "Kind", "#Jobs", "Last", "")
    looked = sum(group.count for group in groups)
    note = f"The {looked:,} failed jobs put last, at most {_LOOKED}. Numbers, ids and quoted texts are left out."
    title = f"Failures of {kind}" if kind else "Failures"
    return join(
        (
            tag("h1", title),
            parts.section(
                "Given up per minute, last hour",
                parts.bars(deaths, label=f"{sum(deaths)} in the last hour"),
                tag(
                    "p",
                    tag("span", "60 min ago"),
                    tag("span", f"{sum(deaths):,} in the hour"),
                    tag("span", "now"),
                    class_="axis",
                ),
            ),
            parts.section(
                "By error",
                parts.table(headings, rows, empty="No job has failed for good."),
                note=note if groups else "",
            ),
            parts.command(scene, "onefold", "jobs", "ls", "--state", "dead", *(("--kind", kind) if kind else ())),
        )
    )


def _verbs(scene: Scene, group: jobs.FailureGroup) -> Markup:
    which: dict[str, str | None] = {"state": "dead", "kind": group.kind, "error": group.fingerprint}
    found = [link(scene.at("job", {"id": group.example}), "example"), link(scene.at("jobs", which), "list")]
    if scene.may("jobs:write"):
        found += [link(scene.at("bulk", {**which, "do": verb}), f"{verb} ...") for verb in ("retry", "purge")]
    return tag("span", *(join((one, " ")) for one in found), class_="verbs")


def prepare_bulk(fields: Fields) -> Draw:
    """The preview of doing one thing to many jobs, and how far it has come."""
    verb, state, kind, fingerprint = _which(fields)
    after = fields.text("after", most=CURSOR_LENGTH_MAX)
    step = fields.text("step", most=audit.ID_LENGTH_MAX)
    return lambda tx, scene: _bulk(tx, scene, verb, state, kind, fingerprint, after, step)


def _which(fields: Fields) -> tuple[str, str, str, str | None]:
    verb = fields.choice("do", VERBS)
    state = fields.choice("state", ("ready", "scheduled") if verb == "cancel" else ("dead",))
    kind = fields.must("kind", most=jobs.NAME_LENGTH_MAX)
    return verb, state, kind, fields.text("error", most=jobs.FINGERPRINT_LENGTH) or None


def _bulk(
    tx: Tx, scene: Scene, verb: str, state: str, kind: str, fingerprint: str | None, after: str, step: str
) -> Markup:
    fields = {"do": verb, "state": state, "kind": kind, **({"error": fingerprint} if fingerprint else {})}
    words = ("onefold", "jobs", verb, "--kind", kind)
    words += ("--state", state) if verb == "cancel" else ()
    words += ("--error", fingerprint) if fingerprint else ()
    scene.title = f"{verb.capitalize()} many jobs of kind {kind}"
    back = tag("p", link(scene.at("failures" if state == "dead" else "jobs"), "Back to the list", class_="button"))
    if step:
        entry = _step(tx, scene, step)
        done = entry.facts["so_far"]
        if not after:
            said = tag("p", f"Finished: {done:,} jobs.", class_="why", role="status")
            return join((tag("h1", f"{verb.capitalize()} many jobs"), parts.section("Progress", said, back)))
        said = tag(
            "p",
            f"{done:,} jobs so far. It goes on by itself with a script, or with the button.",
            class_="why",
            role="status",
        )
        form = parts.action(
            scene,
            "jobs.bulk",
            "Go on",
            {**fields, "after": after, "step": step},
            reason=entry.reason,
            again=True,
            danger=verb != "retry",
        )
        stop = tag("p", link(scene.at("failures"), "Stop here", class_="button"))
        return join((tag("h1", f"{verb.capitalize()} many jobs"), parts.section("Progress", said, form, stop)))
    counted = _preview(tx, state, kind, fingerprint)
    rows = [
        (
            link(scene.at("job", {"id": one.id}), parts.ident(one.id)),
            parts.ago(scene, one.at_ms),
            (one.error or "").partition("\n")[0][:160],
        )
        for one in counted.examples
    ]
    form = parts.action(scene, "jobs.bulk", f"{verb.capitalize()} them", fields, danger=verb != "retry")
    many = join(
        (
            parts.count(counted.count, at_least=counted.at_least),
            f" {state} job{'' if counted.count == 1 else 's'} of kind {kind}",
            " with this error" if fingerprint else "",
        )
    )
    nothing = tag("p", "There is nothing to do.", class_="empty")
    act = form if counted.count and scene.may("jobs:write") else nothing
    return join(
        (
            tag("h1", f"{verb.capitalize()} many jobs"),
            parts.section(
                "Preview",
                tag("p", many, class_="why"),
                parts.table(("For example", "Since", "Error"), rows, empty="None."),
                note=f"In steps of {STEP}, each a transaction and an entry of the audit trail.",
            ),
            parts.section("Do it", act, back, parts.command(scene, *words)),
        )
    )


def _preview(tx: Tx, state: str, kind: str, fingerprint: str | None) -> jobs.Preview:
    if state == "dead":
        return jobs.preview_dead(tx, kind, fingerprint=fingerprint)
    waiting: jobs.State = "ready" if state == "ready" else "scheduled"
    counted = jobs.count_live(tx, waiting, kind)
    return jobs.Preview(counted.count, counted.at_least, jobs.glance(tx, waiting, kind=kind, limit=5).items)


def act_on_many(fields: Fields) -> Callable[[Tx, Scene], Outcome]:
    """One step of it: at most `STEP` jobs, and an entry that counts them."""
    verb, state, kind, fingerprint = _which(fields)
    after = fields.text("after", most=CURSOR_LENGTH_MAX)
    before = fields.text("step", most=audit.ID_LENGTH_MAX)
    reason = fields.must("reason", most=audit.REASON_LENGTH_MAX)

    def do(tx: Tx, scene: Scene) -> Outcome:
        if verb == "retry":
            step = jobs.retry_dead(tx, kind, fingerprint=fingerprint, after=after or None, limit=STEP)
        elif verb == "purge":
            step = jobs.purge_dead(tx, kind, fingerprint=fingerprint, after=after or None, limit=STEP)
        else:
            waiting: jobs.State = "ready" if state == "ready" else "scheduled"
            step = jobs.cancel_many(tx, kind, state=waiting, after=after or None, limit=STEP)
        so_far = step.done + (_step(tx, scene, before).facts["so_far"] if before else 0)
        facts: dict[str, Any] = {"done": step.done, "left_out": step.left_out, "so_far": so_far}
        if fingerprint:
            facts["error"] = fingerprint
        entry = audit.record(tx, f"jobs.{verb}_many", kind, actor=scene.token.id, reason=reason, facts=facts)
        query = {"do": verb, "state": state, "kind": kind, "error": fingerprint, "after": step.after, "step": entry.id}
        return Outcome(entry, "bulk", query)

    return do


def _step(tx: Tx, scene: Scene, entry_id: str) -> audit.Record:
    entry = audit.get(tx, entry_id)
    if entry.actor != scene.token.id or not isinstance(entry.facts.get("so_far"), int):
        raise Conflict("That was no step of yours.", code="step")
    return entry
