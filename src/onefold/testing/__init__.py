"""Help for tests, ours and yours: real servers that start in a moment, and checkers of recorded histories."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onefold.testing.checkers import (
        History,
        Verdict,
        check,
        check_bank,
        check_comments,
        check_linearizable,
        check_list_append,
        check_long_fork,
        check_rw_register,
        check_sequential,
        check_sessions,
        check_set_full,
        check_total_queue,
        check_unique_ids,
        read_history,
    )

__all__ = [
    "History",
    "Verdict",
    "check",
    "check_bank",
    "check_comments",
    "check_linearizable",
    "check_list_append",
    "check_long_fork",
    "check_rw_register",
    "check_sequential",
    "check_sessions",
    "check_set_full",
    "check_total_queue",
    "check_unique_ids",
    "read_history",
]


def __getattr__(name: str) -> Any:
    # The checkers come when somebody asks for one: the pytest plugin beside them is in every run of pytest.
    if name in __all__:
        return getattr(importlib.import_module("onefold.testing.checkers"), name)
    raise AttributeError(f"module 'onefold.testing' has no attribute {name!r}")
