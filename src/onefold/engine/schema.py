"""Schema files: numbered per block, applied in order, under a lock, once; never edited.

A release knows the files that it ships. A database that lacks some is migrated (SQLite) or refused with
the command to run (PostgreSQL). A database that has more is newer: permitted while every further file of a
block that this release knows says that this release works on it, as "-- release 0.1 works on this: WHY" in
its first line; refused otherwise. See rfd 0020.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onefold.core.errors import Conflict, Invalid
from onefold.engine.sql import Dialect, compile_schema
from onefold.engine.telling import Tell, quiet

RELEASE = (0, 1)  # Of this program; a test holds it to pyproject.toml.

_FILE = re.compile(r"^(\d{3})\.sql$")
_WORKS = re.compile(r"-- release (\d+)\.(\d+) works on this: \S")
_RECORDED = re.compile(r"(\d+)\.(\d+):")
ENGINE_SCHEMA = Path(__file__).parent / "schema"


@dataclass(frozen=True, slots=True)
class SchemaFile:
    """One step of one block."""

    block: str
    version: int
    text: str

    @property
    def digest(self) -> str:
        """Tells an edited file from the one that was applied, and releases that lack it whether they may stay.

        "0.1:" before the hash: release 0.1 and later ones work on a database with this file.
        """
        oldest = _WORKS.match(self.text)
        return (f"{oldest[1]}.{oldest[2]}:" if oldest else "") + hashlib.sha256(self.text.encode()).hexdigest()[:16]

    def statements(self, dialect: Dialect) -> list[str]:
        """What to execute, one by one."""
        return compile_schema(self.text, dialect)


def load(directories: Iterable[tuple[str, Path]]) -> list[SchemaFile]:
    """All schema files, the engine's first, then each `(block, directory)` in the order given."""
    files: list[SchemaFile] = []
    for block, directory in (("engine", ENGINE_SCHEMA), *directories):
        numbered = sorted(
            (int(found[1]), path) for path in directory.iterdir() if (found := _FILE.match(path.name))
        )
        for expected, (version, path) in enumerate(numbered, start=1):
            if version != expected:
                raise Invalid("Schema files count 001, 002, ... without gaps.", block=block, found=version)
            files.append(SchemaFile(block, version, path.read_text(encoding="utf-8")))
    return files


def missing(files: Sequence[SchemaFile], applied: Iterable[tuple[str, int, str]]) -> list[SchemaFile]:
    """Which files are still to be applied.

    Args:
        files: what this release ships.
        applied: `(block, version, digest)` of every row of `onefold.schema`.

    Raises:
        Conflict: the database is newer than what this release works on, or a file was edited after release.
    """
    have = {(block, version): digest for block, version, digest in applied}
    ours = {(file.block, file.version) for file in files}
    blocks = {file.block for file in files}
    # A block touches only its own tables, so files of a block that this release lacks change nothing for it.
    for block, version in sorted(key for key in have if key not in ours and key[0] in blocks):
        if not _is_permitted(have[block, version]):
            raise Conflict(
                "The database was migrated by a newer release; upgrade this program.",
                code="schema_newer", block=block, version=version,
            )
    for file in files:
        digest = have.get((file.block, file.version))
        if digest is not None and digest != file.digest:
            raise Conflict(
                "A schema file was edited after it had been applied; add a new one instead.",
                code="schema_edited", block=file.block, version=file.version,
            )
    return [file for file in files if (file.block, file.version) not in have]


def _is_permitted(digest: str) -> bool:
    oldest = _RECORDED.match(digest)
    return oldest is not None and (int(oldest[1]), int(oldest[2])) <= RELEASE


def apply(
    todo: Sequence[SchemaFile], dialect: Dialect, execute: Callable[..., Any], *, now_ms: int, tell: Tell = quiet
) -> None:
    """Execute the files and record each; inside a transaction of the caller, under its lock.

    `execute(sql)` or `execute(sql, parameters)` runs one statement; parameters are positional,
    marked "?" for SQLite and "%s" for PostgreSQL. `tell` hears of each file before it is executed.
    """
    mark, table = ("?", "onefold_schema") if dialect == "sqlite" else ("%s", "onefold.schema")
    for number, file in enumerate(todo):
        tell(f"applying {file.block} {file.version:03}", number, len(todo))
        for statement in file.statements(dialect):
            execute(statement)
        execute(
            f"INSERT INTO {table} (block, version, digest, applied_at_ms)"  # noqa: S608  Two constants.
            f" VALUES ({mark}, {mark}, {mark}, {mark})",
            (file.block, file.version, file.digest, now_ms),
        )
