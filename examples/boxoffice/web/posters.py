"""Posters: one motif for each genre, bent by the title, so that fifty shows have fifty pictures."""

from __future__ import annotations

from functools import cache
from math import cos, pi, sin
from zlib import crc32

from examples.boxoffice.catalogue import Work
from examples.boxoffice.web.markup import Markup

_SIZE = 200
#: Ground, figure, accent. They are pictures: the same by day and by night.
_INKS = (
    ("#5b1420", "#d9a441", "#f4e3c1"), ("#17324d", "#e07a4f", "#f2d7a6"), ("#233d2c", "#d8b25c", "#efe6d0"),
    ("#3a2350", "#d98ba5", "#f3e2d3"), ("#12393d", "#e9b44c", "#f5ead2"), ("#6b2c16", "#f0c987", "#2a1a1f"),
    ("#1f2433", "#c94f4f", "#ead9bd"), ("#4a3b12", "#e3c16f", "#fbf1d6"), ("#701f3d", "#f0b79a", "#2b1230"),
)  # fmt: skip


class _Dice:
    """Numbers that depend on the title alone."""

    def __init__(self, text: str) -> None:
        self._state = crc32(text.encode()) or 1

    def below(self, most: int) -> int:
        self._state = (self._state * 1_103_515_245 + 12_345) & 0x7FFF_FFFF
        return (self._state >> 8) % most


@cache
def poster(work: Work) -> Markup:
    """The picture of a work, square."""
    dice = _Dice(work.title + work.by)
    ground, figure, accent = _INKS[dice.below(len(_INKS))]
    draw = {"Tragedy": _tragedy, "Comedy": _comedy, "Drama": _drama, "Opera": _opera, "Operetta": _operetta}[work.genre]
    return Markup(
        f'<svg class="poster" viewBox="0 0 {_SIZE} {_SIZE}" aria-hidden="true" preserveAspectRatio="xMidYMid slice">'
        f'<rect width="{_SIZE}" height="{_SIZE}" fill="{ground}"/>{draw(dice, figure, accent)}</svg>'
    )


def _tragedy(dice: _Dice, figure: str, accent: str) -> str:
    """A low sun, cut by blades."""
    x, y, radius = 60 + dice.below(80), 92 + dice.below(24), 38 + dice.below(20)
    blades = []
    for number in range(4 + dice.below(4)):
        foot, lean = 18 + number * (150 // 6) + dice.below(14), dice.below(60) - 30
        blades.append(f'<path d="M{foot} 200 L{foot + lean} {22 + dice.below(70)} L{foot + 9} 200 Z"/>')
    return (
        f'<circle cx="{x}" cy="{y}" r="{radius}" fill="{figure}"/>'
        f'<g fill="{accent}" opacity=".92">{"".join(blades)}</g>'
    )


def _comedy(dice: _Dice, figure: str, accent: str) -> str:
    """Harlequin's diamonds, some of them lost."""
    columns = 4 + dice.below(3)
    wide, tall = _SIZE / columns, _SIZE / columns * 1.5
    cells = []
    for row in range(-1, int(_SIZE / tall * 2) + 1):
        for column in range(-1, columns + 1):
            roll = dice.below(10)
            if roll < 3:
                continue
            x, y = column * wide + (wide / 2 if row % 2 else 0), row * tall / 2
            ink = accent if roll > 7 else figure
            cells.append(
                f'<path fill="{ink}" d="M{x + wide / 2:.0f} {y:.0f} L{x + wide:.0f} {y + tall / 2:.0f}'
                f' L{x + wide / 2:.0f} {y + tall:.0f} L{x:.0f} {y + tall / 2:.0f} Z"/>'
            )
    return "".join(cells)


def _drama(dice: _Dice, figure: str, accent: str) -> str:
    """A lit door in a dark house, and its light on the floor."""
    x, wide, tall = 40 + dice.below(70), 34 + dice.below(26), 78 + dice.below(40)
    top, floor = 160 - tall, 160
    reach = dice.below(100) - 50
    return (
        f'<path d="M0 {floor} H200" stroke="{figure}" stroke-width="2" opacity=".6"/>'
        f'<path d="M{x} {floor} h{wide} L{x + wide + 50 + reach} 200 H{x - 20 + reach} Z" fill="{accent}"'
        ' opacity=".35"/>'
        f'<rect x="{x}" y="{top}" width="{wide}" height="{tall}" fill="{accent}"/>'
        f'<path d="M{x + wide} {top} l{20 + dice.below(16)} -12 V{floor + 14} L{x + wide} {floor} Z" fill="{figure}"/>'
    )


def _opera(dice: _Dice, figure: str, accent: str) -> str:
    """Sound: rings around a singer who is not seen."""
    x, y = 30 + dice.below(140), 60 + dice.below(110)
    step = 13 + dice.below(7)
    rings = "".join(
        f'<circle cx="{x}" cy="{y}" r="{step * number}" stroke-width="{1 + dice.below(6)}"'
        f' opacity="{1 - number * 0.07:.2f}"/>'
        for number in range(2, 12)
    )
    return f'<g fill="none" stroke="{figure}">{rings}</g><circle cx="{x}" cy="{y}" r="{step}" fill="{accent}"/>'


def _operetta(dice: _Dice, figure: str, accent: str) -> str:
    """A fan, opened."""
    ribs = 9 + dice.below(5)
    cells = []
    for number in range(ribs):
        one, two = pi * (1 + number / ribs), pi * (1 + (number + 1) / ribs)
        ink = accent if number % 2 else figure
        cells.append(
            f'<path fill="{ink}" d="M100 170 L{100 + 130 * cos(one):.0f} {170 + 130 * sin(one):.0f}'
            f' L{100 + 130 * cos(two):.0f} {170 + 130 * sin(two):.0f} Z"/>'
        )
    return "".join(cells)
