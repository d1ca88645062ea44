"""Durability "everysec": commits do not wait for the disk, a timer brings the WAL there each second."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from onefold.core.errors import Retry
from onefold.engine.sqlite.connection import wal_of
from onefold.host.files import sync_file

_log = logging.getLogger("onefold.everysec")

PERIOD_S = 1.0


class EverySecond:
    """What a machine's death may cost is what was committed since the last tick."""

    def __init__(self, path: Path, *, suspect: Callable[[], bool], mend: Callable[[], None]) -> None:
        """Wait for the first commit.

        Args:
            path: the database.
            suspect: whether a sync of the WAL failed, whoever asked for it, and it was not mended since.
            mend: writes the WAL again; raises Retry, and leaves it suspect, when that cannot be done yet.
        """
        self._wal = wal_of(path)
        self._suspect = suspect
        self._mend = mend
        self._stop = threading.Event()
        self._dirty = False
        self._thread: threading.Thread | None = None

    def unsynced(self) -> None:
        """A commit did not wait for the disk; the writer's owner says so, one at a time.

        Raises:
            OSError: there was no thread to be had, and the disk that was waited for instead refused.
        """
        self._dirty = True
        if self._thread is None:
            thread = threading.Thread(target=self._loop, name="onefold-everysec", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # There is no thread to be had: the commit waits for the disk after all.
                sync_file(self._wal)
                return
            self._thread = thread

    def close(self) -> None:
        """Sync once more and stop."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _loop(self) -> None:
        last = False
        while not last:
            last = self._stop.wait(PERIOD_S)
            if not self._dirty:
                continue
            self._dirty = False
            try:
                self._tick()
            except (OSError, Retry):
                self._dirty = True
                _log.exception("the WAL could not be synced; what was committed since may be lost with the machine")

    def _tick(self) -> None:
        if not self._suspect():  # Else a sync would answer well without having done it.
            try:
                sync_file(self._wal)
            except OSError:
                _log.exception("a sync of the WAL failed")
            else:
                return
        self._mend()
