"""`python -m benches [NAME ...] [--tiny] [--no-write] [--minutes N] [--json]`: run benches, print and keep their tables."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from pathlib import Path

from benches import harness

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Every bench by the name of its module, groups as folders: "engine/redis"."""
    return sorted(
        str(path.relative_to(FOLDER).with_suffix(""))
        for path in FOLDER.rglob("*.py")
        if not path.stem.startswith("_") and path.stem not in {"harness", "past", "peers"}
    )


def main() -> int:
    """Run the named benches, or all; 1 when a bar was missed."""
    parser = argparse.ArgumentParser(prog="benches")
    parser.add_argument("names", nargs="*", help="benches; none means all")
    parser.add_argument("--tiny", action="store_true", help="only prove that they run; nothing is written")
    parser.add_argument("--no-write", action="store_true", help="print, but leave the pages alone")
    parser.add_argument("--minutes", type=float, help="how long messaging/held works on each side")
    parser.add_argument("--json", action="store_true", help="print each table as a line of JSON; the rest goes to stderr")
    parser.add_argument("--list", action="store_true")
    arguments = parser.parse_args()
    if arguments.list:
        print(json.dumps(names()) if arguments.json else "\n".join(names()))
        return 0
    said = sys.stderr if arguments.json else sys.stdout
    size = harness.TINY if arguments.tiny else harness.REAL
    missed = 0
    for name in arguments.names or names():
        module = importlib.import_module("benches." + name.replace("/", "."))
        started = time.monotonic()
        print(f"== {name}", file=said, flush=True)
        try:
            timed = {"minutes": arguments.minutes} if arguments.minutes and name == "messaging/held" else {}
            tables = module.run(size, **timed)
        except harness.MissingPeer as missing:
            print(f"skipped: {missing}", file=said)
            continue
        for table in tables:
            print(json.dumps({"bench": name, **table.facts()}) if arguments.json else table.markdown(), flush=True)
            missed += table.missed
        print(f"({time.monotonic() - started:.0f} s)\n", file=said, flush=True)
        if size is harness.REAL and not arguments.no_write:
            harness.write(harness.ROOT / module.PAGE, module.NAME, tables, f"python -m benches {name}" + "".join(f" --{option} {value:g}" for option, value in timed.items()))
    if missed and not arguments.tiny:
        print(f"{missed} bars missed", file=said)
    return 1 if missed and not arguments.tiny else 0


if __name__ == "__main__":
    sys.exit(main())
