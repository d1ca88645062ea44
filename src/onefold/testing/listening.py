"""A server to test against, in a process of its own that ends with whoever started it."""

from __future__ import annotations

import subprocess
import sys
from typing import Self


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
        """
        self._process = subprocess.Popen(  # noqa: S603  Of literals and paths.
            [sys.executable, *self._arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            start_new_session=True,  # Ctrl-C is for who started it.
        )  # fmt: skip
        assert self._process.stdout is not None
        self.base = self._process.stdout.readline().strip()
        if not self.base:
            self._process.wait()
            raise RuntimeError(f"{type(self).__name__} did not start; see its standard error.")
        return self

    def __exit__(self, *_: object) -> None:
        """End it; what it wrote down is on the disk."""
        if self._process is not None:
            with self._process as process:
                process.kill()
