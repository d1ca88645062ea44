"""Room in the write-ahead log: commits that overwrite bytes, instead of making the file longer.

Bringing a file to the disk that became longer costs two waits, one for its bytes and one for its length;
overwriting costs one (measured: 257 against 125 us). SQLite makes the log longer with every commit until its
first write-back, 32 MiB later, and anew in every process that opens an idle file. So whoever writes appends
zeros, a megabyte at a time: SQLite reads the log up to the first frame whose checksum is wrong, and zeros are
no frame.
"""

from __future__ import annotations

import os
from pathlib import Path

from onefold.engine.sqlite.connection import WAL_BYTES_KEPT, wal_of
from onefold.host.files import append_zeros

STEP_BYTES = 1 << 20  # Some milliseconds of one commit, for about 250 pages whose commits save a tenth of one each.
GROWTH_BYTES_MAX = 8 << 12  # A larger commit waits for its bytes: twice as many cost it more than they save.


class Room:
    """What the one connection that writes knows of its log's length."""

    def __init__(self, path: Path) -> None:
        self._wal = wal_of(path)
        self._end: int | None = None  # None: not looked yet. Who commits once needs no room.

    def make(self) -> None:
        """Append room if the last commits used it up.

        Called where this process has SQLite's lock for writing and has written nothing yet: nobody else may
        write to the log or cut it then.
        """
        try:
            size = os.stat(self._wal).st_size  # noqa: PTH116  Path.stat costs twice as much, and this is every commit.
            if self._end is not None and self._end < size < min(WAL_BYTES_KEPT, self._end + GROWTH_BYTES_MAX):
                append_zeros(self._wal, size, STEP_BYTES)
                size += STEP_BYTES
        except OSError:  # There is no log yet, or no space: then commits are slower, or fail and say so.
            return
        self._end = size
