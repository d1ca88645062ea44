"""Disks: what kind of file system holds a path, and how fast it makes bytes durable."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from pathlib import Path

_BLOCK = b"\0" * 4096

#: File systems whose locks or shared memory do not hold between machines or at all.
NETWORK = frozenset({
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "vboxsf", "davfs",
})  # fmt: skip
#: File systems that forget.
VOLATILE = frozenset({"tmpfs", "ramfs"})


def file_system_of(path: Path) -> str | None:
    """The type of the file system that holds `path` ("ext4"); None where the system does not tell."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    place = os.path.realpath(path)
    best, found = -1, None
    for line in lines:
        # proc(5): "36 35 98:0 /root /mount/point options ... - type source options".
        left, _, right = line.partition(" - ")
        mount = left.split()[4].encode().decode("unicode_escape")
        inside = mount in {"/", place} or place.startswith(mount + "/")
        if inside and len(mount) >= best:  # Of two mounts at one place the later one counts.
            best, found = len(mount), right.split()[0]
    return found


def is_network(kind: str) -> bool:
    """Whether a type is one that SQLite's WAL cannot live on."""
    return kind in NETWORK or (kind.startswith("fuse.") and kind != "fuse.ext4")


def sync_rate(folder: Path, *, seconds: float = 0.3) -> tuple[float, float]:
    """`(per second, median ms)` of appending 4 KiB and waiting for the disk, in a file that goes away."""
    sync = getattr(os, "fdatasync", os.fsync)
    took: list[float] = []
    descriptor, name = tempfile.mkstemp(prefix="onefold-sync-", dir=folder)
    try:
        until = time.perf_counter() + seconds
        while (started := time.perf_counter()) < until:
            os.write(descriptor, _BLOCK)
            sync(descriptor)
            took.append(time.perf_counter() - started)
    finally:
        os.close(descriptor)
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()
    took.sort()
    return len(took) / sum(took), took[len(took) // 2] * 1_000


#: The files of SQLite itself, as they are called after the database's name.
OPENED = frozenset({"", "-wal", "-shm"})


def holders_of(path: Path, *, sides: frozenset[str] = OPENED) -> dict[int, set[str]]:
    """By process id: which of the database's files a process has open ("", "-wal", "-gate", ...).

    Only processes that this user may look into, and that have one of `sides` open.
    """
    place = os.path.realpath(path)
    found: dict[int, set[str]] = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            for descriptor in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    target = str(descriptor.readlink())
                    if target.startswith(place):
                        found.setdefault(int(process.name), set()).add(target[len(place) :])
        except OSError:
            continue
    return {pid: files for pid, files in found.items() if files & sides}
