"""One literal SQL text for both engines, compiled once per text.

What is written                 SQLite                  PostgreSQL
:name                           ?1, ?2, ...            %(name)s
onefold.jobs                    onefold_jobs            onefold.jobs
{for_update} {for_share}        (nothing)               FOR UPDATE, FOR SHARE
{skip_locked}                   (nothing)               SKIP LOCKED
{null:int} {null:text}          NULL                    CAST(NULL AS BIGINT), ... AS TEXT

Schema files have these besides:
INTEGER, REAL, BLOB, TEXT       themselves              BIGINT, DOUBLE PRECISION, BYTEA,
BOOLEAN                         INTEGER                 TEXT COLLATE "C", BOOLEAN
{identity}                      INTEGER PRIMARY KEY     BIGINT GENERATED ALWAYS AS IDENTITY
                                AUTOINCREMENT           PRIMARY KEY
{table}                         STRICT                  (nothing)
{table:clustered}               STRICT, WITHOUT ROWID   (nothing)
{table:hot}                     STRICT                  WITH (fillfactor=50)
{table:clustered,hot}           STRICT, WITHOUT ROWID   WITH (fillfactor=50)
-- engine: sqlite               the statement below it  (nothing)
-- engine: postgres             (nothing)               the statement below it

The last two are lines of their own: what one engine needs and the other would pay for in vain. All
other comments, strings and quoted names are left as they are.
"""

from __future__ import annotations

import re
from collections.abc import Sized
from typing import Literal, NamedTuple, get_args

from onefold.core.errors import Invalid

Dialect = Literal["sqlite", "postgres"]

TEXTS_MAX = 10_000  # That are kept compiled, of each driver.

_TOKENS = re.compile(
    r"""(?P<literal>'(?:[^']|'')*'|"(?:[^"]|"")*")"""
    r"""|(?P<comment>--[^\n]*)"""
    r"""|(?P<cast>::)"""
    r"""|(?<![\w:]):(?P<parameter>[a-z_][a-z0-9_]*)"""
    r"""|\bonefold\.(?P<table>[a-z_][a-z0-9_]*)"""
    r"""|\{(?P<slot>[a-z_:,]+)\}"""
    r"""|(?P<percent>%)"""
)
_TYPES = re.compile(r"\b(INTEGER|REAL|BLOB|TEXT|BOOLEAN)\b")
_ENGINE = re.compile(r"^[ \t]*--[ \t]*engine:[ \t]*(.*?)[ \t]*$", re.MULTILINE)
_FIRST_WORD = re.compile(r"\s*(?:--[^\n]*\n\s*)*([A-Za-z]+)")
_FORBIDDEN = frozenset((
    "begin", "commit", "rollback", "savepoint", "release", "end", "attach", "detach", "pragma", "vacuum", "set",
    "start", "abort", "prepare",
))  # fmt: skip
_FOREIGN = re.compile(
    r"(?:\s|;|--[^\n]*|/\*.*?\*/)*([a-z]*)(?:\s+(?:(?:work|transaction)\s+)?(to)\b)?", re.DOTALL | re.IGNORECASE
)
_ENDING = frozenset(("begin", "commit", "rollback", "end", "start", "abort", "prepare"))
_WRITES = re.compile(r"\b(INSERT|UPDATE|DELETE|MERGE)\b", re.IGNORECASE)

