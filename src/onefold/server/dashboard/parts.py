"""The parts that pages are made of: tables that become cards on a phone, numbers, ages, bars, forms."""

from __future__ import annotations

import datetime as dt
import shlex
from collections.abc import Sequence

from onefold.core.money import Money
from onefold.identity.audit import REASON_LENGTH_MAX
from onefold.server.dashboard.markup import Markup, join, link, tag, text
from onefold.server.dashboard.request import Scene

SPACED = ("jobs", "events", "locks", "webhooks")  # The groups of commands that work in one space.


def section(title: str, *children: object, note: object = "") -> Markup:
    """A part of a page under a heading."""
    said = tag("p", note, class_="note") if note else ""
    return tag("section", tag("h2", title), said, *children)


def table(headings: Sequence[str], rows: Sequence[Sequence[object]], *, empty: object) -> Markup:
    """A table; on a narrow screen each row is a card. A heading that begins with "#" is of numbers."""
    if not rows:
        return tag("p", empty, class_="empty")
    names = [heading.lstrip("#") for heading in headings]
    kinds = ["number" if heading.startswith("#") else None for heading in headings]
    head = tag("tr", *(tag("th", name, scope="col", class_=kind) for name, kind in zip(names, kinds, strict=True)))
    body = [
        tag(
            "tr",
            *(
                tag("td", cell, data_label=name or None, class_=kind)
                for name, kind, cell in zip(names, kinds, row, strict=True)
            ),
        )
        for row in rows
    ]
    return tag("table", tag("thead", head), tag("tbody", *body))


def hint(said: str, code: str) -> Markup:
    """What stands where nothing is yet: that there is nothing, and how a program begins."""
    return join((f"{said} In your program: ", tag("code", code)))


def ident(name: str) -> Markup:
    """A generated id: in one line, shortened by the page where it has no room, whole when copied or pointed at."""
    return tag("code", name, class_="id", title=name)


def pairs(*rows: tuple[str, object]) -> Markup:
    """Names and values."""
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in rows))


def count(number: int, *, at_least: bool = False) -> Markup:
    """A number as people read it: "10,000+"."""
    return tag("span", f"{number:,}{'+' if at_least else ''}", title="More were not counted." if at_least else None)


def zero() -> Markup:
    """A number that says nothing; left out on a phone."""
    return tag("span", "0", class_="zero")


def money(amount: Money) -> str:
    """An amount with its thousands apart: "-101,700.00 EUR"."""
    number, _, currency = str(amount).partition(" ")
    units, point, rest = number.partition(".")
    return f"{int(units):,}{point}{rest} {currency}" if abs(int(units)) >= 1_000 else str(amount)


def times(number: int) -> str:
    """How often."""
    return "once" if number == 1 else f"{number:,} times"


def span(ms: float) -> str:
    """A length of time as people say it."""
    seconds = max(0.0, ms / 1_000)
    if seconds < 1:
        return f"{max(0.0, ms):.0f} ms"
    for size, name in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} s"


def lasted(ms: int) -> Markup:
    """A length of time as people say it, exact behind it."""
    return tag("span", span(ms), title=f"{ms:,} ms")


def ago(scene: Scene, ms: int) -> Markup:
    """How long ago, or in how long, with the moment itself behind it."""
    moment = _moment(ms)
    passed = scene.now_ms - ms
    shown = f"{span(passed)} ago" if passed >= 0 else f"in {span(-passed)}"
    return tag("time", shown, datetime=moment.replace(" UTC", "Z").replace(" ", "T"), title=moment)


def since(scene: Scene, ms: int) -> Markup:
    """For how long, with the moment when it began behind it."""
    moment = _moment(ms)
    shown = span(scene.now_ms - ms)
    return tag("time", shown, datetime=moment.replace(" UTC", "Z").replace(" ", "T"), title=f"since {moment}")


