"""What files need that the standard library does not give in one step."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def sync_file(path: Path) -> None:
    """Bring what was written to `path` to the disk. A file that does not exist has nothing to sync.

    Raises:
        OSError: the disk refused; what it holds now is not known.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if sys.platform == "darwin":
            import fcntl

            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
        else:
            os.fdatasync(descriptor)
    finally:
        os.close(descriptor)
