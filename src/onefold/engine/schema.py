"""Schema files: numbered per block, applied in order, under a lock, once; never edited.

A release knows the files that it ships. A database that lacks some is migrated (SQLite) or
refused with the command to run (PostgreSQL); a database that has more is newer, and refused.
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

_FILE = re.compile(r"^(\d{3})\.sql$")
ENGINE_SCHEMA = Path(__file__).parent / "schema"


@dataclass(frozen=True, slots=True)
class SchemaFile:
    """One step of one block."""

    block: str
    version: int
    text: str

    @property
    def digest(self) -> str:
        """Tells an edited file from the one that was applied."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]

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
        Conflict: the database is newer than this release, or a file was edited after release.
    """
    have = {(block, version): digest for block, version, digest in applied}
    ours = {(file.block, file.version) for file in files}
    blocks = {file.block for file in files}
    # Blocks that this release does not know are somebody's later addition: as new as a later file.
    newer = sorted(key for key in have if key not in ours)
    if newer:
        raise Conflict(
            "The database was migrated by a newer release; upgrade this program.",
            code="schema_newer", block=newer[0][0], version=newer[0][1], known=newer[0][0] in blocks,
        )
    for file in files:
        digest = have.get((file.block, file.version))
        if digest is not None and digest != file.digest:
            raise Conflict(
                "A schema file was edited after it had been applied; add a new one instead.",
                code="schema_edited", block=file.block, version=file.version,
            )
    return [file for file in files if (file.block, file.version) not in have]


def apply(
    todo: Sequence[SchemaFile], dialect: Dialect, execute: Callable[..., Any], *, now_ms: int
) -> None:
    """Execute the files and record each; inside a transaction of the caller, under its lock.

    `execute(sql)` or `execute(sql, parameters)` runs one statement; parameters are positional,
    marked "?" for SQLite and "%s" for PostgreSQL.
    """
    mark, table = ("?", "onefold_schema") if dialect == "sqlite" else ("%s", "onefold.schema")
    for file in todo:
        for statement in file.statements(dialect):
            execute(statement)
        execute(
            f"INSERT INTO {table} (block, version, digest, applied_at_ms)"  # noqa: S608  Two constants.
            f" VALUES ({mark}, {mark}, {mark}, {mark})",
            (file.block, file.version, file.digest, now_ms),
        )
