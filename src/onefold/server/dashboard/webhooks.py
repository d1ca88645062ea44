"""*Webhooks*: endpoints and how they are, what was tried, and delivering again."""

from __future__ import annotations

from collections.abc import Callable

from onefold.engine.tx import Tx
from onefold.identity import audit
from onefold.messaging import webhooks
from onefold.server.dashboard import parts
from onefold.server.dashboard.markup import Markup, join, link, tag
from onefold.server.dashboard.request import CURSOR_LENGTH_MAX, Fields, Scene
from onefold.server.dashboard.views import Draw, Outcome

LIMIT = 20
SHOWN = 10  # Of what waits, was given up, and was tried last.
STEP = 500  # Messages replayed by one press.
_DISABLED = "Nothing is sent there until it is enabled. What waits, waits; new messages are not kept for it."
_OUTCOMES = {"delivered": "good", "refused": "bad", "unreached": "bad", "denied": "bad"}


def prepare(fields: Fields) -> Draw:
    """All endpoints, the oldest first."""
    after = fields.text("after", most=CURSOR_LENGTH_MAX)
    return lambda tx, scene: _endpoints(tx, scene, after)


def _endpoints(tx: Tx, scene: Scene, after: str) -> Markup:
    page = webhooks.list_endpoints(tx, after=after or None, limit=LIMIT)
    rows = [_row(tx, scene, one) for one in page.items]
    headings = ("Endpoint", "State", "Types", "#Waiting", "#Given up")
    empty = parts.hint("There are no endpoints.", 'webhooks.create(tx, "https://...", key_id="k1")')
    return join(
        (
            tag("h1", "Webhooks"),
            parts.section(
                "Endpoints",
                parts.table(headings, rows, empty=empty),
                parts.more(scene, "webhooks", page.after, {}),
            ),
            parts.command(scene, "onefold", "webhooks", "ls"),
        )
    )


def _row(tx: Tx, scene: Scene, one: webhooks.Endpoint) -> tuple[object, ...]:
    backlog = webhooks.backlog(tx, one.id)
    return (
        link(scene.at("endpoint", {"id": one.id}), one.url, class_="long"),
        _state(scene, one),
        ", ".join(one.types) or "all",
        _number(backlog.waiting),
        _number(backlog.given_up),
    )


def _number(count: int) -> Markup:
    most = webhooks.BACKLOG_MAX
    return parts.count(min(count, most), at_least=count > most) if count else parts.zero()


def _state(scene: Scene, one: webhooks.Endpoint) -> Markup:
    if one.disabled_at_ms is not None:
        why = f": {one.disabled_why}" if one.disabled_why else ""
        return tag("span", parts.badge("disabled", "warn"), " ", parts.ago(scene, one.disabled_at_ms), why)
    if one.failing_since_ms is not None:
        return tag("span", parts.badge("failing", "bad"), " for ", parts.since(scene, one.failing_since_ms))
    return parts.badge("well", "good")


def prepare_endpoint(fields: Fields) -> Draw:
    """One endpoint: what was given up, what waits, what was tried last."""
    id = fields.must("id", most=webhooks.ID_LENGTH_MAX)
    return lambda tx, scene: _endpoint(tx, scene, id)


def _endpoint(tx: Tx, scene: Scene, id: str) -> Markup:
    one = webhooks.get(tx, id)
    scene.title = one.url
    backlog = webhooks.backlog(tx, id)
    facts = parts.pairs(
        ("Id", parts.ident(one.id)),
        ("Types", ", ".join(one.types) or "all"),
        ("Waiting", _number(backlog.waiting)),
        ("Given up", _number(backlog.given_up)),
        ("Most at once", f"{one.concurrency:,}"),
        ("Most a second", f"{one.per_second:,}" if one.per_second else "no limit"),
        ("Made", parts.ago(scene, one.created_at_ms)),
        ("Its key", f"{one.key_id}, secret {one.generation}"),
    )
    return join(
        (
            tag("h1", one.url, class_="long"),
            parts.section("How it is", tag("p", _state(scene, one), class_="why"), facts),
            parts.section("What to do", *_verbs(scene, one)) if scene.may("webhooks:write") else "",
            _tried(tx, scene, one),
            _given_up(tx, scene, one),
            _waiting(tx, scene, one),
            tag("p", link(scene.at("webhooks"), "All endpoints", class_="button")),
        )
    )


def _given_up(tx: Tx, scene: Scene, one: webhooks.Endpoint) -> Markup:
    page = webhooks.list_failed(tx, one.id, limit=SHOWN)
    may = scene.may("webhooks:write") and one.disabled_at_ms is None
    rows: list[tuple[object, ...]] = [
        (
            parts.ago(scene, failed.failed_at_ms),
            failed.type or "(its message is gone)",
            parts.ident(failed.message_id),
            _again(scene, one, failed.message_id) if may and failed.type else "",
        )
        for failed in page.items
    ]
    table = parts.table(("Given up", "Type", "Message", ""), rows, empty="Nothing was given up.")
    everything: object = ""
    if rows and may:
        everything = parts.tucked(
            "Deliver all of them again ...",
            parts.action(scene, "webhooks.replay_failed", "Deliver again", {"id": one.id}),
            parts.command(scene, "onefold", "webhooks", "replay", one.id, "--failed"),
        )
    note = f"The oldest {SHOWN}; there are more." if page.after else ""
    return parts.section("Given up", table, everything, note=note)


