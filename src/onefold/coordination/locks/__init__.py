"""Locks: at most one live holder per name, and every holder is numbered. See README.md."""

from onefold.coordination.locks.client import Hold, hold
from onefold.coordination.locks.ops import (
    NAME_LENGTH_MAX,
    Lock,
    acquire,
    acquire_all,
    check,
    force_release,
    list_locks,
    lock_of,
    release,
    renew,
    sweep,
    try_acquire,
)

__all__ = [
    "NAME_LENGTH_MAX", "Hold", "Lock", "acquire", "acquire_all", "check", "force_release", "hold", "list_locks",
    "lock_of", "release", "renew", "sweep", "try_acquire",
]  # fmt: skip
