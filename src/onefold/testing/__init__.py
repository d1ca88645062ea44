"""Help for tests, ours and yours: real servers that start in a moment, and checkers of recorded histories."""

from onefold.testing.checkers import (
    History,
    Verdict,
    check,
    check_bank,
    check_linearizable,
    check_list_append,
    check_long_fork,
    check_rw_register,
    check_sessions,
    check_set_full,
    read_history,
)

__all__ = [
    "History",
    "Verdict",
    "check",
    "check_bank",
    "check_linearizable",
    "check_list_append",
    "check_long_fork",
    "check_rw_register",
    "check_sessions",
    "check_set_full",
    "read_history",
]
