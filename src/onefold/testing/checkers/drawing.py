"""Draw a counter-example as SVG: a row for each process, a bar for each operation, time to the right.

Bars of the first anomaly are red, the last of a history without linearization has a thick edge; those
with unknown outcome stay open to the right. Arrows are the steps of a cycle.
"""

from __future__ import annotations

from html import escape

from onefold.testing.checkers.history import NEVER, Operation, show
from onefold.testing.checkers.verdict import Verdict

ROW_PX = 58
BAR_PX = 26
LEFT_PX = 90
TOP_PX = 48
CHAR_PX = 6.8
BARS_MAX = 60
LABEL_CHARS_MAX = 44

_STYLE = (
    "text{font:11px ui-monospace,Menlo,Consolas,monospace;fill:#1c1c1c}"
    ".t{font-size:13px;font-weight:600}.p{fill:#666}.a{fill:none;stroke:#b3261e;stroke-width:1.5}.s{fill:#b3261e}"
    "rect{fill:#e8eef7;stroke:#5b7ba8}.bad{fill:#fbe3e0;stroke:#b3261e}.end{stroke-width:3}.info{stroke-dasharray:4 3}"
)
_ARROW_HEAD = (
    '<defs><marker id="m" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0 0 8 4 0 8z" fill="#b3261e"/></marker></defs>'
)


def svg(verdict: Verdict) -> str:
    """The first anomaly of a verdict as a stand-alone SVG document; of a valid verdict only its title."""
    first = verdict.anomalies[0] if verdict.anomalies else None
    guilty = first.operations if first else []
    shown = sorted({id(op): op for op in (*guilty, *verdict.context)}.values(), key=lambda op: op.invoked)[-BARS_MAX:]
    title = f"{verdict.checker}: {verdict.word}" + (f", {first.name}" if first else "")
    bars = _bars(shown)
    rows = {process: row for row, process in enumerate(dict.fromkeys(op.process for op in shown))}
    width = max([bar[1] for bar in bars.values()] + [LEFT_PX + len(title) * 9.0]) + 30
    height = TOP_PX + ROW_PX * len(rows) + 16
    marked = {id(op) for op in guilty}
    size = f'width="{width:.0f}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {width:.0f} {height}">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style>",
        _ARROW_HEAD,
        f'<rect {size} style="fill:#fff;stroke:none"/>',
        f'<text class="t" x="12" y="24">{escape(title)}</text>',
    ]
    for process, row in rows.items():
        name = escape(f"p{show(process)}"[:11])
        parts.append(f'<text class="p" x="12" y="{TOP_PX + row * ROW_PX + 17}">{name}</text>')
    last = first.last if first else None
    for op in shown:
        classes = " ".join(["bad"] * (id(op) in marked) + ["end"] * (op is last) + ["info"] * (op.type == "info"))
        parts.append(_bar(op, bars[id(op)], TOP_PX + rows[op.process] * ROW_PX, classes))
    if first and first.steps:
        parts += _arrows(first.operations, first.steps, bars, rows)
    return "\n".join([*parts, "</svg>", ""])


def _bars(shown: list[Operation]) -> dict[int, tuple[float, float]]:
    """Where bars begin and end: events keep their order, and each bar has room for its label."""
    places = sorted({p for op in shown for p in (op.invoked, op.completed) if p != NEVER})
    x = {place: float(LEFT_PX) for place in places}
    ends: dict[int, list[Operation]] = {}
    for op in shown:
        ends.setdefault(op.completed, []).append(op)
    at = float(LEFT_PX)
    for place in places:
        for op in ends.get(place, []):
            at = max(at, x[op.invoked] + _label_px(op))
        x[place] = at
        at += 14
    right = at + 40
    return {
        id(op): (x[op.invoked], max(right, x[op.invoked] + _label_px(op)) if op.completed == NEVER else x[op.completed])
        for op in shown
    }


def _label(op: Operation) -> str:
    text = str(op)
    return text if len(text) <= LABEL_CHARS_MAX else f"{text[: LABEL_CHARS_MAX - 3]}..."


def _label_px(op: Operation) -> float:
    return len(_label(op)) * CHAR_PX + 12


def _bar(op: Operation, bar: tuple[float, float], y: int, classes: str) -> str:
    left, right = bar
    return (
        f'<g><title>{escape(str(op))}</title><rect class="{classes}" x="{left:.1f}" y="{y}" rx="3" '
        f'width="{max(right - left, 4):.1f}" height="{BAR_PX}"/>'
        f'<text x="{left + 6:.1f}" y="{y + 17}">{escape(_label(op))}</text></g>'
    )


def _arrows(
    cycle: list[Operation], steps: list[str], bars: dict[int, tuple[float, float]], rows: dict[object, int]
) -> list[str]:
    parts: list[str] = []
    for number, (step, one) in enumerate(zip(steps, cycle, strict=True)):
        other = cycle[(number + 1) % len(cycle)]
        if id(one) not in bars or id(other) not in bars:
            continue
        x1, x2 = sum(bars[id(one)]) / 2, sum(bars[id(other)]) / 2
        y1, y2 = (TOP_PX + rows[op.process] * ROW_PX for op in (one, other))
        y1, y2 = (y1 + BAR_PX, y2) if y1 < y2 else (y1, y2 + BAR_PX) if y1 > y2 else (y1 + BAR_PX, y2 + BAR_PX)
        bend = 22 if y1 == y2 else 0
        shift = 16 if number % 2 else -16
        x, y = (x1 + x2) / 2 + 2 * shift, (y1 + y2) / 2 + bend
        at = 0.35 * x1 + 0.15 * x2 + 0.5 * x, 0.35 * y1 + 0.15 * y2 + 0.5 * y  # Nearer to where it begins.
        parts += [
            f'<path class="a" marker-end="url(#m)" d="M{x1 + shift:.1f} {y1} Q{x:.1f} {y:.1f} {x2 + shift:.1f} {y2}"/>',
            f'<text class="s" x="{at[0]:.1f}" y="{at[1]:.1f}">{escape(step)}</text>',
        ]
    return parts
