"""Read histories from files: EDN, JSON, JSON lines, and the log lines of old Jepsen.

EDN and JSON may be one collection of events, or one event after the other. Which form it is, is seen
from the text, not from the name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from onefold.core.errors import Invalid, NotFound
from onefold.testing.checkers import edn
from onefold.testing.checkers.history import History

FILE_BYTES_MAX = 1 << 30

_LOG = re.compile(r"\s*(?:\S+ )?INFO\s+\S*\s*-\s+(\d+)\s+:(invoke|ok|fail|info)\s+:(\S+)\s+(.*)")
_EDN = re.compile(r"\{\s*:|#[A-Za-z_{:]|\(|;|\[\s*(?:[#(;]|\{\s*:)")


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
        text = path.read_text(encoding="utf-8-sig")
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
    """Lines such as `INFO  jepsen.util - 3 :invoke :cas [1 2]`; other lines of a log are passed over."""
    found = False
    for line in text.splitlines():
        if match := _LOG.match(line):
            found = True
            process, kind, f, value = match.groups()
            yield {"process": int(process), "type": kind, "f": f, "value": next(iter(edn.read_all(value)), None)}
    if not found:
        raise Invalid("This holds no events: neither EDN, nor JSON, nor a log of Jepsen.", code="not_a_history")
