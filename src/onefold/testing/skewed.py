"""A Python program whose wall clock is wrong: `python -m onefold.testing.skewed MS MODULE [ARGUMENT...]`.

`time.time` and `time.time_ns` are replaced before MODULE is imported, and MODULE is run as `python -m` would. All else
keeps the right time: `datetime.now`, the clock that counts from boot, other programs that it starts.
"""

from __future__ import annotations

import runpy
import sys
import time

SKEW_MS_MAX = 86_400_000
USAGE = "usage: python -m onefold.testing.skewed MS MODULE [ARGUMENT...]; MS is -86400000 to 86400000"


def main(arguments: list[str]) -> None:
    """Run the module; SystemExit with the usage when the arguments are not those."""
    try:
        skew_ms = int(arguments[0])
        module = arguments[1]
    except (IndexError, ValueError):
        sys.exit(USAGE)
    if abs(skew_ms) > SKEW_MS_MAX:
        sys.exit(USAGE)
    right_ns = time.time_ns
    time.time_ns = lambda: right_ns() + skew_ms * 1_000_000
    time.time = lambda: time.time_ns() / 1e9
    sys.argv = arguments[1:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
