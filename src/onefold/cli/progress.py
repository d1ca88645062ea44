"""How far long work has come: one line on a terminal that goes away again, and nothing elsewhere."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Self

EVERY_S = 0.1  # Between two drawings.


class Progress:
    """`with Progress(options) as tell:`, then `tell("copying", done, total)`; a total of 0 is not known."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._shows = sys.stderr.isatty() and not options.json
        self._next = 0.0
        self._what = ""  # What was drawn last; "" for nothing.

    def __call__(self, what: str, done: int, total: int) -> None:
        """Draw it, unless the same was drawn a moment ago."""
        now = time.monotonic()
        if not self._shows or (what == self._what and now < self._next):
            return
        self._next, self._what = now + EVERY_S, what
        share = f"{100 * done // total:3d} %" if total else f"{done:,}" if done else "..."
        print(f"\r\x1b[K{what} {share}", end="", file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """Wipe the line: what is said after it stands alone."""
        if self._what:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
