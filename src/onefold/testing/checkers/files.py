"""Read histories from files: EDN, JSON, JSON lines, and the log lines of old Jepsen.

EDN and JSON may be one collection of events, or one event after the other. Which form it is, is seen
from the text, not from the name.
"""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from onefold.core.errors import Invalid, NotFound
from onefold.testing.checkers import edn
from onefold.testing.checkers.history import History

FILE_BYTES_MAX = 1 << 30

# `INFO  jepsen.util - 3 :invoke :cas [1 2]`, and the same without the words of a logger before it.
_LOG = re.compile(r"(?:.*\s)?(\d+|:nemesis)\s+:(invoke|ok|fail|info)\s+:?([^\s:]\S*)(?:\s+(.*))?")
_EDN = re.compile(r"[\s,\[({]*[:#;]|\(")
_GZIP = b"\x1f\x8b"


def read_history(path: str | Path) -> History:
    """The history in a file.

    Raises:
        NotFound: there is no such file.
        Invalid: it is larger than `FILE_BYTES_MAX`, no UTF-8, or holds no history; the facts say where and why.
    """
    path = Path(path)
    if not path.is_file():
        raise NotFound("There is no history at this path.", path=str(path))
    if path.stat().st_size > FILE_BYTES_MAX:
        raise Invalid("The file is too large.", path=str(path), bytes_max=FILE_BYTES_MAX)
    try:
        text = _bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Invalid("The file is no UTF-8.", path=str(path), byte=error.start) from None
    return parse_history(text)


def parse_history(text: str) -> History:
    """The history that a text holds.

    Raises:
        Invalid: it holds none; the facts say where and why.
    """
    start = text.lstrip()
    if not start:
        return History([])
    if _EDN.match(start):
        return History.of(_events(edn.read_all(text)))
    if start[0] in "[{":
        return History.of(_events(_json(text)))
    return History.of(_log(text))


def _bytes(path: Path) -> bytes:
    """What a file holds, unpacked if it is packed."""
    content = path.read_bytes()
    if not content.startswith(_GZIP):
        return content
    try:
        with gzip.open(io.BytesIO(content)) as packed:
            content = packed.read(FILE_BYTES_MAX + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise Invalid("The file cannot be unpacked.", path=str(path), problem=str(error)) from None
    if len(content) > FILE_BYTES_MAX:
        raise Invalid("The file is too large.", path=str(path), bytes_max=FILE_BYTES_MAX)
    return content


def _events(values: Iterable[Any]) -> Iterable[Mapping[str, Any]]:
    """The events in values: each of them is one, or a collection of them."""
    for value in values:
        if isinstance(value, list):
            yield from _events(value)
        else:
            yield value


def _json(text: str) -> Iterable[Any]:
    """One document, or one on each line."""
    try:
        document = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        whole = str(error)
    else:
        yield document
        return
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                yield msgspec.json.decode(line)
            except msgspec.DecodeError as error:
                problem = whole if number == 1 else str(error)
                raise Invalid("This is not JSON.", code="not_json", line=number, problem=problem) from None


def _log(text: str) -> Iterable[Mapping[str, Any]]:
    """Lines such as `3 :invoke :cas [1 2]`, perhaps behind a logger's words; other lines of a log are passed over."""
    found = False
    for line in text.splitlines():
        if match := _LOG.match(line):
            found = True
            process, kind, f, rest = match.groups()
            who = int(process) if process.isdigit() else process[1:]
            value, error = _told(rest or "")
            event = {"process": who, "type": kind, "f": f, "value": value}
            yield event if error is None else {**event, "error": error}
    if not found:
        raise Invalid("This holds no events: neither EDN, nor JSON, nor a log of Jepsen.", code="not_a_history")


def _told(rest: str) -> tuple[Any, Any]:
    """The value at the end of a line, and what went wrong, which stands after it and need not be EDN."""
    values = edn.read_all(rest)
    value = next(values, None)
    try:
        return value, next(values, None)
    except Invalid:
        return value, rest
