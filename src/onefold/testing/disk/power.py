"""What a disk may hold after the power went: a model of files, pages and names (ALICE, OSDI 2014; CrashMonkey, 2018).

A write is durable once a sync of its file that began after it has ended well; a name once its folder was synced.
Until then each sector of 512 bytes may hold any of the versions that were written since, each file have any of its
sizes, and of the changes to a folder's names the first few may have happened. A sync that fails is the kernel's last
word on those pages (fsyncgate): they count as clean, no later sync makes them durable, only a later write to the
page does.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

import msgspec

from onefold.testing.disk.trace import Step

SECTOR_BYTES = 512  # Is written whole or not at all.
PAGE_BYTES = 4096  # The kernel's; it brings them to the disk whole.

Pick = Callable[[Sequence[int]], int]  # Of the steps that made newer versions: how many of them have happened.


class Image(msgspec.Struct, frozen=True):
    """What a disk may hold, and what the program had said by then."""

    files: dict[str, bytes]
    said: tuple[str, ...]  # Whole lines of the program's standard output.
    how: str  # "step 41, torn": the seed of the recording and this repeat it.

    def write_to(self, folder: Path) -> None:
        """Make the files in `folder`, which must be empty or not there."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            place = folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            with place.open("xb") as file:
                file.write(content)


class _File:
    def __init__(self, content: bytes = b"") -> None:
        self.live = bytearray(content)
        self.durable = bytearray(content)
        self.newer: dict[int, list[tuple[int, bytes]]] = {}  # By sector: the step, and what it wrote.
        self.size = len(content)
        self.sizes: list[tuple[int, int]] = []
        self.dirty: set[int] = set()  # Pages that the next sync brings to the disk.

    def write(self, step: int, offset: int, data: bytes) -> None:
        end = offset + len(data)
        if end > len(self.live):
            self.live.extend(bytes(end - len(self.live)))
            self.sizes.append((step, end))
        self.live[offset:end] = data
        self._changed(step, offset, end)

    def cut(self, step: int, size: int) -> None:
        old = len(self.live)
        del self.live[size:]
        self.live.extend(bytes(size - len(self.live)))
        self.sizes.append((step, size))
        self._changed(step, min(old, size), max(old, size))

    def _changed(self, step: int, begin: int, end: int) -> None:
        for sector in range(begin // SECTOR_BYTES, -(-end // SECTOR_BYTES)):
            content = bytes(self.live[sector * SECTOR_BYTES : (sector + 1) * SECTOR_BYTES])
            self.newer.setdefault(sector, []).append((step, content.ljust(SECTOR_BYTES, b"\0")))
            self.dirty.add(sector * SECTOR_BYTES // PAGE_BYTES)

    def sync(self, began: int, *, failed: bool) -> None:
        per_page = PAGE_BYTES // SECTOR_BYTES
        for page in sorted(self.dirty):
            sectors = [s for s in range(page * per_page, (page + 1) * per_page) if s in self.newer]
            if not failed:
                for sector in sectors:
                    self._settle(sector, began)
            if all(step < began for sector in sectors for step, _ in self.newer.get(sector, ())):
                self.dirty.discard(page)
        if not failed:
            for step, size in tuple(self.sizes):
                if step < began:
                    self.size = size
                    self.sizes.remove((step, size))

    def _settle(self, sector: int, began: int) -> None:
        versions = self.newer.pop(sector)
        for step, content in versions:
            if step < began:
                begin = sector * SECTOR_BYTES
                self.durable.extend(bytes(max(0, begin + SECTOR_BYTES - len(self.durable))))
                self.durable[begin : begin + SECTOR_BYTES] = content
        if left := [version for version in versions if version[0] >= began]:
            self.newer[sector] = left

    def outstanding(self) -> set[int]:
        return {step for versions in self.newer.values() for step, _ in versions} | {step for step, _ in self.sizes}

    def content(self, pick: Pick) -> bytes:
        chosen = pick([step for step, _ in self.sizes])
        size = self.sizes[chosen - 1][1] if chosen else self.size
        content = bytearray(self.durable[:size].ljust(size, b"\0"))
        for sector, versions in self.newer.items():
            if chosen := pick([step for step, _ in versions]):
                begin = sector * SECTOR_BYTES
                if begin < size:
                    content[begin : begin + SECTOR_BYTES] = versions[chosen - 1][1]
        return bytes(content[:size])


class Disk:
    """The files, as far as the steps given to `apply` have brought them."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self._live = {name: _File(content) for name, content in files.items()}
        self._durable = dict(self._live)
        # By folder: the steps that changed its names, and what each made of one or two of them.
        self._renamed: dict[str, list[tuple[int, dict[str, _File | None]]]] = {}
        self._said = b""

    def apply(self, number: int, step: Step) -> None:
        """Let a step happen; steps are numbered from 0."""
        if step.kind == "say":
            self._said += step.data
        elif step.kind == "make":
            self._rename(number, {step.name: _File()})
        elif step.kind == "remove":
            self._rename(number, {step.name: None})
        elif step.kind == "move":
            self._rename(number, {step.name: None, step.target: self._live.get(step.name)})
        elif (file := self._live.get(step.name)) is not None:
            if step.kind == "write":
                file.write(number, step.offset, step.data)
            elif step.kind == "cut":
                file.cut(number, step.offset)
            else:
                file.sync(step.began, failed=step.failed)
        elif step.kind == "sync" and not step.failed:
            changes = self._renamed.pop(step.name, [])
            for change in (change for change in changes if change[0] < step.began):
                _take(self._durable, change[1])
            if left := [change for change in changes if change[0] >= step.began]:
                self._renamed[step.name] = left

    def _rename(self, number: int, change: dict[str, _File | None]) -> None:
        _take(self._live, change)
        parent = str(PurePosixPath(next(iter(change))).parent)
        self._renamed.setdefault("" if parent == "." else parent, []).append((number, change))

    def image(self, way: str, number: int, seed: int) -> Image:
        """One of the images that a power cut after step `number` may leave: "none", "all", "torn" or "any"."""
        names = dict(self._durable)
        dice = random.Random(f"{seed}/{number}/{way}")  # noqa: S311  Repeatable, not secret.
        pick = self._pick(way, dice)
        for changes in self._renamed.values():
            for _, change in changes[: pick([step for step, _ in changes])]:
                _take(names, change)
        lines = self._said.split(b"\n")[:-1]
        return Image(
            {name: file.content(pick) for name, file in sorted(names.items())},
            tuple(line.decode(errors="replace") for line in lines), f"step {number}, {way}",
        )  # fmt: skip

    def _pick(self, way: str, dice: random.Random) -> Pick:
        if way == "none":
            return lambda _: 0
        if way == "all":
            return len
        if way == "any":
            return lambda steps: dice.randint(0, len(steps))
        # Torn: everything before one step, nothing after it, and of itself some sectors.
        steps = {step for changes in self._renamed.values() for step, _ in changes}
        torn = dice.choice(sorted(steps.union(*(file.outstanding() for file in self._live.values()))) or [0])
        return lambda steps: sum(step < torn or (step == torn and dice.random() < 0.5) for step in steps)  # noqa: PLR2004


def _take(names: dict[str, _File], change: dict[str, _File | None]) -> None:
    for name, file in change.items():
        if file is None:
            names.pop(name, None)
        else:
            names[name] = file
