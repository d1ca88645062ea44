"""Ends what a process has started, and removes its folder, when that process dies, however it dies."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Self

END_S = 30.0

# Runs as a process of its own; its stdin ends when the process that made it does.
_PROGRAM = """
import os, shutil, signal, sys, time
alive = set()
for line in sys.stdin:
    pid = int(line)
    alive.add(pid) if pid > 0 else alive.discard(-pid)
for pid in alive:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
for _ in range(100):  # Who dies may write one more file meanwhile.
    shutil.rmtree(sys.argv[1], ignore_errors=True)
    if not os.path.exists(sys.argv[1]):
        break
    time.sleep(0.05)
"""


class Watchdog:
    """Watches processes, each at the head of a group of its own, and a folder."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(  # noqa: S603  This interpreter.
            [sys.executable, "-I", "-S", "-c", _PROGRAM, str(folder)], bufsize=0, start_new_session=True, cwd="/",
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def watch(self, pid: int) -> None:
        """Kill -9 its group, if this process dies first."""
        assert self._process.stdin is not None
        os.write(self._process.stdin.fileno(), b"%d\n" % pid)  # At once, whichever thread starts it.

    def forget(self, pid: int) -> None:
        """It has ended, and another process may get its number."""
        self.watch(-pid)

    def __enter__(self) -> Self:
        """Nothing more: it watches already."""
        return self

    def __exit__(self, *_: object) -> None:
        """End; what is still watched ends too."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(END_S)
