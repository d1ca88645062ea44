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
                parts.meter(one.position / max(1, one.position + one.lag), label="how far it has come"),
            ),
            _state(scene, one),
            link(scene.at("parked", {"subscription": one.name}), f"{one.parked:,} put aside") if one.parked else "none",
        )
        for one in page.items
    ]
    headings = ("Subscription", "Category", "#Position", "#Behind by", "State", "Parked")
    return join(
        (
            tag("h1", "Streams"),
            parts.section(
                "Subscriptions",
                parts.table(headings, rows, empty="Nobody subscribes."),
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
    name = fields.must("subscription")
    after = fields.text("after", most=CURSOR_LENGTH_MAX)
    return lambda tx, scene: _parked(tx, scene, name, after)


def _parked(tx: Tx, scene: Scene, name: str, after: str) -> Markup:
    subscription = events.subscription_of(tx, name)
    page = events.list_parked(tx, name, after=after or 0, limit=LIMIT)
    seen: set[str] = set()
    rows: list[tuple[object, ...]] = []
    for one in page.items:
        drop: object = ""
        if scene.may("events:write") and one.stream not in seen:
            drop = _drop(scene, name, one.stream)
        seen.add(one.stream)
        rows.append(
            (f"{one.position:,}", tag("code", one.stream), one.attempts, one.error, parts.ago(scene, one.at_ms), drop)
        )
    headings = ("#Position", "Stream", "#Attempts", "Error", "Since", "")
    how = join(
        (
            "An event with 0 attempts waits behind one of its stream that failed. ",
            "To try them again, mend the handler and call ",
            tag("code", f"events.retry_parked(tx, {name!r}, handler)"),
            ": the handler is in your program, so no page can run it.",
        )
    )
    return join(
        (
            tag("h1", f'Put aside by "{name}"'),
            parts.section(
                f"{subscription.parked:,} events",
                parts.table(headings, rows, empty="Nothing is put aside."),
                parts.more(scene, "parked", page.after, {"subscription": name}),
                note=how,
            ),
            tag("p", link(scene.at("streams"), "All subscriptions", class_="button")),
        )
    )


def _drop(scene: Scene, name: str, stream: str) -> Markup:
    return parts.tucked(
        "Drop those of this stream ...",
        tag("p", "This subscription will never see them, and the stream goes on.", class_="note"),
        parts.action(scene, "events.drop", "Drop", {"subscription": name, "stream": stream}, danger=True),
        parts.command(scene, "onefold", "events", "drop-parked", name, "--stream", stream),
    )


def drop(fields: Fields) -> Callable[[Tx, Scene], Outcome]:
    """Give up the parked events of one stream."""
    name, stream = fields.must("subscription"), fields.must("stream", most=400)
    reason = fields.must("reason", most=500)

    def do(tx: Tx, scene: Scene) -> Outcome:
        dropped = events.drop_parked(tx, name, stream=stream)
        facts = {"stream": stream, "dropped": dropped}
        entry = audit.record(tx, "events.drop", name, actor=scene.token.id, reason=reason, facts=facts)
        return Outcome(entry, "parked", {"subscription": name})

    return do
