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


def sync_folder(folder: Path) -> None:
    """Bring the names in `folder` to the disk: a file that was made, renamed or removed stays so.

    Raises:
        OSError: the disk refused.
    """
    if os.name != "posix":  # Elsewhere a folder cannot be opened; the journal of the file system keeps names.
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
