"""Read histories from files: EDN, JSON, JSON lines, and the log lines of old Jepsen.

EDN and JSON may be one collection of events, or one event after the other. Which form it is, is seen
from the text, not from the name.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
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
        Invalid: it cannot be read, is larger than `FILE_BYTES_MAX`, no UTF-8, or holds no history; the facts say
            where and why.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise NotFound("There is no history at this path.", path=str(path))
        if path.stat().st_size > FILE_BYTES_MAX:
            raise Invalid("The file is too large.", path=str(path), bytes_max=FILE_BYTES_MAX)
        text = _bytes(path).decode("utf-8-sig")
    except OSError as error:
        raise Invalid("The file cannot be read.", path=str(path), why=error.strerror) from None
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
    try:
        if _EDN.match(start):
            return History.of(_events(edn.read_all(text)))
        if start[0] in "[{":
            return History.of(_events(_json(text)))
    except Invalid as error:  # A logger may begin its lines with a bracket.
        if error.code not in {"not_edn", "not_json"} or not any(map(_LOG.match, text.split("\n"))):
            raise
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


def _events(values: Iterable[Any], depth: int = 1) -> Iterable[Mapping[str, Any]]:
    """The events in values: each of them is one, or a collection of them."""
    for value in values:
        if isinstance(value, list):
            if depth > edn.DEPTH_MAX:
                raise Invalid("This is nested too deeply.", code="not_a_history", depth_max=edn.DEPTH_MAX)
            yield from _events(value, depth + 1)
        else:
            yield value


def _json(text: str) -> Iterable[Any]:
    """One document, or one after the other."""
    try:
        yield from _documents(text)
    except RecursionError:
        raise Invalid("This is nested too deeply.", code="not_a_history", depth_max=edn.DEPTH_MAX) from None


def _documents(text: str) -> Iterable[Any]:
    with suppress(msgspec.DecodeError):
        yield msgspec.json.decode(text)
        return
    decode, place = json.JSONDecoder().raw_decode, 0
    while place < len(text):
        if text[place] in " \t\r\n":
            place += 1
            continue
        try:
            document, place = decode(text, place)
        except ValueError as error:
            line, problem = text.count("\n", 0, getattr(error, "pos", place)) + 1, str(error)
            raise Invalid("This is not JSON.", code="not_json", line=line, problem=problem) from None
        yield document


def _log(text: str) -> Iterable[Mapping[str, Any]]:
    """Lines such as `3 :invoke :cas [1 2]`, perhaps behind a logger's words; other lines of a log are passed over."""
    found = False
    for line in text.split("\n"):  # Not at what else ends lines: a value may hold it.
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
