"""What runs between transactions: the loop that tidies lapsed holds."""

from __future__ import annotations

from onefold.core.loop import Loop
from onefold.products.booking.tidy import tidy_lapsed

# Rarer: lapsed seats show as held on idle pages for longer. More often: more scans of live holds.
LOOPS = (Loop("booking.tidy", tidy_lapsed, every_ms=2_000),)
