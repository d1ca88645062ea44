"""What strace(1) tells about the files of one folder, as steps in the order in which they were over."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from onefold.core.errors import Invalid

WRITE_BYTES_MAX = 1 << 20  # Of one write; strace keeps this much of it.
STDOUT = "1"

#: Followed, and those that would change a file in a way that is not followed: they are refused when they happen.
FOLLOWED = (
    "openat", "pwrite64", "ftruncate", "fsync", "fdatasync", "unlink", "unlinkat", "rename", "write", "mmap", "mkdir",
    "mkdirat",
)  # fmt: skip
REFUSED = (
    "open", "creat", "truncate", "writev", "pwritev", "pwritev2", "fallocate", "sync_file_range", "sendfile",
    "copy_file_range", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat",
)  # fmt: skip

_LINE = re.compile(r"(\d+)\s+(?:<\.\.\. \w+ resumed>)?(.*)", re.DOTALL)
_CALL = re.compile(r"(\w+)\((.*)\)\s+= (-?\d+)(.*)", re.DOTALL)
_DESCRIPTOR = re.compile(r"(\d+|AT_FDCWD)<((?:\\x[0-9a-f]{2})*)>(\(deleted\))?")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')
_UNFINISHED = " <unfinished ...>"


class Step(msgspec.Struct, frozen=True):
    """A call that is over. `began`: how many steps were over when it began; a sync covers those alone."""

    kind: str  # "write", "cut", "sync", "make", "remove", "move", "say"
    name: str = ""  # Below the folder; "" is the folder itself.
    began: int = 0
    offset: int = 0  # Of a write; the size of a cut.
    data: bytes = b""
    target: str = ""  # Of a move.
    failed: bool = False


class Trace:
    """Reads the lines of `strace -f -y -xx`."""

    def __init__(self, folder: Path, names: Iterable[str], without: tuple[str, ...]) -> None:
        self._folder = os.path.realpath(folder)
        self._names = set(names)  # The files that there are.
        self._without = without
        self._folders: set[str] = set()  # That the program made; whether they are sure is not followed.
        self.steps: list[Step] = []
        self.injected = 0

    def read(self, lines: Iterable[str]) -> None:
        """Add the steps of these lines."""
        unfinished: dict[str, tuple[str, int]] = {}
        for line in lines:
            found = _LINE.match(line.rstrip("\n"))
            if found is None:
                continue
            pid, text = found[1], found[2]
            earlier, began = unfinished.pop(pid, ("", len(self.steps)))
            text = earlier + text
            if text.endswith(_UNFINISHED):
                unfinished[pid] = (text.removesuffix(_UNFINISHED), began)
                continue
            call = _CALL.match(text)
            if call is not None:
                self._add(call[1], call[2], int(call[3]), call[4], began)

    def _add(self, call: str, arguments: str, result: int, rest: str, began: int) -> None:
        self.injected += "(INJECTED)" in rest
        if call in {"fsync", "fdatasync"}:
            for name in self._opened(arguments):
                self.steps.append(Step("sync", name, began, failed=result < 0))
        elif result < 0:
            return
        elif call == "openat":
            self._open(arguments, rest, began)
        elif call == "write" and arguments.startswith(STDOUT + "<"):
            self.steps.append(Step("say", began=began, data=_data(arguments)[:result]))
        elif call == "pwrite64":
            for name in self._opened(arguments):
                offset = int(arguments.rpartition(", ")[2])
                self.steps.append(Step("write", name, began, offset, _data(arguments)[:result]))
        elif call == "ftruncate":
            for name in self._opened(arguments):
                self.steps.append(Step("cut", name, began, int(arguments.rpartition(", ")[2])))
        elif call == "mmap" and not ("MAP_SHARED" in arguments and "PROT_WRITE" in arguments):
            return  # It only reads, or keeps what it writes to itself.
        elif call in {"mkdir", "mkdirat"}:
            self._folders.update(self._named(arguments))
        elif call in {"unlink", "unlinkat"}:
            for name in self._named(arguments):
                self._names.discard(name)
                self.steps.append(Step("remove", name, began))
        elif call == "rename":
            names = list(self._named(arguments))
            if len(names) == 2:  # noqa: PLR2004  From and to.
                self._names.discard(names[0])
                self._add_name(call, names[1])
                self.steps.append(Step("move", names[0], began, target=names[1]))
            elif names:
                raise Invalid("A file was moved into or out of the folder; that is not followed.", name=names[0])
        else:
            for name in (*self._opened(arguments), *self._named(arguments)):
                raise Invalid("The program changes a file in a way that is not followed.", call=call, name=name)

    def _open(self, arguments: str, rest: str, began: int) -> None:
        for name in self._opened("0" + rest):
            flags = arguments.rpartition('"')[2]
            if "O_CREAT" in flags and name not in self._names:
                self._add_name("openat", name)
                self.steps.append(Step("make", name, began))
            elif "O_TRUNC" in flags:
                self.steps.append(Step("cut", name, began))

    def _add_name(self, call: str, name: str) -> None:
        if name.rpartition("/")[0] in self._folders:
            raise Invalid("A file in a folder that the program made is not followed.", call=call, name=name)
        self._names.add(name)

    def _opened(self, text: str) -> Iterator[str]:
        """The first descriptor's name, if it is one of the folder's."""
        found = _DESCRIPTOR.search(text)
        if found is not None and not found[3]:
            yield from self._ours(_bytes(found[2]).decode())

    def _named(self, arguments: str) -> Iterator[str]:
        """The paths in the arguments that are the folder's; relative ones begin there."""
        begin = _DESCRIPTOR.match(arguments)
        base = _bytes(begin[2]).decode() if begin is not None else self._folder
        for text in _TEXT.finditer(arguments):
            yield from self._ours(os.path.join(base, _bytes(text[1]).decode()))  # noqa: PTH118  Text, not a place here.

    def _ours(self, path: str) -> Iterator[str]:
        if path == self._folder:
            yield ""
        elif path.startswith(self._folder + "/") and not path.endswith(self._without):
            yield path[len(self._folder) + 1 :]


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def _data(arguments: str) -> bytes:
    found = _TEXT.search(arguments)
    if found is None or found[2]:
        raise Invalid("The program writes too much at once to be followed.", most=WRITE_BYTES_MAX)
    return _bytes(found[1])
