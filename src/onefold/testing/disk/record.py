"""Running a real process under strace(1): its disk fails as told, and everything that it wrote is kept."""

from __future__ import annotations

import functools
import os
import random
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from onefold.core.errors import Invalid
from onefold.testing.disk.power import Disk, Image
from onefold.testing.disk.trace import FOLLOWED, REFUSED, WRITE_BYTES_MAX, Step, Trace

NTH_MAX = 65_535  # strace counts no further.
FOLDER_BYTES_MAX = 256 << 20  # All of it is held in memory.
WAYS = ("none", "all", "torn", "any")

_CALLS = {"sync": "fsync,fdatasync", "write": "pwrite64"}


class Fault(msgspec.Struct, frozen=True):
    """From the `nth` call on, `times` calls of this kind fail, and nothing of them happens.

    Attributes:
        call: "sync" (fsync and fdatasync, of files and folders) or "write" (pwrite64).
        error: what the program is told.
        nth: 1 to 65,535, counted in each thread for itself over all of its files.
        times: how many in a row; None: all from there on.
    """

    call: Literal["sync", "write"]
    error: Literal["EIO", "ENOSPC"]
    nth: int = 1
    times: int | None = 1

    def __post_init__(self) -> None:
        last = self.nth + (self.times or 1) - 1
        if not 1 <= self.nth <= last <= NTH_MAX or self.times == 0:
            raise Invalid("A fault befalls calls between the first and the 65,535th.", nth=self.nth, times=self.times)

    def _expression(self) -> str:
        last = "+" if self.times is None else f"..{self.nth + self.times - 1}"
        return f"inject={_CALLS[self.call]}:error={self.error}:when={self.nth}{last}"


class Recording(msgspec.Struct, frozen=True):
    """What a process did to a folder, and how it ended."""

    before: dict[str, bytes]
    steps: list[Step]
    status: int  # As `Popen.returncode`.
    errors: str  # Its standard error.
    injected: int  # Calls that failed because a fault told them to; 0 when the program never got that far.

    def said(self) -> list[str]:
        """The lines of its standard output."""
        text = b"".join(step.data for step in self.steps if step.kind == "say")
        return text.decode(errors="replace").splitlines()

    def images(self, *, seed: int = 0, most: int = 200) -> Iterator[Image]:
        """Images that a power cut may have left, no two alike in files and words.

        After each line said there is the one that holds only what was synced; the others are drawn.

        Args:
            seed: the same seed draws the same images.
            most: how many at most; 1 or more.
        """
        if most < 1:
            raise Invalid("At least one image is drawn.", most=most)
        sure = [(number, "none") for number, step in enumerate(self.steps) if step.kind == "say"]
        drawn = sorted({(number, way) for number in range(len(self.steps)) for way in WAYS}.difference(sure))
        dice = random.Random(seed)  # noqa: S311  Repeatable, not secret.
        sure = sure if len(sure) <= most else dice.sample(sure, most)
        wanted: dict[int, list[str]] = {}
        for number, way in sure + dice.sample(drawn, min(len(drawn), most - len(sure))):
            wanted.setdefault(number, []).append(way)
        disk = Disk(self.before)
        seen: set[int] = set()
        for number, step in enumerate(self.steps):
            disk.apply(number, step)
            for way in wanted.get(number, ()):
                image = disk.image(way, number, seed)
                alike = hash((tuple(image.files.items()), image.said))
                if alike not in seen:
                    seen.add(alike)
                    yield image


@functools.cache
def unavailable() -> str | None:
    """Why nothing can be recorded here, as a reason to skip a test; None where it can."""
    strace = shutil.which("strace")
    if strace is None:
        return "strace is not installed"
    command = [strace, "-f", "--seccomp-bpf", "-e", "inject=fsync:error=EIO:when=1..1", "-o", os.devnull, "true"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  Ours.
    return None if done.returncode == 0 else f"strace cannot trace here: {done.stderr.strip()[:200]}"


def record(
    command: Sequence[str],
    folder: Path,
    *,
    faults: Sequence[Fault] = (),
    without: tuple[str, ...] = ("-shm",),
    env: Mapping[str, str] | None = None,
    timeout_s: float = 60.0,
) -> Recording:
    """Run a program to its end and keep what it does to the files in `folder`.

    What is there when it begins counts as durable. The program works in `folder`, and its children are followed.

    Args:
        command: the program and its arguments. What it writes to its standard output is kept in order with its
            writes to files: a line said after a commit is an acknowledgement.
        folder: no other process may change it meanwhile.
        faults: what fails, when; one of each kind of call at most.
        without: files whose names end so are left out; SQLite's shared memory is rebuilt after a power cut.
        env: its environment instead of ours.
        timeout_s: then it is killed, and TimeoutExpired raised.

    Raises:
        Invalid: tracing is not possible here, the folder is too large, or the program changed a file in a way that
            is not followed: by shared memory, `write`, or a call named in the error, or in a folder that it made.
    """
    if (why := unavailable()) is not None:
        raise Invalid("Nothing can be recorded here.", why=why)
    if len({fault.call for fault in faults}) < len(faults):
        raise Invalid("One fault for each kind of call; strace takes the last.")
    before = _files(folder, without)
    with tempfile.TemporaryDirectory(prefix="of-trace-") as place:
        report = Path(place) / "trace"
        tracer = [
            "strace", "-f", "--seccomp-bpf", "-y", "-xx", "-s", str(WRITE_BYTES_MAX), "-o", str(report),
            "-e", "signal=none", "-e", "trace=" + ",".join("?" + call for call in FOLLOWED + REFUSED),
        ]  # fmt: skip
        for fault in faults:
            tracer += ["-e", fault._expression()]
        status, errors = _run([*tracer, "--", *command], folder, env, timeout_s)
        trace = Trace(folder, before, without)
        with report.open(encoding="ascii", errors="replace") as lines:
            trace.read(lines)
    return Recording(before, trace.steps, status, errors, trace.injected)


def _run(command: list[str], folder: Path, env: Mapping[str, str] | None, timeout_s: float) -> tuple[int, str]:
    with subprocess.Popen(  # noqa: S603  The caller's own program.
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder, env=env,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            _, errors = process.communicate(timeout=timeout_s)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)  # Without its tracer the program would go on.
            raise
        return process.returncode, errors.decode(errors="replace")


def _files(folder: Path, without: tuple[str, ...]) -> dict[str, bytes]:
    """All regular files below `folder`."""
    found: dict[str, bytes] = {}
    size = 0
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink() and not path.name.endswith(without):
            size += path.stat().st_size
            if size > FOLDER_BYTES_MAX:
                raise Invalid("The folder is too large to be kept in memory.", most_bytes=FOLDER_BYTES_MAX)
            found[path.relative_to(folder).as_posix()] = path.read_bytes()
    return found
