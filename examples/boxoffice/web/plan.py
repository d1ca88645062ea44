"""The seat plan as SVG. A seat's state shows in its size and shape as well as in its colour."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, lru_cache

from examples.boxoffice import hall
from examples.boxoffice.web.markup import Markup, h, join

from onefold import booking

RADIUS = 8
_STATES = {"0": "", "1": ' class="held"', "2": ' class="sold"'}


def plan(rows: Mapping[int, booking.RowMap], *, mine: Mapping[int, frozenset[int]], pick: bool) -> Markup:
    """Draw the hall.

    Args:
        rows: what every row looks like, by its number.
        mine: the viewer's own seats, by row.
        pick: whether seats may be chosen here; the page's script does the rest.
    """
    drawn = join(_row(row, mine.get(number, frozenset())) for number, row in sorted(rows.items()))
    return h(
        """<svg id="plan" class="plan" viewBox="-16 0 {} {}" role="group" aria-label="Seat plan, the stage on top"
        data-pick="{}">{}<g id="seats">{}</g></svg>""",
        hall.WIDTH + 32, hall.HEIGHT, int(pick), _scenery(), drawn,
    )  # fmt: skip


def _row(row: booking.RowMap, mine: frozenset[int]) -> Markup:
    opening, circles = _drawn(row.row, row.section, row.label)
    seats = [
        circle % (' class="mine"' if seat in mine else _STATES[row.seats[seat - 1]])
        for seat, circle in enumerate(circles, start=1)
    ]
    return Markup(f"{opening}{''.join(seats)}</g>")


@lru_cache(maxsize=1_000)
def _drawn(number: int, section: str, label: str) -> tuple[str, tuple[str, ...]]:
    bench = hall.benches()[section, label]
    kind = bench.category.lower().replace(" ", "-")
    opening = h('<g class="{}" data-row="{}" data-name="{}">', kind, number, bench.name)
    return opening, tuple(f'<circle cx="{x:g}" cy="{y:g}" r="{RADIUS}"%s/>' for x, y in bench.seats)


@cache
def _scenery() -> Markup:
    """The stage, what the levels are called, and the letters of the rows."""
    labels = [
        h('<text class="row-label" x="{}" y="{}">{}</text>', _beside(bench)[0], _beside(bench)[1], bench.label)
        for bench in hall.benches().values()
        if bench.section.endswith("left")
    ]
    levels = [
        h('<text class="level" x="{}" y="{}">{}</text>', hall.WIDTH // 2, y, name)
        for name, y in (("Stalls", 205), ("Circle", 688), ("Balcony", 958))
    ]
    middle = hall.WIDTH // 2
    stage = h(
        """<path class="stage" d="M{} 40 H{} L{} 128 Q{} 182 {} 128 Z"/>
<text class="stage-label" x="{}" y="100">Stage</text>""",
        middle - 300, middle + 300, middle + 360, middle, middle - 360, middle,
    )
    return join([stage, *levels, *labels])


def _beside(bench: hall.Bench) -> tuple[float, float]:
    """Where the row's letter stands: a step further out than its first seat."""
    (x, y), (next_x, next_y) = bench.seats[0], bench.seats[1]
    return round(x - (next_x - x) * 1.1, 1), round(y - (next_y - y) * 1.1 + 5, 1)