def _again(scene: Scene, one: webhooks.Endpoint, message_id: str) -> Markup:
    return parts.tucked(
        "Deliver again ...",
        parts.action(scene, "webhooks.replay", "Deliver again", {"id": one.id, "message": message_id}),
        parts.command(scene, "onefold", "webhooks", "replay", one.id, message_id),
    )


def _waiting(tx: Tx, scene: Scene, one: webhooks.Endpoint) -> Markup:
    page = webhooks.list_pending(tx, one.id, limit=SHOWN)
    rows = [
        (
            _due(scene, one, waits.at_ms),
            parts.ident(waits.message_id),
            waits.attempt,
            waits.failures,
        )
        for waits in page.items
    ]
    note = f"The oldest {SHOWN}; there are more." if page.after else ""
    headings = ("Due", "Message", "#Next attempt", "#Failures")
    return parts.section("Waiting", parts.table(headings, rows, empty="Nothing waits."), note=note)


def _due(scene: Scene, one: webhooks.Endpoint, at_ms: int) -> object:
    if one.disabled_at_ms is not None:
        return "once it is enabled"
    return parts.ago(scene, at_ms) if at_ms > scene.now_ms else "now"


def _tried(tx: Tx, scene: Scene, one: webhooks.Endpoint) -> Markup:
    rows = [
        (
            parts.ago(scene, tried.at_ms),
            parts.badge(tried.outcome, _OUTCOMES.get(tried.outcome, "warn")),
            "" if tried.status is None else tried.status,
            parts.lasted(tried.took_ms),
            tried.detail.partition("\n")[0][:160],
            parts.ident(tried.message_id),
            tried.attempt,
        )
        for tried in webhooks.latest_attempts(tx, one.id, limit=SHOWN)
    ]
    headings = ("When", "Outcome", "#Status", "#Took", "Answer", "Message", "#Attempt")
    return parts.section(
        "Tried last",
        parts.table(headings, rows, empty="Nothing was tried yet."),
        parts.command(scene, "onefold", "webhooks", "attempts", one.id),
        note="Of the messages that were sent last.",
    )


def _verbs(scene: Scene, one: webhooks.Endpoint) -> tuple[Markup, ...]:
    if one.disabled_at_ms is not None:
        return (
            parts.action(scene, "webhooks.enable", "Enable", {"id": one.id}),
            parts.command(scene, "onefold", "webhooks", "enable", one.id),
        )
    return (
        parts.tucked(
            "Disable it ...",
            tag("p", _DISABLED, class_="note"),
            parts.action(scene, "webhooks.disable", "Disable", {"id": one.id}, danger=True),
            parts.command(scene, "onefold", "webhooks", "disable", one.id, "--reason", "..."),
        ),
    )


def enable(fields: Fields) -> Callable[[Tx, Scene], Outcome]:
    """Let messages go there again."""
    return _acting(fields, "webhooks.enable", lambda tx, to, _reason: {"url": webhooks.enable(tx, to).url})


def disable(fields: Fields) -> Callable[[Tx, Scene], Outcome]:
    """Send nothing there until it is enabled."""

    def act(tx: Tx, to: str, reason: str) -> dict[str, object]:
        return {"url": webhooks.disable(tx, to, why=reason[: webhooks.WHY_LENGTH_MAX]).url}

    return _acting(fields, "webhooks.disable", act)


def replay(fields: Fields) -> Callable[[Tx, Scene], Outcome]:
    """Deliver one message again."""
    message_id = fields.must("message", most=webhooks.ID_LENGTH_MAX)

    def act(tx: Tx, id: str, _reason: str) -> dict[str, object]:
        webhooks.replay(tx, id, message_id=message_id)
        return {"message": message_id}

    return _acting(fields, "webhooks.replay", act)


def replay_failed(fields: Fields) -> Callable[[Tx, Scene], Outcome]:
    """Deliver again what was given up, at most `STEP` messages."""
    return _acting(
        fields,
        "webhooks.replay_failed",
        lambda tx, to, _reason: {"replayed": webhooks.replay_failed(tx, to, limit=STEP)},
    )


def _acting(
    fields: Fields, name: str, act: Callable[[Tx, str, str], dict[str, object]]
) -> Callable[[Tx, Scene], Outcome]:
    id = fields.must("id", most=webhooks.ID_LENGTH_MAX)
    reason = fields.must("reason", most=audit.REASON_LENGTH_MAX)

    def do(tx: Tx, scene: Scene) -> Outcome:
        facts = act(tx, id, reason)
        entry = audit.record(tx, name, id, actor=scene.token.id, reason=reason, facts=facts)
        return Outcome(entry, "endpoint", {"id": id})

    return do
