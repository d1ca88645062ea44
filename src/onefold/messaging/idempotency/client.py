"""What runs beside the transactions: the sweep of expired keys."""

from __future__ import annotations

from onefold.core.loop import Loop
from onefold.messaging.idempotency import ops

# Rarer: expired keys take room longer. More often: more small transactions for nothing.
LOOPS = (Loop("idempotency.sweep", ops.sweep, every_ms=60_000),)
