"""*Jobs*: kinds by state, and the jobs of one state, page by page."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from onefold.engine.tx import Tx
from onefold.identity import audit
from onefold.messaging import jobs
from onefold.server.dashboard import parts
from onefold.server.dashboard.markup import Markup, join, link, tag
from onefold.server.dashboard.request import CURSOR_LENGTH_MAX, Fields, Scene
from onefold.server.dashboard.views import Draw, Outcome

STATES = ("ready", "scheduled", "running", "dead")
ROWS_MAX = 10_000  # Counted per state.
LIMIT = 50
PAUSED_MAX = 100
_SINCE = {"ready": "Ready since", "scheduled": "Due", "running": "Started", "dead": "Died"}
_ERROR_SHOWN_MAX = 160


def prepare(fields: Fields) -> Draw:
    """Without a state the kinds; with one the jobs in it."""
    state = fields.text("state")
    kind = fields.text("kind", most=jobs.NAME_LENGTH_MAX)
    fingerprint = fields.text("error", most=jobs.FINGERPRINT_LENGTH)
    after = fields.text("after", most=CURSOR_LENGTH_MAX)
    if not state:
        return _overview
    state = fields.choice("state", STATES)
    return lambda tx, scene: _listed(tx, scene, state, kind or None, fingerprint or None, after or None)


def _overview(tx: Tx, scene: Scene) -> Markup:
    kinds: dict[str, dict[str, jobs.KindStats]] = {}
    for one in jobs.stats(tx, rows_max=ROWS_MAX):
        kinds.setdefault(one.kind, {})[one.state] = one
    rows = [
        (
            tag("strong", kind),
            *(_cell(scene, kind, state, found.get(state)) for state in (*STATES, "done")),
            parts.ago(scene, found["ready"].oldest_ms) if "ready" in found else "",
        )
        for kind, found in sorted(kinds.items())
    ]
    headings = ("Kind", "#Ready", "#Scheduled", "#Running", "#Dead", "#Done, kept", "Oldest ready")
    table = parts.table(headings, rows, empty=parts.hint("There are no jobs.", "jobs.put(tx, SendReceipt(...))"))
    note = f"Of each state the {ROWS_MAX:,} jobs put first are counted."
    return join(
        (
            tag("h1", "Jobs"),
            _tabs(scene, ""),
            parts.section("Kinds by state", table, note=note),
            *_workers(tx, scene),
            _queues(tx, scene),
            parts.command(scene, "onefold", "jobs", "ls"),
        )
    )


def _cell(scene: Scene, kind: str, state: str, found: jobs.KindStats | None) -> object:
    if found is None:
        return parts.zero()
    number = parts.count(min(found.count, ROWS_MAX), at_least=found.at_least)
    return number if state == "done" else link(scene.at("jobs", {"state": state, "kind": kind}), number)


def _workers(tx: Tx, scene: Scene) -> tuple[Markup, ...]:
    if scene.token.space_name:
        return ()  # Workers serve all spaces; neither their names nor their rates are a tenant's business.
    alive = jobs.live_workers(tx)
    rows = [
        (worker.worker, ", ".join(worker.queues), ", ".join(worker.kinds), parts.ago(scene, worker.started_at_ms))
        for worker in alive[:LIMIT]
    ]
    empty = join(("No worker is alive. Start one: ", tag("code", "onefold worker MODULE:WORKER")))
    workers = parts.section("Workers alive", parts.table(("Worker", "Queues", "Kinds", "Started"), rows, empty=empty))
    return (_rates(alive), workers) if alive else (workers,)


def _rates(alive: Sequence[jobs.LiveWorker]) -> Markup:
    ended: dict[str, tuple[int, int]] = {}
    for worker in alive:
        for kind, (finished, failed) in worker.rates.items():
            had = ended.get(kind, (0, 0))
            ended[kind] = (had[0] + finished, had[1] + failed)
    most = sorted(ended.items(), key=lambda one: (-sum(one[1]), one[0]))[:LIMIT]
    rows = [(tag("strong", kind), *(f"{n:,}" if n else parts.zero() for n in counts)) for kind, counts in most]
    note = "Of all spaces, as the workers alive told with their last heartbeats. A failed attempt may be tried again."
    table = parts.table(("Kind", "#Finished", "#Attempts failed"), rows, empty="Nothing ended.")
    return parts.section("Ended in the last minute", table, note=note if rows else "")


def _queues(tx: Tx, scene: Scene) -> Markup:
    paused = jobs.list_paused(tx, limit=PAUSED_MAX).items
    rows = [
        (
            queue.queue,
            parts.ago(scene, queue.paused_at_ms),
            join(
                (
                    parts.action(scene, "jobs.resume", "Resume", {"queue": queue.queue}),
                    parts.command(scene, "onefold", "jobs", "resume", queue.queue),
                )
            )
            if scene.may("jobs:write")
            else "",
        )
        for queue in paused
    ]
    table = parts.table(("Queue", "Paused since", ""), rows, empty="No queue is paused.")
    pause: object = ""
    if scene.may("jobs:write"):
        queue = tag("input", name="queue", required=True, maxlength=jobs.NAME_LENGTH_MAX, form="pause")
        field = tag("label", tag("span", "Queue"), queue)
        form = parts.action(scene, "jobs.pause", "Pause the queue", {}, danger=True)
        form = Markup(form.replace("<form ", '<form id="pause" ', 1))
        pause = parts.tucked("Pause a queue", field, form, parts.command(scene, "onefold", "jobs", "pause", "QUEUE"))
    return parts.section("Queues that are paused", table, pause)


def _tabs(scene: Scene, state: str, kind: str | None = None) -> Markup:
    def tab(name: str, label: str) -> Markup:
        where = scene.at("jobs", {"state": name, "kind": kind if name else None})
        return tag("li", link(where, label, aria_current="page" if name == state else None, class_="button"))

    return tag("ul", tab("", "Kinds"), *(tab(name, name.capitalize()) for name in STATES), class_="tabs")


def _listed(
    tx: Tx, scene: Scene, state: jobs.State, kind: str | None, fingerprint: str | None, after: str | None
) -> Markup:
    page = jobs.glance(tx, state, kind=kind, fingerprint=fingerprint, after=after, limit=LIMIT)
    # A column that would say the same in every row is left out.
    errors = any(one.error for one in page.items)
    rows = [
        (
            link(scene.at("job", {"id": one.id}), parts.ident(one.id)),
            *(() if kind else (one.kind,)),
            one.queue,
            f"{one.failures} of {one.attempts_max}",
            parts.ago(scene, one.at_ms),
            *((_error(one.error),) if errors else ()),
        )
        for one in page.items
    ]
    headings = (
        "Job", *(() if kind else ("Kind",)), "Queue", "#Failures", _SINCE[state], *(("Error",) if errors else ()),
    )  # fmt: skip
    empty = "None of those looked at fit; look on." if page.after else "There are none."
    query: dict[str, str | None] = {"state": state, "kind": kind, "error": fingerprint}
    title = f"Jobs that are {state}" + (f", of kind {kind}" if kind else "") + (", of one error" if fingerprint else "")
    everything = link(scene.at("jobs", {"state": state}), "All kinds") if kind else ""
    return join(
        (
            tag("h1", title),
            _tabs(scene, state, kind),
            _bulk(scene, state, kind, fingerprint),
            parts.section(
                "In the order in which they were put",
                parts.table(headings, rows, empty=empty),
                parts.more(scene, "jobs", page.after, query),
                note=everything,
            ),
            parts.command(scene, "onefold", "jobs", "ls", "--state", state, *(("--kind", kind) if kind else ())),
        )
    )


def _bulk(scene: Scene, state: str, kind: str | None, fingerprint: str | None) -> Markup:
    if kind is None or state == "running" or not scene.may("jobs:write"):
        return Markup("")
    verbs = (
        (("retry", "Retry all of these"), ("purge", "Purge all of these"))
        if state == "dead"
        else (("cancel", "Cancel all of these"),)
    )
    links = [
        link(
            scene.at("bulk", {"do": verb, "state": state, "kind": kind, "error": fingerprint}),
            f"{label} ...",
            class_="button",
        )
        for verb, label in verbs
    ]
    return tag("p", *(join((one, " ")) for one in links))


def _error(error: str | None) -> str:
    line = (error or "").partition("\n")[0]
    return line if len(line) <= _ERROR_SHOWN_MAX else line[:_ERROR_SHOWN_MAX] + "..."


def pause(fields: Fields) -> Callable[[Tx, Scene], Outcome]:
    """Pause a queue."""
    queue, reason = fields.must("queue", most=jobs.NAME_LENGTH_MAX), fields.must("reason", most=audit.REASON_LENGTH_MAX)

    def do(tx: Tx, scene: Scene) -> Outcome:
        jobs.pause(tx, queue)
        return Outcome(audit.record(tx, "jobs.pause", queue, actor=scene.token.id, reason=reason), "jobs", {})

    return do


def resume(fields: Fields) -> Callable[[Tx, Scene], Outcome]:
    """Resume a queue."""
    queue, reason = fields.must("queue", most=jobs.NAME_LENGTH_MAX), fields.must("reason", most=audit.REASON_LENGTH_MAX)

    def do(tx: Tx, scene: Scene) -> Outcome:
        jobs.resume(tx, queue)
        return Outcome(audit.record(tx, "jobs.resume", queue, actor=scene.token.id, reason=reason), "jobs", {})

    return do
