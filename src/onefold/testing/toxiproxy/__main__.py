"""`python -m onefold.testing.toxiproxy`: the proxy for programs in any language. Ends with Ctrl-C."""

from __future__ import annotations

import argparse
import contextlib
import signal
import threading
from types import FrameType

from onefold.testing.toxiproxy import Toxiproxy


def main() -> None:
    """Serve on loopback until told to end."""
    parser = argparse.ArgumentParser(prog="onefold.testing.toxiproxy", description="A TCP proxy that fails as told.")
    parser.add_argument("--port", type=int, default=8_474, help="of the HTTP API, on loopback; 0 takes a free one")
    parser.add_argument("--seed", type=int, default=0, help="of its dice")
    options = parser.parse_args()
    ended = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        ended.set()

    signal.signal(signal.SIGTERM, end)
    with Toxiproxy(port=options.port, seed=options.seed) as toxiproxy, contextlib.suppress(KeyboardInterrupt):
        print(toxiproxy.url, flush=True)
        ended.wait()


if __name__ == "__main__":
    main()
