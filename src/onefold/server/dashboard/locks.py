"""*Locks*: who holds what, for how long yet, and taking it away."""

from __future__ import annotations

from collections.abc import Callable

from onefold.coordination import locks
from onefold.engine.tx import Tx
from onefold.identity import audit
from onefold.server.dashboard import parts
from onefold.server.dashboard.markup import Markup, join, tag
from onefold.server.dashboard.request import CURSOR_LENGTH_MAX, Fields, Scene
from onefold.server.dashboard.views import Draw, Outcome

LIMIT = 50


def prepare(fields: Fields) -> Draw:
    """All, or those whose names begin so."""
    prefix = fields.text("prefix", most=locks.NAME_LENGTH_MAX)
    after = fields.text("after", most=CURSOR_LENGTH_MAX)
    return lambda tx, scene: _locks(tx, scene, prefix, after)


def _locks(tx: Tx, scene: Scene, prefix: str, after: str) -> Markup:
    page = locks.list_locks(tx, prefix=prefix, after=after or None, limit=LIMIT)
    rows = [
        (
            tag("code", lock.name),
            lock.owner,
            lock.token,
            parts.ago(scene, lock.acquired_at_ms),
            _left(scene, lock),
            _release(scene, lock),
        )
        for lock in page.items
    ]
    asked = tag("input", name="prefix", value=prefix, maxlength=locks.NAME_LENGTH_MAX)
    search = tag(
        "form",
        tag("label", tag("span", "Name begins with"), asked),
        tag("button", "Show"),
        method="get",
        action=scene.at("locks"),
        class_="filter",
    )
    note = "Names that begin with loop/ are leases of background loops: they come back by themselves."
    headings = ("Name", "Holder", "#Token", "Since", "Expires", "")
    table = parts.table(headings, rows, empty="Nobody holds a lock" + (" with such a name." if prefix else "."))
    following = parts.more(scene, "locks", page.after, {"prefix": prefix})
    return join(
        (
            tag("h1", "Locks"),
            search,
            parts.section("Held now, by name", table, following, note=note),
            parts.command(scene, "onefold", "locks", "ls", *(("--prefix", prefix) if prefix else ())),
        )
    )


def _left(scene: Scene, lock: locks.Lock) -> Markup:
    whole = max(1, lock.expires_at_ms - lock.acquired_at_ms)
    left = lock.expires_at_ms - scene.now_ms
    return tag(
        "span", parts.ago(scene, lock.expires_at_ms), parts.meter(left / whole, label=f"{parts.span(left)} left")
    )


def _release(scene: Scene, lock: locks.Lock) -> object:
    if not scene.may("locks:admin"):
        return ""
    return parts.tucked(
        "Release by force ...",
        tag("p", "The holder is not stopped; its fenced writes fail from then on.", class_="note"),
        parts.action(scene, "locks.release", "Release", {"name": lock.name}, danger=True),
        parts.command(scene, "onefold", "locks", "release", lock.name, "--reason", "..."),
    )


def release(fields: Fields) -> Callable[[Tx, Scene], Outcome]:
    """Take a lock from its holder."""
    name, reason = fields.must("name", most=locks.NAME_LENGTH_MAX), fields.must("reason", most=audit.REASON_LENGTH_MAX)

    def do(tx: Tx, scene: Scene) -> Outcome:
        lock = locks.force_release(tx, name, reason=reason)
        facts = {"owner": lock.owner, "token": lock.token}
        entry = audit.record(tx, "locks.release", name, actor=scene.token.id, reason=reason, facts=facts)
        return Outcome(entry, "locks", {})

    return do
