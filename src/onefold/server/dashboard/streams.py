"""*Streams*: how far each subscription has come, and the events that it has put aside."""

from __future__ import annotations

from collections.abc import Callable

from onefold.engine.tx import Tx
from onefold.identity import audit
from onefold.messaging import events
from onefold.server.dashboard import parts
from onefold.server.dashboard.markup import Markup, join, link, tag
from onefold.server.dashboard.request import CURSOR_LENGTH_MAX, Fields, Scene
from onefold.server.dashboard.views import Draw, Outcome

LIMIT = 50
_RETRIED = "Whoever runs the subscription tries them in its next steps, oldest first, with the handler that it has."
RETRIES_MAX = 1_000  # Streams that are shown as being tried again.
_BEGIN = 'events.Subscriber(db, "totals", add_up)'


def prepare(fields: Fields) -> Draw:
    """All subscriptions, by name."""
    after = fields.text("after", most=CURSOR_LENGTH_MAX)
    return lambda tx, scene: _subscriptions(tx, scene, after)


def _subscriptions(tx: Tx, scene: Scene, after: str) -> Markup:
    head = events.head(tx)
    page = events.list_subscriptions(tx, after=after or None, limit=LIMIT)
    rows = [
        (
            one.name,
            one.category or "all",
            f"{one.position:,}",
            tag(
                "span",
                f"{one.lag:,}",
                parts.meter(one.position / (one.position + one.lag), label="how far it has come") if one.lag else "",
            ),
            _state(scene, one),
            link(scene.at("parked", {"subscription": one.name}), f"{one.parked:,} put aside") if one.parked else "",
        )
        for one in page.items
    ]
    headings = ("Subscription", "Category", "#Position", "#Behind by", "State", "Parked")
    return join(
        (
            tag("h1", "Streams"),
            parts.section(
                "Subscriptions",
                parts.table(headings, rows, empty=parts.hint("Nobody subscribes.", _BEGIN)),
                parts.more(scene, "streams", page.after, {}),
                note=f"The last event has position {head:,}.",
            ),
            parts.command(scene, "onefold", "events", "tail"),
        )
    )


def _state(scene: Scene, one: events.Subscription) -> Markup:
    if one.attempts:
        again = parts.ago(scene, one.retry_at_ms) if one.retry_at_ms > scene.now_ms else "now"
        return tag("span", parts.badge(f"fails, {one.attempts} times", "bad"), " again ", again)
    return parts.badge("behind", "warn") if one.lag else parts.badge("up to date", "good")


def prepare_parked(fields: Fields) -> Draw:
    """What one subscription has put aside."""
    name = fields.must("subscription", most=events.NAME_LENGTH_MAX)
    after = fields.text("after", most=CURSOR_LENGTH_MAX)
    return lambda tx, scene: _parked(tx, scene, name, after)


def _parked(tx: Tx, scene: Scene, name: str, after: str) -> Markup:
    subscription = events.subscription_of(tx, name)
    scene.title = f"Put aside by {name}"
    page = events.list_parked(tx, name, after=after or 0, limit=LIMIT)
    asked = {one.stream: one.asked_at_ms for one in events.list_retries(tx, name, limit=RETRIES_MAX).items}
    behind: dict[str, list[events.Parked]] = {}
    for one in page.items:
        behind.setdefault(one.stream, []).append(one)
    rows = [
        (
            tag("code", stream),
            f"{found[0].position:,}",
            found[0].attempts,
            found[0].error,
            parts.ago(scene, found[0].at_ms),
            f"{len(found) - 1:,}" if len(found) > 1 else parts.zero(),
            _verbs(scene, name, stream, asked.get(stream)),
        )
        for stream, found in behind.items()
    ]
    headings = ("Stream", "#Position", "#Attempts", "Error", "Since", "#Behind it", "")
    note = "A stream stops at the event that failed, and those after it wait behind it; other streams go on."
    title = "1 event" if subscription.parked == 1 else f"{subscription.parked:,} events"
    everything: object = ""
    if rows and scene.may("events:write"):
        everything = parts.tucked(
            "Retry all of them ...",
            tag("p", _RETRIED, class_="note"),
            parts.action(scene, "events.retry", "Retry all", {"subscription": name}),
            parts.command(scene, "onefold", "events", "retry-parked", name),
        )
    return join(
        (
            tag("h1", f'Put aside by "{name}"'),
            parts.section(
                title,
                parts.table(headings, rows, empty="Nothing is put aside."),
                everything,
                parts.more(scene, "parked", page.after, {"subscription": name}),
                note=note,
            ),
            tag("p", link(scene.at("streams"), "All subscriptions", class_="button")),
        )
    )


def _verbs(scene: Scene, name: str, stream: str, asked_at_ms: int | None) -> object:
    waits: object = ""
    if asked_at_ms is not None:
        waits = tag("p", parts.badge("retry asked for", "warn"), " ", parts.ago(scene, asked_at_ms), class_="note")
    if not scene.may("events:write"):
        return waits
    again = parts.tucked(
        "Retry ...",
        tag("p", _RETRIED, class_="note"),
        parts.action(scene, "events.retry", "Retry", {"subscription": name, "stream": stream}),
        parts.command(scene, "onefold", "events", "retry-parked", name, "--stream", stream),
    )
    drop = parts.tucked(
        "Drop ...",
        tag("p", "This subscription will never see them, and the stream goes on.", class_="note"),
        parts.action(scene, "events.drop", "Drop", {"subscription": name, "stream": stream}, danger=True),
        parts.command(scene, "onefold", "events", "drop-parked", name, "--stream", stream),
    )
    return tag("div", waits, again, drop)


def retry(fields: Fields) -> Callable[[Tx, Scene], Outcome]:
    """Have whoever runs the subscription try parked events again, of one stream or of all."""
    name = fields.must("subscription", most=events.NAME_LENGTH_MAX)
    stream = fields.text("stream", most=events.STREAM_LENGTH_MAX) or None
    reason = fields.must("reason", most=audit.REASON_LENGTH_MAX)

    def do(tx: Tx, scene: Scene) -> Outcome:
        facts: dict[str, object] = {"streams": events.request_retry(tx, name, stream=stream)}
        if stream:
            facts["stream"] = stream
        entry = audit.record(tx, "events.retry", name, actor=scene.token.id, reason=reason, facts=facts)
        return Outcome(entry, "parked", {"subscription": name})

    return do


def drop(fields: Fields) -> Callable[[Tx, Scene], Outcome]:
    """Give up the parked events of one stream."""
    name = fields.must("subscription", most=events.NAME_LENGTH_MAX)
    stream = fields.must("stream", most=events.STREAM_LENGTH_MAX)
    reason = fields.must("reason", most=audit.REASON_LENGTH_MAX)

    def do(tx: Tx, scene: Scene) -> Outcome:
        dropped = events.drop_parked(tx, name, stream=stream)
        facts = {"stream": stream, "dropped": dropped}
        entry = audit.record(tx, "events.drop", name, actor=scene.token.id, reason=reason, facts=facts)
        return Outcome(entry, "parked", {"subscription": name})

    return do
