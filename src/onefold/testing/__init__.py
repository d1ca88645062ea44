"""Help for tests, ours and yours: real servers that start in a moment and leave nothing behind."""

from onefold.testing.checkers import (
    History as History,
    Verdict as Verdict,
    check as check,
    check_bank as check_bank,
    check_linearizable as check_linearizable,
    check_list_append as check_list_append,
    check_long_fork as check_long_fork,
    check_rw_register as check_rw_register,
    check_sessions as check_sessions,
    check_set_full as check_set_full,
    read_history as read_history,
)
