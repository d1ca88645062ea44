"""*Now*: is all well, and if not, what is to be done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from onefold.engine.tx import Tx
from onefold.messaging import events, jobs, webhooks
from onefold.runtime.loops import all_loops
from onefold.server.dashboard import parts
from onefold.server.dashboard.markup import Markup, join, link, tag
from onefold.server.dashboard.request import Fields, Scene
from onefold.server.dashboard.views import Draw

ROWS_MAX = 1_000  # Jobs read per state.
WAIT_MS = 300_000  # A job that is ready this long is a problem.
LATE_MS = 60_000  # So is one that is due this long and not promoted,
TRANSACTION_MS = 60_000  # a transaction that is open this long,
REPLICA_MS = 30_000  # a replica that is this far behind,
LOOP_MS = 30_000  # and a loop that is later than its rest by this.
FAILING_MS = 300_000  # As is an endpoint of webhooks that fails for so long.
SUBSCRIPTIONS_MAX = 100
ENDPOINTS_MAX = 100
SHOWN_MAX = 20  # Rows of each table.
MIB = 1 << 20

Problem = tuple[str, str, str]  # What is wrong, where the fix is, and what the link says.


def prepare(fields: Fields) -> Draw:
    """It takes no fields."""
    del fields
    return draw


def draw(tx: Tx, scene: Scene) -> Markup:
    """The verdict first, then the numbers behind it."""
    problems: list[Problem] = []
    sections: list[Markup] = []
    if scene.may("jobs:read"):
        problems += _draw_jobs(tx, scene, sections)
    if scene.may("events:read"):
        problems += _subscription_problems(scene, events.list_subscriptions(tx, limit=SUBSCRIPTIONS_MAX).items)
    if scene.may("webhooks:read"):
        problems += _endpoint_problems(scene, webhooks.list_endpoints(tx, limit=ENDPOINTS_MAX).items)
        problems += _late_problems(scene, webhooks.late(tx, by_ms=WAIT_MS, limit=ENDPOINTS_MAX))
    if scene.numbers is not None:
        problems += _engine_problems(scene, scene.numbers)
        sections.append(_engine(scene.numbers))
        if scene.numbers["replicas"]:
            sections.append(_replicas(scene.numbers["replicas"]))
        sections.append(_functions(scene.numbers))
        sections.append(_loops(scene.numbers))
    return join((_verdict(problems), tag("div", *sections, class_="columns")))


def _verdict(problems: Sequence[Problem]) -> Markup:
    if not problems:
        return tag("section", tag("h1", "All well"), tag("p", "Nothing here needs you."), class_="verdict")
    title = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    items = [tag("li", what, " ", link(where, fix)) for what, where, fix in problems]
    return tag("section", tag("h1", title), tag("ul", *items), class_="verdict bad")


def _draw_jobs(tx: Tx, scene: Scene, sections: list[Markup]) -> list[Problem]:
    stats = jobs.stats(tx, rows_max=ROWS_MAX)
    deaths = jobs.deaths_per_minute(tx)
    workers = jobs.live_workers(tx)
    paused = jobs.list_paused(tx, limit=SHOWN_MAX).items
    late_ms = jobs.overdue_ms(tx)
    waiting = sorted((one for one in stats if one.state == "ready"), key=lambda one: one.oldest_ms)
    rows = [
        (
            link(scene.at("jobs", {"state": "ready", "kind": one.kind}), one.kind),
            parts.ago(scene, one.oldest_ms),
            parts.count(min(one.count, ROWS_MAX), at_least=one.at_least),
        )
        for one in waiting[:SHOWN_MAX]
    ]
    sections.append(
        parts.section(
            "Oldest waiting job by kind",
            parts.table(("Kind", "Ready since", "#Waiting"), rows, empty="No job waits for a worker."),
            note=f"Of the {ROWS_MAX:,} put first. {len(workers)} worker{'s' if len(workers) != 1 else ''} alive.",
        )
    )
    sections.append(
        parts.section(
            "Jobs given up per minute, last hour",
            parts.bars(deaths, label=f"{sum(deaths)} jobs were given up in the last hour"),
            tag(
                "p",
                tag("span", "60 min ago"),
                tag("span", f"most: {max(deaths)} a minute"),
                tag("span", "now"),
                class_="axis",
            ),
            note=join(
                (
                    f"{sum(deaths):,} in the last hour, {sum(deaths[-5:]):,} in the last 5 min. ",
                    link(scene.at("failures"), "All failures"),
                )
            ),
        )
    )
    return list(_job_problems(scene, waiting, deaths, workers, [queue.queue for queue in paused], late_ms))


def _job_problems(
    scene: Scene,
    waiting: Sequence[jobs.KindStats],
    deaths: Sequence[int],
    workers: Sequence[jobs.LiveWorker],
    paused: Sequence[str],
    late_ms: int,
) -> Iterator[Problem]:
    if waiting and not workers:
        yield (
            "Jobs wait and no worker is alive.",
            scene.at("jobs", {"state": "ready"}),
            "See what waits; start a worker",
        )
    for one in waiting[:SHOWN_MAX]:
        waits_ms = scene.now_ms - one.oldest_ms
        if workers and waits_ms > WAIT_MS:
            where = scene.at("jobs", {"state": "ready", "kind": one.kind})
            yield f"A job of kind {one.kind} waits for {parts.span(waits_ms)}.", where, "Ask why"
    if recent := sum(deaths):
        what = f"{recent:,} job{' was' if recent == 1 else 's were'} given up in the last hour."
        yield what, scene.at("failures"), "See what they died of"
    for queue in paused:
        yield f'The queue "{queue}" is paused.', scene.at("jobs"), "Resume it"
    if late_ms > LATE_MS:
        what = f"A scheduled job is {parts.span(late_ms)} late: no worker or supervisor promotes jobs."
        yield what, scene.at("jobs", {"state": "scheduled"}), "See them; start a worker"


def _subscription_problems(scene: Scene, found: Sequence[events.Subscription]) -> Iterator[Problem]:
    for one in found:
        if one.parked:
            many = "1 event is" if one.parked == 1 else f"{one.parked:,} events are"
            where = scene.at("parked", {"subscription": one.name})
            yield f'{many} put aside by "{one.name}".', where, "See them"
        elif one.attempts:
            yield f'"{one.name}" fails on its next event, {one.attempts} times so far.', scene.at("streams"), "See it"


def _endpoint_problems(scene: Scene, found: Sequence[webhooks.Endpoint]) -> Iterator[Problem]:
    for one in found:
        since_ms = one.failing_since_ms
        if one.disabled_at_ms is not None and one.disabled_why in webhooks.DISABLED_BY_ITSELF:
            ago = parts.span(scene.now_ms - one.disabled_at_ms)
            what = f"The endpoint {_host(one.url)} was disabled {ago} ago: {one.disabled_why}. It gets nothing."
            yield what, scene.at("endpoint", {"id": one.id}), "Enable it"
        elif one.disabled_at_ms is None and since_ms is not None and scene.now_ms - since_ms > FAILING_MS:
            what = f"The endpoint {_host(one.url)} fails for {parts.span(scene.now_ms - since_ms)}."
            yield what, scene.at("endpoint", {"id": one.id}), "See its answers"


def _late_problems(scene: Scene, found: Sequence[webhooks.Late]) -> Iterator[Problem]:
    for one in found:
        waits = parts.span(scene.now_ms - one.due_at_ms)
        what = f"Messages for {_host(one.url)} wait for {waits}: no dispatcher runs, or it cannot keep up."
        yield what, scene.at("endpoint", {"id": one.endpoint_id}), "See what waits"


def _host(url: str) -> str:
    return url.partition("://")[2].partition("/")[0]


def _engine_problems(scene: Scene, numbers: dict[str, Any]) -> Iterator[Problem]:
    longest = numbers["open"]
    if longest is not None and longest["ms"] > TRANSACTION_MS:
        what = f"A transaction is open for {parts.span(longest['ms'])}: {_whose(longest)}."
        yield f"{what} It keeps its locks and old rows.", f"{scene.root}/now#engine", "Numbers"
    for replica in numbers["replicas"]:
        if (lag_ms := replica["lag_ms"] or 0) > REPLICA_MS:
            what = f"The replica {replica['name']} is {parts.span(lag_ms)} behind."
            yield what, f"{scene.root}/now#engine", "Numbers"
    for name, lag_ms, _, behind in _loop_rows(numbers):
        if behind:
            yield f"The loop {name} is {parts.span(lag_ms)} behind.", f"{scene.root}/now#loops", "See the loops"


def _engine(numbers: dict[str, Any]) -> Markup:
    commit, longest = numbers["commit"], numbers["open"]
    open_ms = numbers.get("open_transaction_ms", 0)
    rows: list[tuple[str, object]] = [
        ("Commit p99", f"{commit['p99_ms']:.1f} ms" if commit["count"] else "none yet"),
        (
            "Longest open transaction",
            join((parts.span(open_ms), tag("code", _whose(longest)) if longest else ""))
            if open_ms >= 0
            else "the server is away",
        ),
        ("Commits", f"{numbers['commits']:,}"),
        ("Calls that queue", f"{numbers.get('queued', 0):,.0f}"),
    ]
    return tag(
        "div",
        parts.section(
            "Engine",
            tag("div", parts.pairs(*rows), class_="big"),
            note="Of this process, since it started. Percentiles are upper edges of powers of two.",
        ),
        id="engine",
    )


def _replicas(replicas: Sequence[dict[str, Any]]) -> Markup:
    """How far behind each is; what the server does not tell this role is a dash."""
    rows = [
        (
            tag("span", one["name"] or "(its name is not told)", " ", parts.badge(one["sync"] or one["state"] or "?")),
            None if one["behind_bytes"] is None else tag("span", _size(one["behind_bytes"]), title=one["behind_bytes"]),
            None if one["lag_ms"] is None else parts.lasted(one["lag_ms"]),
        )
        for one in replicas
    ]
    return parts.section("Replicas", parts.table(("Replica", "#Behind by", "#Lag"), rows, empty=""))


def _size(count: int) -> str:
    return f"{count:,} B" if count < MIB else f"{count / MIB:,.0f} MiB"


def _whose(longest: dict[str, Any]) -> str:
    """Of our own process the function; of another one how the server calls it."""
    return longest["function"] or longest["where"]


def _functions(numbers: dict[str, Any]) -> Markup:
    counts: dict[str, list[int]] = {}
    for one in numbers["retries"]:
        counts.setdefault(one["function"], [0, 0])[0] += one["count"]
    for one in numbers["aborts"]:
        counts.setdefault(one["function"], [0, 0])[1] += one["count"]
    worst = sorted(counts.items(), key=lambda found: -sum(found[1]))[:SHOWN_MAX]
    per = max(1, numbers["commits"])
    rows = [
        (tag("code", name), f"{again:,}", f"{undone:,}", f"{1_000 * (again + undone) / per:.1f}")
        for name, (again, undone) in worst
    ]
    headings = ("Function", "#Run again", "#Undone", "#Per 1,000 commits")
    return parts.section("Conflicts and aborts by function", parts.table(headings, rows, empty="None since the start."))


def _loops(numbers: dict[str, Any]) -> Markup:
    loops = sorted(_loop_rows(numbers), key=lambda row: (not row[3], row[0]))
    rows = [
        (
            name,
            parts.span(lag_ms),
            f"{errors:,}",
            parts.badge("behind", "bad") if behind else parts.badge("on time", "good"),
        )
        for name, lag_ms, errors, behind in loops
    ]
    late = sum(behind for *_, behind in loops)
    headings = ("Loop", "Last good step", "#Errors", "")
    if not loops:
        body = tag("p", "No loops run in this process; another one must run them.", class_="empty")
    elif late:
        body = parts.table(headings, rows, empty="")
    else:
        failed = sum(errors for _, _, errors, _ in loops)
        said = tag("p", parts.badge("on time", "good"), f" All {len(loops)}; {failed:,} errors since the start.")
        body = join((said, parts.tucked("Each of them", parts.table(headings, rows, empty=""))))
    return tag("div", parts.section("Background loops", body), id="loops")


def _loop_rows(numbers: dict[str, Any]) -> Iterator[tuple[str, float, int, bool]]:
    for loop in all_loops():
        lag_ms = numbers.get(f"loop.{loop.name}.lag_ms")
        if lag_ms is not None:
            yield loop.name, lag_ms, int(numbers[f"loop.{loop.name}.errors"]), lag_ms > loop.every_ms + LOOP_MS