_SLOTS: dict[str, tuple[str, str]] = {  # slot: (SQLite, PostgreSQL)
    "for_update": ("", "FOR UPDATE"),
    "for_share": ("", "FOR SHARE"),
    "skip_locked": ("", "SKIP LOCKED"),
    "null:int": ("NULL", "CAST(NULL AS BIGINT)"),
    "null:text": ("NULL", "CAST(NULL AS TEXT)"),
    "identity": (
        "INTEGER PRIMARY KEY AUTOINCREMENT",
        "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    ),
    "table": ("STRICT", ""),
    "table:clustered": ("STRICT, WITHOUT ROWID", ""),
    "table:hot": ("STRICT", "WITH (fillfactor=50)"),
    "table:clustered,hot": ("STRICT, WITHOUT ROWID", "WITH (fillfactor=50)"),
}
_TYPES_OF: dict[str, tuple[str, str]] = {
    "INTEGER": ("INTEGER", "BIGINT"),
    "REAL": ("REAL", "DOUBLE PRECISION"),
    "BLOB": ("BLOB", "BYTEA"),
    "TEXT": ("TEXT", 'TEXT COLLATE "C"'),
    "BOOLEAN": ("INTEGER", "BOOLEAN"),
}


class Statement(NamedTuple):
    """A text as one driver takes it. `parameters` are in the order of their numbers."""

    text: str
    parameters: tuple[str, ...]
    writes: bool


def first_word(sql: str) -> str:
    """The word with which a text of a foreign library begins, in small letters; "" when it has none."""
    found = _FOREIGN.match(sql)
    return found[1].lower() if found else ""


def ends_transaction(sql: str) -> bool:
    """Whether a text of a foreign library begins or ends a transaction; savepoints it may have."""
    found = _FOREIGN.match(sql)
    return found is not None and found[1].lower() in _ENDING and not found[2]


def compile_statement(sql: str, dialect: Dialect) -> Statement:
    """Compile one statement of a block; Invalid when it would end the transaction."""
    found = _FIRST_WORD.match(sql)
    word = found[1].lower() if found else ""
    if word in _FORBIDDEN or not word:
        raise Invalid("A function over tx neither begins nor ends transactions.", word=word)
    parameters: dict[str, int] = {}
    text = _rewrite(sql, dialect, parameters)
    reads = word in {"select", "values", "explain"} or (word == "with" and not _WRITES.search(sql))
    return Statement(text, tuple(parameters), not reads)


def check_room(texts: Sized) -> None:
    """Refuse another text where so many are kept that values must be written into them."""
    if len(texts) >= TEXTS_MAX:
        raise Invalid("Too many different SQL texts; pass values as parameters.", most=TEXTS_MAX)


def compile_schema(script: str, dialect: Dialect) -> list[str]:
    """The statements of a schema file for one engine, in order. A statement ends with ";" at a line's end."""
    statements: list[str] = []
    types = {name: pair[0 if dialect == "sqlite" else 1] for name, pair in _TYPES_OF.items()}
    for raw in re.split(r";[ \t]*(?:--[^\n]*)?(?:\n|\Z)", script):
        text = "\n".join(line.split("--")[0].rstrip() for line in raw.splitlines())
        if not text.strip() or not _is_for(raw, dialect):
            continue
        text = _TYPES.sub(lambda found: types[found[1]], text)
        statements.append(_rewrite(text, dialect, {}).replace("%%", "%").strip())
    return statements


def _is_for(raw: str, dialect: Dialect) -> bool:
    """Whether `dialect` executes the statement; Invalid when its mark names no engine, or several."""
    marks = _ENGINE.findall(raw)
    if not marks:
        return True
    *others, mark = marks
    if others or mark not in get_args(Dialect):
        raise Invalid("A statement is for both engines, or marked for one of them.", marks=marks)
    return bool(mark == dialect)


def _rewrite(sql: str, dialect: Dialect, parameters: dict[str, int]) -> str:
    sqlite = dialect == "sqlite"

    def replace(found: re.Match[str]) -> str:
        if name := found["parameter"]:
            number = parameters.setdefault(name, len(parameters) + 1)
            return f"?{number}" if sqlite else f"%({name})s"
        if table := found["table"]:
            return f"onefold_{table}" if sqlite else f"onefold.{table}"
        if slot := found["slot"]:
            if slot not in _SLOTS:
                raise Invalid("The SQL text has an unknown slot.", slot=slot)
            return _SLOTS[slot][0 if sqlite else 1]
        if found["percent"]:
            return "%" if sqlite else "%%"
        literal = found[0]
        return literal if sqlite else literal.replace("%", "%%")

    return _TOKENS.sub(replace, sql)
