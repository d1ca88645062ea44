"""A process that does one thing over and over, says so, and is killed with -9 at a place of its own."""

from __future__ import annotations

import signal
import subprocess
import sys

PROGRAM = """
import os, signal, sys
import onefold

def do(tx, number):
{body}

with onefold.connect(sys.argv[1]) as db:
    for number in range(20):
        db.run(do, number)
        os.write(1, b"%d\\n" % number)
    db.run(lambda tx: (do(tx, 99), os.kill(os.getpid(), signal.SIGKILL)))
"""


def acknowledged(url: str, body: str) -> list[int]:
    """Run it to its death inside its last transaction; which numbers were committed, by its own words."""
    indented = "\n".join("    " + line for line in body.strip().splitlines())
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(body=indented), url], stdout=subprocess.PIPE, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGKILL
    return [int(line) for line in done.stdout.split()]
