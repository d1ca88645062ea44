"""*Sessions* and *Audit*: who is logged in, and who did what and why."""

from __future__ import annotations

from collections.abc import Callable

from onefold.engine.tx import Tx
from onefold.identity import audit, sessions
from onefold.server.dashboard import parts
from onefold.server.dashboard.markup import Markup, join, link, tag
from onefold.server.dashboard.request import CURSOR_LENGTH_MAX, Fields, Scene
from onefold.server.dashboard.views import Draw, Outcome

LIMIT = 50


def prepare_sessions(fields: Fields) -> Draw:
    """All that are not over, the oldest first."""
    after = fields.text("after", most=CURSOR_LENGTH_MAX)
    return lambda tx, scene: _sessions(tx, scene, after)


def _sessions(tx: Tx, scene: Scene, after: str) -> Markup:
    page = sessions.list_sessions(tx, after=after or None, limit=LIMIT)
    rows = [
        (
            parts.ident(one.id),
            parts.ident(one.token_id),
            parts.ago(scene, one.created_at_ms),
            parts.ago(scene, one.expires_at_ms),
            _end(scene, one),
        )
        for one in page.items
    ]
    headings = ("Session", "Token", "Began", "Ends", "")
    note = "A session can do what its token can, and ends with it: onefold token revoke ends all of a token's."
    return join(
        (
            tag("h1", "Sessions"),
            parts.section(
                "Logged in",
                parts.table(headings, rows, empty="Nobody."),
                parts.more(scene, "sessions", page.after, {}),
                note=note,
            ),
        )
    )


def _end(scene: Scene, one: sessions.Session) -> object:
    if not scene.may("sessions:write"):
        return ""
    return parts.tucked(
        "End it ...",
        parts.action(scene, "sessions.end", "End", {"id": one.id}, danger=True),
        parts.command(scene, "onefold", "sessions", "end", one.id),
    )


def end_session(fields: Fields) -> Callable[[Tx, Scene], Outcome]:
    """End a session of whoever."""
    session_id = fields.must("id", most=sessions.ID_LENGTH_MAX)
    reason = fields.must("reason", most=audit.REASON_LENGTH_MAX)

    def do(tx: Tx, scene: Scene) -> Outcome:
        session = sessions.end(tx, session_id)
        facts = {"token": session.token_id}
        entry = audit.record(tx, "sessions.end", session_id, actor=scene.token.id, reason=reason, facts=facts)
        return Outcome(entry, "sessions", {})

    return do


def prepare_audit(fields: Fields) -> Draw:
    """The newest first."""
    after = fields.text("after", most=CURSOR_LENGTH_MAX)
    return lambda tx, scene: _audit(tx, scene, after)


def _subject(scene: Scene, subject: str) -> Markup:
    """What it was done to, as a link where it has a page."""
    page = {"job": "job", "ep": "endpoint"}.get(subject.partition("_")[0])
    return link(scene.at(page, {"id": subject}), parts.ident(subject)) if page else parts.ident(subject)


def _audit(tx: Tx, scene: Scene, after: str) -> Markup:
    page = audit.list_entries(tx, after=after or None, limit=LIMIT)
    rows = [
        (
            parts.ago(scene, entry.at_ms),
            tag("code", entry.action, class_="word"),
            _subject(scene, entry.subject),
            entry.reason,
            ", ".join(f"{name}: {value}" for name, value in entry.facts.items()),
            parts.ident(entry.actor),
        )
        for entry in page.items
    ]
    headings = ("When", "What", "To what", "Why", "With", "Who")
    note = "Entries are kept for 400 days. None can be changed."
    table = parts.table(headings, rows, empty="Nothing was done yet.")
    return join(
        (
            tag("h1", "Audit"),
            parts.section(
                "What was done, the newest first", table, parts.more(scene, "audit", page.after, {}), note=note
            ),
        )
    )
