"""What happens to the audit trail outside of any caller's transaction: old entries are swept."""

from __future__ import annotations

from onefold.core.loop import Loop
from onefold.identity.audit.ops import sweep

LOOPS = (Loop("audit.sweeper", sweep, every_ms=3_600_000),)
