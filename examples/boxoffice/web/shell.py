"""What every page has: head, top, foot; and how times look."""

from __future__ import annotations

import zlib
from functools import cache
from pathlib import Path
from typing import Literal

from examples.boxoffice import hall
from examples.boxoffice.season import when
from examples.boxoffice.web.markup import Markup, h

STATIC = Path(__file__).parent / "static"
Place = Literal["season", "orders", ""]

_NOTHING = Markup()
_MARK = Markup(
    '<svg viewBox="0 0 26 26" aria-hidden="true"><path d="M2 22V4c6 0 8 5 8 9 0-4-1-9 3-9s3 5 3 9c0-4 2-9 8-9v18"'
    ' fill="none" stroke="currentColor" stroke-width="2.2" stroke-linejoin="round"/></svg>'
)


@cache
def asset(name: str) -> tuple[bytes, str]:
    """The file and a path to it that changes with its content."""
    content = (STATIC / name).read_bytes()
    return content, f"/static/{zlib.crc32(content):08x}/{name}"


def page(title: str, body: Markup, *, place: Place = "", head: Markup = _NOTHING) -> Markup:
    """A whole page; `head` is for what belongs there besides."""
    current = Markup(' aria-current="page"')
    return h(
        """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} \N{MIDDLE DOT} {house}</title><meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,"><link rel="stylesheet" href="{css}"><script src="{js}" defer></script>{head}</head>
<body><a class="skip" href="#main">Skip to content</a>
<header class="top noprint"><div class="wrap"><a class="wordmark" href="/">{mark}{house}</a>
<nav aria-label="Main"><a href="/"{season}>Season</a><a href="/orders"{orders}>Orders &amp; wallet</a></nav>
</div></header>
<main id="main" class="wrap">{body}</main>
<footer><div class="wrap">A demonstration with play money. Every purchase is one transaction: seats, payment, order,
event, receipt and webhook commit together.</div></footer></body></html>""",
        title=title, house=hall.NAME, css=asset("shop.css")[1], js=asset("shop.js")[1], mark=_MARK, body=body,
        head=head, season=current if place == "season" else "", orders=current if place == "orders" else "",
    )  # fmt: skip


def message(title: str, text: str) -> Markup:
    """A page that only says something."""
    return page(
        title,
        h('<h1>{}</h1><p class="lead">{}</p><p><a class="button" href="/">To the season</a></p>', title, text),
    )


def notice(text: str, *, good: bool = False) -> Markup:
    """Something to know, on top of a page; nothing for an empty text."""
    if not text:
        return Markup()
    return h('<p class="notice{}" role="status">{}</p>', " good" if good else "", text)


def day_and_time(at_ms: int) -> str:
    """A moment as on a ticket: "Fri 27 November, 19:30"."""
    moment = when(at_ms)
    return f"{moment:%a} {moment.day} {moment:%B, %H:%M}"


def clock_time(at_ms: int) -> str:
    """The time of day: "19:30:05"."""
    return f"{when(at_ms):%H:%M:%S}"


def seats_text(count: int) -> str:
    """How many seats, in words that agree: "1 seat", "2 seats"."""
    return f"{count} seat{'' if count == 1 else 's'}"
