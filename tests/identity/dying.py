"""Processes that do one thing and are killed with -9 at a commit point of it.

A driver without any database open forks a process for each death: it connects, does the thing, and dies where it is told.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

HERE = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

#: Before COMMIT leaves; when it has left, and nobody heard what came of it; and when it is done, and nobody was told.
Point = Literal["before", "sent", "after"]
POINTS: dict[str, tuple[Point, ...]] = {"sqlite": ("before", "after"), "postgres": ("before", "sent", "after")}

DRIVER = """
import json, os, signal, sys, time
sys.path[:0] = sys.argv[1:]
import onefold, visiting
from onefold.engine.postgres.tx import PostgresTx
from onefold.engine.postgres.wire import Wire
from onefold.engine.sqlite.batches import Batches

def die():
    os.write(told, b"%d" % time.monotonic_ns())
    os.kill(os.getpid(), signal.SIGKILL)

def sent(wire):
    wire._end_pipeline()
    assert not wire._pg.flush(), "not all of it has left"
    die()

def ends(commit, point):
    def at_commit(self, *given):
        if point == "before":
            die()
        if point == "sent":
            Wire._exchange = sent
        commit(self, *given)
        die()
    return at_commit

def lives(url, name, given, point, apart):
    with onefold.connect(url) as db:
        Batches._commit, PostgresTx.commit = ends(Batches._commit, point), ends(PostgresTx.commit, point)
        late = []
        if apart:
            written, visiting.written = visiting.written, lambda tx, *entry: late.append(entry)
        db.options(isolation="read_committed" if name in visiting.BLOCKS else "serializable").run(
            visiting.BLOCKS[name].sweep if name in visiting.BLOCKS else getattr(visiting, name), *given)
        db.run(lambda tx: [written(tx, *entry) for entry in late])

for line in sys.stdin:
    read, told = os.pipe()
    pid = os.fork()
    if not pid:
        lives(*json.loads(line))
        os._exit(0)
    os.close(told)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    print(json.dumps([code, int(os.read(read, 100) or 0)]), flush=True)
    os.close(read)
"""


class Driver:
    """Who forks them."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, *HERE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def kill(self, url: str, point: Point, name: str, *given: Any, apart: bool = False) -> int:
        """Do what `visiting` calls so and die there; answers when that was, in ns of the monotonic clock.

        With `apart` a mistake is planted: the entry of an action is written in the next transaction.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([url, name, given, point, apart]) + "\n")
        self._process.stdin.flush()
        code, died_ns = json.loads(self._process.stdout.readline())
        assert code == -9, "it did not come to its commit"
        return died_ns

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, _type: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None) -> None:
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()
