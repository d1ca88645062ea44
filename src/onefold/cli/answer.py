"""How a command answers: a table for people, or JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from onefold.core.errors import NotFound
from onefold.core.printable import printable
from onefold.engine.database import Database


def say(options: argparse.Namespace, data: Any, lines: Callable[[], Iterable[str]]) -> None:
    """Print `data` as one line of JSON when --json was given, else the lines, which command no terminal."""
    if options.json:
        try:
            text = msgspec.json.encode(data).decode()
        except UnicodeEncodeError:  # A name of a file is bytes, and need not be UTF-8.
            text = json.dumps(msgspec.to_builtins(data))
        print(text, flush=True)
    else:
        for line in lines():
            print(printable(line), flush=True)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """Columns as wide as they must be."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def moment(at_ms: int | None) -> str:
    """A time as people read it, in UTC; "-" for none."""
    return "-" if at_ms is None else datetime.fromtimestamp(at_ms / 1_000, UTC).strftime("%Y-%m-%d %H:%M")


def opened(url: str) -> Database:
    """The database at `url`, which must exist: a mistyped path makes no file.

    Raises:
        NotFound: there is no such file.
    """
    if not is_postgres(url) and not file_of(url).is_file():
        raise NotFound("There is no database at this path.", path=str(file_of(url)))
    from onefold.engine.connect import connect

    return connect(url)


def is_postgres(url: str) -> bool:
    """Whether a URL names a PostgreSQL server; else it is a file."""
    return url.startswith(("postgresql://", "postgres://"))


def file_of(url: str) -> Path:
    """The file that a URL of SQLite, or a path, names."""
    return Path(url.removeprefix("sqlite:///")).absolute()


def without_password(url: str) -> str:
    """The URL as it may be shown."""
    head, mark, tail = url.rpartition("@")
    if mark:
        scheme, _, user = head.partition("://")
        url = f"{scheme}://{user.partition(':')[0]}@{tail}"
    base, mark, query = url.partition("?")
    kept = [part for part in query.split("&") if not part.lower().startswith(("password=", "sslpassword="))]
    return f"{base}?{'&'.join(kept)}" if mark and kept else base
