"""What files need that the standard library does not give in one step."""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
import sys
from collections.abc import Generator
from pathlib import Path

AGAIN_BYTES = 1 << 20  # Of a file that is written again, at a time.


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


def append_zeros(path: Path, end: int, count: int) -> None:
    """Write `count` zero bytes behind the byte `end` of an existing file; nothing is synced.

    Raises:
        OSError: there is no such file, or no space; some of the bytes may be there.
    """
    with path.open("r+b", buffering=0) as file:
        os.pwrite(file.fileno(), bytes(count), end)


def write_again(path: Path) -> None:
    """Write `path` over itself and sync it, after a sync of it failed. Nobody else may write to it meanwhile.

    The kernel takes pages that it could not bring to the disk for clean: the next sync would answer well without
    them. Only a write makes it try again.

    Raises:
        OSError: the disk refused; what it holds now is not known.
    """
    try:
        with path.open("r+b", buffering=0) as file:
            offset = 0
            while chunk := os.pread(file.fileno(), AGAIN_BYTES, offset):
                offset += os.pwrite(file.fileno(), chunk, offset)
    except FileNotFoundError:
        return
    sync_file(path)


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


def try_lock(descriptor: int) -> bool:
    """Lock an open file against all others who ask; False when one of them has it. Its close, or death, frees it."""
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def partial(target: Path, *, mode: int) -> Generator[Path]:
    """A new file beside `target`, to be filled and then to get its name by `place`; gone at the end otherwise.

    A process that dies leaves it behind as NAME.partial-...; the next one for the same name removes it.

    Args:
        target: the name.
        mode: who may read and write it, 0o600 for its owner.
    """
    for left in target.parent.glob(f"{glob.escape(target.name)}.partial-*"):
        _remove_if_left(left)
    while True:
        path = target.with_name(f"{target.name}.partial-{os.getpid()}-{secrets.token_hex(4)}")
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        # Locked for as long as we live: that is how others know. One of them may have been between the two.
        if try_lock(descriptor) and os.fstat(descriptor).st_nlink:
            break
        os.close(descriptor)
    try:
        path.chmod(mode)
        yield path
    finally:
        os.close(descriptor)
        path.unlink(missing_ok=True)


def place(path: Path, target: Path, *, replace: bool) -> None:
    """Give a synced file its name, in one step that is there or not whatever ends process or machine.

    Raises:
        FileExistsError: there is a file of this name, and `replace` was not given.
        OSError: the disk refused.
    """
    if replace:
        path.replace(target)
    else:
        try:
            target.hardlink_to(path)
        except FileExistsError:
            raise
        except OSError:  # A file system without links.
            if target.exists():
                raise FileExistsError(target) from None
            path.replace(target)
    sync_folder(target.parent)


def write_whole(target: Path, content: bytes, *, mode: int, replace: bool) -> None:
    """Write a file that has all of its content from the moment it has its name. Raises as `place` does."""
    with partial(target, mode=mode) as path:
        path.write_bytes(content)
        sync_file(path)
        place(path, target, replace=replace)


def _remove_if_left(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_nlink > 1:  # It got its name. Not opened: a program may use it by that.
            path.unlink()
            return
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            if try_lock(descriptor):
                path.unlink()
        finally:
            os.close(descriptor)
