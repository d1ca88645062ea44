"""A line in the log for each transaction, where somebody asked for them."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Generator

from onefold.engine.call import Call, code_of, name_of

COMMITTED = "committed"
READ = "read"

#: Says nothing unless its level is DEBUG: a line for each transaction is more than most want.
transactions = logging.getLogger("onefold.transaction")
transactions.setLevel(logging.WARNING)


@contextlib.contextmanager
def told(call: Call) -> Generator[None]:
    """Log the call's function, its outcome (committed, read, or the code of its error) and its time, in the caller."""
    began_ns = time.monotonic_ns()
    outcome = READ if call.options.read_only else COMMITTED
    try:
        yield
    except BaseException as error:
        outcome = code_of(error)
        raise
    finally:
        took_ms = round((time.monotonic_ns() - began_ns) / 1e6, 2)
        transactions.debug(name_of(call.fn), extra={"outcome": outcome, "ms": took_ms})
