"""Names whoever keeps everybody waiting: a function that holds the writer, a process at the gate."""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback

from onefold.engine.call import name_of
from onefold.engine.sqlite.readers import Readers
from onefold.engine.sqlite.writer import Writer

_log = logging.getLogger("onefold.watchdog")

TICK_S = 0.1
HOLDS_WRITER_NS = 250_000_000
FRAMES = 4  # Of the function that holds it.
CLOSE_S = 2.0


class Watchdog:
    """A thread that looks ten times a second, fails what is late, and speaks once per offender."""

    def __init__(self, writer: Writer, readers: Readers) -> None:
        self._writer = writer
        self._readers = readers
        self._stop = threading.Event()
        self._named: object = None
        self._thread = threading.Thread(target=self._loop, name="onefold-watchdog", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop looking."""
        self._stop.set()
        self._thread.join(CLOSE_S)

    def _loop(self) -> None:
        while not self._stop.wait(TICK_S):
            try:
                self._look()
            except Exception:  # Deadlines hang on this thread.
                _log.exception("the watchdog stumbled")

    def _look(self) -> None:
        now = time.monotonic_ns()
        self._writer.expire(now)
        self._writer.nudge()
        self._readers.expire(now)
        current = self._writer.batches.current
        if current is None or now - current[2] < HOLDS_WRITER_NS or current is self._named:
            return
        self._named = current
        call, thread, since = current
        frame = sys._current_frames().get(thread)
        where = "".join(traceback.format_stack(frame, limit=FRAMES)) if frame else ""
        _log.warning(
            "%s holds the writer for %d ms; every other call waits. A function over tx does no I/O and no long "
            "computing.\n%s", name_of(call.fn), (now - since) // 1_000_000, where,
        )
