"""Values on the wire: how parameters are sent and rows are read; and texts compiled for it.

Parameters are sent in binary with an exact type: int8, text, float8, bool, bytea. NULL takes
the type that this parameter had last; before it had any, PostgreSQL infers one. Rows are read
as text: numeric becomes int when it is whole, float otherwise.
"""

from __future__ import annotations

import itertools
import math
import re
import struct
from collections.abc import Callable, Mapping
from typing import Any

import psycopg
from psycopg import pq
from psycopg.abc import Buffer
from psycopg.adapt import AdaptersMap, Loader, Transformer

from onefold.core.errors import Invalid
from onefold.engine.sql import check_room, compile_statement
from onefold.engine.tx import Row
from onefold.engine.values import check_parameters

_PLACES = re.compile(r"%%|%\((\w+)\)s")
# Subclasses (a StrEnum, an IntEnum) are bound as what they are made of, not as they print.
_PLAIN: dict[type, Callable[[Any], Any]] = {
    str: str.__str__, int: int.__int__, float: float.__float__, bytes: lambda value: bytes(memoryview(value)),
}  # fmt: skip

# No row, and it divides by zero: the only error that needs no function of our own in the database.
_REQUIRED = "WITH required AS MATERIALIZED (%s\n) SELECT 1 / count(*) FROM required"
NO_ROW = "22012"

_names = itertools.count(1)
_plans: dict[tuple[str, bool], Plan] = {}


def _text(value: str) -> bytes:
    if "\0" in value:
        raise ValueError
    return value.encode()


_pack_float = struct.Struct(">d").pack


def _float(value: float) -> bytes:
    if not math.isfinite(value):
        raise ValueError
    return _pack_float(value)


_DUMPERS: dict[type, tuple[int, Callable[[Any], bytes | None]]] = {
    int: (20, struct.Struct(">q").pack),
    str: (25, _text),
    float: (701, _float),
    bool: (16, struct.Struct("?").pack),
    bytes: (17, lambda value: value),
    type(None): (0, lambda _: None),
}


class Plan:
    """One text as the wire takes it: numbered parameters, and its prepared names by types."""

    __slots__ = ("_last", "_variants", "formats", "names", "text", "writes")

    def __init__(self, sql: str, *, required: bool) -> None:
        statement = compile_statement(sql, "postgres")
        names: dict[str, int] = {}

        def number(found: re.Match[str]) -> str:
            name = found[1]
            return "%" if name is None else f"${names.setdefault(name, len(names) + 1)}"

        text = _PLACES.sub(number, statement.text)
        self.text = (_REQUIRED % text if required else text).encode()
        self.writes = statement.writes
        self.names = tuple(names)
        self.formats = [pq.Format.BINARY] * len(names)
        self._last = [0] * len(names)
        self._variants: dict[tuple[int, ...], bytes] = {}

    def encode(self, parameters: Mapping[str, Any]) -> tuple[list[bytes | None], tuple[int, ...]]:
        """The values in order, and their types.

        Raises:
            Invalid: a value has no place in a column, or is missing.
        """
        try:
            return self._encode(parameters)
        except (KeyError, ValueError, struct.error):
            return self._encode(self._repaired(parameters))

    def name(self, types: tuple[int, ...]) -> bytes:
        """What this text is called on a connection when prepared for these types."""
        found = self._variants.get(types)
        if found is None:
            found = self._variants.setdefault(types, b"o%d" % next(_names))
        return found

    def _encode(self, parameters: Mapping[str, Any]) -> tuple[list[bytes | None], tuple[int, ...]]:
        values: list[bytes | None] = []
        types: list[int] = []
        last = self._last
        for place, name in enumerate(self.names):
            value = parameters[name]
            oid, dump = _DUMPERS[type(value)]
            values.append(dump(value))
            if oid:
                last[place] = oid
            types.append(oid or last[place])
        return values, tuple(types)

    def _repaired(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters as plain values, or the reason why not."""
        used: dict[str, Any] = {}
        for name in self.names:
            if name not in parameters:
                raise Invalid("The SQL text and its parameters do not fit.", code="statement", missing=name)
            used[name] = parameters[name]
        check_parameters(used)
        for name, value in used.items():
            if type(value) not in _DUMPERS:
                used[name] = next(plain(value) for base, plain in _PLAIN.items() if isinstance(value, base))
        return used


def plan_of(sql: str, *, required: bool = False) -> Plan:
    """The compiled text; Invalid when it would end the transaction.

    Args:
        sql: as a block wrote it.
        required: let the statement fail with the SQLSTATE `NO_ROW` when it gives no row.
    """
    plan = _plans.get((sql, required))
    if plan is None:
        check_room(_plans)
        plan = _plans[sql, required] = Plan(sql, required=required)
    return plan


class NumericLoader(Loader):
    """Sums of bigint come as numeric; whole ones are ints."""

    def load(self, data: Buffer) -> int | float:
        """Read "12", "12.00" or "0.5"."""
        text = bytes(data)
        whole, _, fraction = text.partition(b".")
        if fraction.strip(b"0"):
            return float(text)
        try:
            return int(whole)
        except ValueError:
            return float(text)  # NaN, Infinity.


def register_loaders(adapters: AdaptersMap) -> None:
    """Teach an adapters map to read as this engine does."""
    adapters.register_loader("numeric", NumericLoader)


class _Context:
    """What a Transformer wants to know."""

    connection = None
    adapters = AdaptersMap(psycopg.adapters)


register_loaders(_Context.adapters)


class Reader:
    """Reads rows; one per connection."""

    __slots__ = ("_transformer",)

    def __init__(self) -> None:
        self._transformer = Transformer(_Context())

    def rows(self, result: pq.abc.PGresult) -> list[Row]:
        """All rows of a result; none for a statement that returns none."""
        count = result.ntuples
        if not count:
            return []
        self._transformer.set_pgresult(result)
        return self._transformer.load_rows(0, count, tuple)
