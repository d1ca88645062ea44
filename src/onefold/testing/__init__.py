"""Help for tests, ours and yours: real servers that start in a moment and leave nothing behind."""

from onefold.testing.checkers import (
    History as History,
)
from onefold.testing.checkers import (
    Verdict as Verdict,
)
from onefold.testing.checkers import (
    check as check,
)
from onefold.testing.checkers import (
    check_bank as check_bank,
)
from onefold.testing.checkers import (
    check_linearizable as check_linearizable,
)
from onefold.testing.checkers import (
    check_list_append as check_list_append,
)
from onefold.testing.checkers import (
    check_long_fork as check_long_fork,
)
from onefold.testing.checkers import (
    check_rw_register as check_rw_register,
)
from onefold.testing.checkers import (
    check_sessions as check_sessions,
)
from onefold.testing.checkers import (
    check_set_full as check_set_full,
)
from onefold.testing.checkers import (
    read_history as read_history,
)