def _moment(ms: int) -> str:
    return dt.datetime.fromtimestamp(ms / 1_000, dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def badge(word: str, kind: str = "") -> Markup:
    """A word that says a state."""
    return tag("span", word, class_=f"badge {kind or word}")


def command(scene: Scene, *words: str) -> Markup:
    """The same on the command line, in the space of whoever looks."""
    if scene.token.space_name and words[1] in SPACED:
        words = (*words, "--space", scene.token.space_name)
    return tag("p", "Same on the command line: ", tag("code", shlex.join(words)), class_="command")


def more(scene: Scene, path: str, after: str | None, query: dict[str, str | None]) -> Markup:
    """A link to the next page, if there is one."""
    if after is None:
        return Markup("")
    return tag(
        "p", link(scene.at(path, {**query, "after": after}), "Next page", rel="next", class_="button"), class_="more"
    )


def action(
    scene: Scene,
    name: str,
    label: str,
    fields: dict[str, str],
    *,
    danger: bool = False,
    reason: str | None = "",
    again: bool = False,
) -> Markup:
    """A form that does something. It asks for the reason unless one is given (for the next step of many)."""
    hidden = [tag("input", type="hidden", name=key, value=value) for key, value in fields.items()]
    if reason:
        asked: object = tag("input", type="hidden", name="reason", value=reason)
    else:
        asked = tag(
            "label",
            tag("span", "Reason"),
            tag(
                "input",
                name="reason",
                required=True,
                maxlength=REASON_LENGTH_MAX,
                autocomplete="off",
                placeholder="goes into the audit trail",
            ),
        )
    return tag(
        "form",
        tag("input", type="hidden", name="form_token", value=scene.form_token),
        *hidden,
        asked,
        tag("button", label, class_="danger" if danger else None),
        method="post",
        action=scene.at(f"do/{name}"),
        class_="action",
        data_again=again or None,
    )


def tucked(label: str, *children: object, told: bool = False) -> Markup:
    """What is shown when asked for; `told`: its label is a text that may be long, and no verb."""
    return tag("details", tag("summary", label), *children, class_="told" if told else None)


def bars(counts: Sequence[int], *, label: str) -> Markup:
    """Counts per minute as bars, the latest on the right."""
    most = max(max(counts, default=0), 1)
    width = 100 / max(1, len(counts))
    shapes = [
        tag(
            "rect",
            tag("title", f"{number} {len(counts) - 1 - place} min ago"),
            x=f"{place * width + width * 0.1:.2f}",
            y=f"{30 - 30 * number / most:.2f}",
            width=f"{width * 0.8:.2f}",
            height=f"{30 * number / most:.2f}",
        )
        for place, number in enumerate(counts)
        if number
    ]
    base = tag("line", x1=0, y1=30, x2=100, y2=30)
    return tag(
        "svg",
        base,
        *shapes,
        viewBox="0 0 100 30.5",
        preserveAspectRatio="none",
        role="img",
        aria_label=label,
        class_="bars",
    )


def meter(filled: float, *, label: str) -> Markup:
    """A share, 0 to 1, as a bar."""
    share = min(1.0, max(0.0, filled))
    return tag(
        "svg",
        tag("rect", class_="track", x=0, y=0, width=100, height=6),
        tag("rect", class_="fill", x=0, y=0, width=f"{100 * share:.1f}", height=6),
        viewBox="0 0 100 6",
        preserveAspectRatio="none",
        role="img",
        aria_label=label,
        class_="meter",
    )


def said(scene: Scene, entry: tuple[str, str, str, str] | None) -> Markup:
    """What the last action did: action, subject, outcome, and the id of its entry."""
    if entry is None:
        return Markup("")
    name, subject, outcome, entry_id = entry
    where = link(scene.at("audit"), entry_id) if scene.may("audit:read") else text(entry_id)
    return tag("p", join((f"Done: {name} {subject}. {outcome} Recorded as ", where, ".")), class_="said", role="status")
