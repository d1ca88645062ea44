"""What runs between transactions: the tidying of reservations past their time."""

from __future__ import annotations

from onefold.core.loop import Loop
from onefold.products.ledger.tidy import tidy

# Rarer means more rows to sum when a balance is read; nothing else depends on it.
LOOPS = (Loop("ledger.tidy", tidy, every_ms=60_000),)
