"""Whether everybody can read the pages: the contrast of each text to what it stands on, computed from the style sheet (WCAG 2.2 AA)."""

from __future__ import annotations

import re

import pytest

from onefold.server.dashboard.frame import ASSETS

CSS = ASSETS["style.css"][1].decode()
TEXT, CONTROL = 4.5, 3.0  # WCAG 1.4.3 and 1.4.11.
TEXTS = [
    ("ink", "page"), ("ink", "card"), ("ink", "good-back"), ("ink", "bad-back"), ("soft", "page"), ("soft", "card"), ("soft", "good-back"),
    ("link", "page"), ("link", "card"), ("link", "good-back"), ("link", "bad-back"), ("good", "good-back"), ("bad", "bad-back"), ("bad", "card"),
    ("warn", "warn-back"), ("on-fill", "fill"), ("on-fill", "bad"),
]  # fmt: skip
CONTROLS = [("edge", "card"), ("edge", "page"), ("fill", "card"), ("fill", "page"), ("bad", "card")]


def schemes() -> dict[str, dict[str, str]]:
    """The variables of both colour schemes; the dark one overrides."""
    light, dark = (dict(re.findall(r"--([a-z-]+):#([0-9a-f]+)", block)) for block in re.findall(r":root\{([^}]*)\}", CSS))
    return {"light": light, "dark": light | dark}


def luminance(colour: str) -> float:
    full = "".join(digit * 2 for digit in colour) if len(colour) == 3 else colour
    channels = (int(full[place : place + 2], 16) / 255 for place in (0, 2, 4))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    darker, brighter = sorted((luminance(one), luminance(other)))
    return (brighter + 0.05) / (darker + 0.05)


def test_contrast_is_computed_as_the_standard_says() -> None:
    assert contrast("000", "ffffff") == pytest.approx(21)
    assert contrast("767676", "fff") == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read_and_every_control_be_seen(scheme: str) -> None:
    colours = schemes()[scheme]
    assert {name for pair in TEXTS + CONTROLS for name in pair} <= set(colours)
    poor = [
        (front, back, round(contrast(colours[front], colours[back]), 2))
        for pairs, least in ((TEXTS, TEXT), (CONTROLS, CONTROL))
        for front, back in pairs
        if contrast(colours[front], colours[back]) < least
    ]
    assert poor == []


def test_no_colour_stands_beside_the_variables() -> None:
    rules = re.sub(r":root\{[^}]*\}", "", CSS)
    assert re.findall(r"(?:color|background|border|fill|stroke)[a-z-]*:[^;}]*#[0-9a-f]{3,6}", rules) == []
