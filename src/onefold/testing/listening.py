"""A server to test against, in a process of its own that ends with whoever started it."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from typing import Any, Self

START_S = 60.0


def first_line(process: subprocess.Popen[Any], seconds: float) -> str:
    """The first line that it writes to its standard output, a pipe; "" when it ends before that.

    Raises:
        TimeoutError: it did neither within `seconds`.
    """
    assert process.stdout is not None
    line, fd, give_up = b"", process.stdout.fileno(), time.monotonic() + seconds
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while not line.endswith(b"\n"):
        if not poll.poll(max(0.0, give_up - time.monotonic()) * 1_000):
            raise TimeoutError(f"It did not say within {seconds:g} s that it is ready.")
        byte = os.read(fd, 1)  # No more, for what comes after belongs to others.
        if not byte:
            return ""
        line += byte
    return line.decode().strip()


class Listening:
    """Starts this Python with `arguments`, and kills it at the end of the block; its first line says where it listens.

    The program ends when its standard input does, so that it outlives nobody.
    """

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments
        self._process: subprocess.Popen[str] | None = None
        #: "http://127.0.0.1:PORT", once it is started.
        self.base = ""

    def __enter__(self) -> Self:
        """Start; returns once it listens.

        Raises:
            RuntimeError: it ended instead.
            TimeoutError: it did neither within a minute.
        """
        self._process = subprocess.Popen(  # noqa: S603  Of literals and paths.
            [sys.executable, *self._arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            start_new_session=True,  # Ctrl-C is for who started it.
        )  # fmt: skip
        try:
            self.base = first_line(self._process, START_S)
            if not self.base:
                raise RuntimeError(f"{type(self).__name__} did not start; see its standard error.")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End it; what it wrote down is on the disk."""
        if self._process is not None:
            with self._process as process:
                process.kill()
