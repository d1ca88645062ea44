"""The audit trail: who did what to what, and why. See README.md."""

from __future__ import annotations

from onefold.identity.audit.client import LOOPS
from onefold.identity.audit.ops import ID_LENGTH_MAX, REASON_LENGTH_MAX, Record, get, list_entries, record

__all__ = ["ID_LENGTH_MAX", "LOOPS", "REASON_LENGTH_MAX", "Record", "get", "list_entries", "record"]
