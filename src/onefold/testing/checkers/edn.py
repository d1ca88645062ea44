"""A reader of EDN, the notation of Clojure in which Jepsen writes histories.

Keywords, symbols, strings and characters all become `str` (without their mark), so that a history
means the same in EDN and in JSON. Vectors and lists become lists, sets frozensets, maps dicts. A tag
(`#inst "..."`, `#jepsen.history.Op{...}`) is dropped and what it stands before is kept.

The notation: https://github.com/edn-format/edn
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from onefold.core.errors import Invalid

DEPTH_MAX = 64  # Nested collections; a history needs about six.
ATOMS_MAX = 100_000  # Different words that are remembered.

_TOKEN = re.compile(
    r"""
      [^\s,\[\](){}";\\#][^\s,\[\](){}";\\]*       # a number, a keyword, a symbol
    | "(?:[^"\\]|\\.)*"
    | [\[\](){}] | \#\{
    | \#_ | \#\#[A-Za-z]+ | \#:?[^\s,\[\](){}";\#\\]+  # to discard the next; ##Inf; a tag
    | \\(?:u[0-9a-fA-F]{4}|[a-z]{2,}|.)
    | ;[^\n]*
    | [^\s,]                                        # What is none of these is wrong.
    """,
    re.VERBOSE | re.DOTALL,
)
_INT = re.compile(r"[+-]?\d{1,1000}N?\Z")
_FLOAT = re.compile(r"[+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?M?\Z")
_RATIO = re.compile(r"([+-]?\d{1,1000})/(\d{1,1000})\Z")
_WORDS: dict[str, Any] = {"nil": None, "true": True, "false": False}
_SYMBOLIC = {"##NaN": float("nan"), "##Inf": float("inf"), "##-Inf": float("-inf")}
_CHARS = {"newline": "\n", "return": "\r", "space": " ", "tab": "\t", "formfeed": "\f", "backspace": "\b"}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "0": "\0"}
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_PLAIN = frozenset({int, str, float, bool, type(None)})
_NEW: Any = object()
_DISCARD: Any = object()
_CLOSERS = {"[": "]", "(": ")", "{": "}", "#{": "}"}


def read_all(text: str) -> Iterator[Any]:
    """The values that stand in a text, one after the other.

    Raises:
        Invalid: it is not EDN; `line` (from 1) says where, `problem` what.
    """
    reader = _Reader()
    get = reader.atoms.get
    append = reader.items[-1].append
    for taken, match in enumerate(_TOKEN.finditer(text)):
        token = match.group()
        value = get(token, _NEW)
        if value is not _NEW:  # Most are words that came before.
            append(value)
            continue
        try:
            reader.take(token)
        except _NotEdn as error:
            line = text.count("\n", 0, match.start()) + 1
            raise Invalid("This is not EDN.", code="not_edn", line=line, token=taken, problem=str(error)) from None
        if not reader.openers:
            yield from reader.drained()
        append = reader.items[-1].append
    yield from [] if reader.openers else reader.drained()
    if reader.openers or reader.items[0]:
        raise Invalid("This is not EDN.", code="not_edn", line=text.count("\n") + 1, problem="it ends too early")


def frozen(value: Any, depth: int = 0) -> Any:
    """A value that can be compared and be a key: lists as tuples, maps and sets as frozensets.

    Raises:
        Invalid: it is nested deeper than `DEPTH_MAX`.
    """
    if type(value) in _PLAIN:
        return value
    if depth >= DEPTH_MAX:
        raise Invalid("This is nested too deeply.", code="not_a_history", depth_max=DEPTH_MAX)
    if isinstance(value, (list, tuple)):
        if _PLAIN.issuperset(map(type, value)):  # Long lists of numbers are the rule, and quick this way.
            return tuple(value)
        return tuple([frozen(one, depth + 1) for one in value])
    if isinstance(value, dict):
        return frozenset((frozen(key, depth + 1), frozen(one, depth + 1)) for key, one in value.items())
    if isinstance(value, (set, frozenset)):
        return frozenset(frozen(one, depth + 1) for one in value)
    return value


class _NotEdn(Exception):  # noqa: N818  It never leaves this module.
    pass


class _Reader:
    """Takes the tokens that are not among `atoms`, and keeps the collections that are open."""

    def __init__(self) -> None:
        self.atoms: dict[str, Any] = dict(_WORDS)  # Histories repeat their words; each is understood once.
        self.openers: list[str] = []
        self.items: list[list[Any]] = [[]]

    def take(self, token: str) -> None:
        first = token[0]
        if token in _CLOSERS:
            if len(self.openers) >= DEPTH_MAX:
                raise _NotEdn("nested too deeply")
            self.openers.append(token)
            self.items.append([])
        elif first in "])}":
            value = self.closed(token)
            self.items[-1].append(value)
        elif first == '"':
            self.items[-1].append(_string(token))
        elif first == "\\":
            self.items[-1].append(_char(token[1:]))
        elif first == "#":
            self.mark(token)
        elif first != ";":
            value = _atom(token)
            if len(self.atoms) < ATOMS_MAX:
                self.atoms[token] = value
            self.items[-1].append(value)

    def drained(self) -> list[Any]:
        """The values at the top; none while `#_` waits for the value that it discards."""
        values = _kept(self.items[0])
        if values is not None:
            self.items[0] = []
        return values or []

    def closed(self, token: str) -> Any:
        if not self.openers or _CLOSERS[self.openers[-1]] != token:
            raise _NotEdn("a closing bracket without its opening one")
        opener, items = self.openers.pop(), _kept(self.items.pop())
        if items is None:
            raise _NotEdn("nothing to discard")
        if opener == "#{":
            return frozenset(frozen(one) for one in items)
        if opener != "{":
            return items
        if len(items) % 2:
            raise _NotEdn("a map with a key without value")
        return {key if type(key) is str else frozen(key): one for key, one in zip(items[::2], items[1::2], strict=True)}

    def mark(self, token: str) -> None:
        """A tag is dropped: what it stands before is the value."""
        if token == "#_":  # noqa: S105  No password.
            self.items[-1].append(_DISCARD)
        elif token in _SYMBOLIC:
            self.items[-1].append(_SYMBOLIC[token])
        elif len(token) == 1 or token.startswith("##"):
            raise _NotEdn("unknown mark")


def _kept(items: list[Any]) -> list[Any] | None:
    """The items without those that `#_` discards (`#_ #_ a b`: both); None while one waits for its value."""
    if _DISCARD not in items:
        return items
    kept: list[Any] = []
    discards = 0
    for item in items:
        if item is _DISCARD:
            discards += 1
        elif discards:
            discards -= 1
        else:
            kept.append(item)
    return None if discards else kept


def _atom(token: str) -> Any:
    if token[0] == ":":
        if len(token) == 1:
            raise _NotEdn("a keyword without name")
        return token[1:]
    if _INT.match(token):
        return int(token.rstrip("N"))
    if _FLOAT.match(token):
        return float(token.rstrip("M"))
    if ratio := _RATIO.match(token):
        if not int(ratio[2]):
            raise _NotEdn("a ratio over zero")
        return int(ratio[1]) / int(ratio[2])
    return token


def _char(name: str) -> str:
    if len(name) == 5 and name[0] == "u":
        return chr(int(name[1:], 16))
    if not name or (len(name) > 1 and name not in _CHARS):
        raise _NotEdn("unknown character")
    return _CHARS.get(name, name)


def _string(token: str) -> str:
    if len(token) == 1:
        raise _NotEdn("a string is not closed")
    if "\\" not in token:
        return token[1:-1]
    text = _ESCAPE.sub(_escape, token[1:-1])
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")  # Java writes pairs of halves.


def _escape(match: re.Match[str]) -> str:
    name = match[1]
    return chr(int(name[1:], 16)) if len(name) == 5 else _ESCAPES.get(name, name)
