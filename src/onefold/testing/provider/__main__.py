"""`python -m onefold.testing.provider --file FILE`: a payment provider that fails as you tell it to.

Prints its URL, and ends when its standard input does: with whoever started it.
"""

from __future__ import annotations

import argparse
import sys
import threading
from pathlib import Path

from onefold.testing.provider import SECRET, TOKEN
from onefold.testing.provider.server import FakeServer


def main() -> int:
    """Serve on loopback until standard input ends."""
    parser = argparse.ArgumentParser(prog="onefold.testing.provider", description="A payment provider that fails.")
    parser.add_argument("--file", type=Path, required=True, help="its record, an SQLite database")
    parser.add_argument("--port", type=int, default=0, help="on loopback; 0 takes a free one")
    options = parser.parse_args()
    server = FakeServer(options.port, options.file, token=TOKEN, secret=SECRET)
    threading.Thread(target=server.serve_forever, name="fake-provider", daemon=True).start()
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    sys.stdin.read()
    server.shutdown()
    server.record.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
