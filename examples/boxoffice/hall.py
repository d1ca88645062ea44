"""The hall: 2,000 seats on arcs around the stage, in nine sections; its plan, and its prices.

A physical row ends at an aisle, so that adjacent numbers are adjacent chairs. Coordinates are
those of the plan (`WIDTH` x `HEIGHT`, the stage on top); one unit is about three centimetres.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import cos, hypot, radians, sin

from onefold import Money, booking

NAME = "The Onefold Theatre"
CURRENCY = "EUR"
SEATS = 2_000
WIDTH, HEIGHT = 1360, 1170
CM_PER_UNIT = 55 / 19.26
FOCUS = (680, 330)  # Where the sound is best: the seventh row of the stalls.

_CENTRE = (680, -336)
_PITCH = 19.26
_ROW_STEP = 21
_LETTERS = "ABCDEFGHJKLMNPQRSTUV"  # No I and no O: ushers read them as 1 and 0.
_SHARE = {"left": 0.29, "centre": 0.42, "right": 0.29}


@dataclass(frozen=True, slots=True)
class Tier:
    """One level of the hall: rows, the radius of the first, half its angle in degrees, half an aisle's width."""

    name: str
    rows: int
    radius: int
    half: float
    aisle: int


TIERS = (Tier("Stalls", 20, 560, 34, 34), Tier("Circle", 10, 1040, 31, 30), Tier("Balcony", 9, 1310, 27, 30))

#: Minor units of one seat at a play. An orchestra costs a quarter more.
PRICES = {
    "Stalls centre": 9_600, "Stalls side": 7_200, "Circle centre": 6_800, "Circle side": 5_200,
    "Balcony centre": 3_200, "Balcony side": 2_000,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Bench:
    """One physical row: what it is called, what its seats cost by, and where they are."""

    section: str
    label: str
    category: str
    seats: tuple[tuple[float, float], ...]

    @property
    def name(self) -> str:
        """As on a ticket: "Stalls left, row C"."""
        return f"{self.section}, row {self.label}"


@cache
def benches() -> dict[tuple[str, str], Bench]:
    """All rows by section and label, section after section, front to back."""
    found: dict[tuple[str, str], Bench] = {}
    for tier in TIERS:
        for side in _SHARE:
            section = f"{tier.name} {side}"
            category = f"{tier.name} {'centre' if side == 'centre' else 'side'}"
            for index in range(tier.rows):
                label = _LETTERS[index]
                found[section, label] = Bench(section, label, category, _seats(tier, side, index))
    assert sum(len(bench.seats) for bench in found.values()) == SEATS
    return found


def sections() -> list[booking.Section]:
    """The hall as booking wants it, in the order of `benches`."""
    found: dict[str, list[Bench]] = {}
    for bench in benches().values():
        found.setdefault(bench.section, []).append(bench)
    return [
        booking.Section(name, tuple(_row(bench) for bench in rows), category=rows[0].category)
        for name, rows in found.items()
    ]


def focus_cm() -> tuple[int, int]:
    """The best place, in booking's centimetres."""
    return _cm(FOCUS[0]), _cm(FOCUS[1])


def prices(*, sung: bool) -> dict[str, Money]:
    """What one seat costs, by category."""
    return {category: Money(minor * 5 // 4 if sung else minor, CURRENCY) for category, minor in PRICES.items()}


def places(blocks: tuple[booking.Block, ...]) -> str:
    """Seats as people read them: "Stalls centre, row F, seats 7-9"."""
    return "; ".join(f"{block.section}, row {block.label}, {_numbers(block.seats)}" for block in blocks)


def _numbers(seats: tuple[int, ...]) -> str:
    if len(seats) == 1:
        return f"seat {seats[0]}"
    if seats[-1] - seats[0] == len(seats) - 1:
        return f"seats {seats[0]}\N{EN DASH}{seats[-1]}"
    return f"seats {', '.join(map(str, seats))}"


def _seats(tier: Tier, side: str, index: int) -> tuple[tuple[float, float], ...]:
    radius = tier.radius + index * _ROW_STEP
    arc = 2 * radius * radians(tier.half) - 2 * tier.aisle
    counts = {name: int(arc * share / _PITCH) for name, share in _SHARE.items()}
    count, middle = counts[side], counts["centre"]
    # Arc length from the middle of the hall to the middle of the block.
    offset = (middle + count) * _PITCH / 2 + tier.aisle
    shift = {"left": -offset, "centre": 0.0, "right": offset}[side]
    angles = [(shift + (seat - (count - 1) / 2) * _PITCH) / radius for seat in range(count)]
    return tuple(
        (round(_CENTRE[0] + radius * sin(angle), 1), round(_CENTRE[1] + radius * cos(angle), 1)) for angle in angles
    )


def _row(bench: Bench) -> booking.Row:
    """The arc as the straight row that booking measures with: from its first seat, at its mean depth."""
    first, last = bench.seats[0], bench.seats[-1]
    pitch = hypot(last[0] - first[0], last[1] - first[1]) / (len(bench.seats) - 1)
    return booking.Row(
        bench.label, len(bench.seats), x_cm=_cm(first[0]), pitch_cm=_cm(pitch),
        y_cm=_cm(sum(seat[1] for seat in bench.seats) / len(bench.seats)),
    )  # fmt: skip


def _cm(units: float) -> int:
    return round(units * CM_PER_UNIT)
