"""Copying a database that others write, and putting a copy in place: `onefold backup` and `onefold restore`.

A copy is of one snapshot, so it is consistent however many write meanwhile, and nobody waits for it; but
the WAL cannot be reused while the snapshot is open, and grows by what is written. A copy gets its name
only when it was read back, found whole, and is on the disk: a name that exists is a backup.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import xxhash

from onefold.core.clock import SYSTEM
from onefold.core.errors import Conflict, Invalid, NotFound, Retry
from onefold.engine.sqlite.connection import real_path, translated, wal_of
from onefold.engine.sqlite.damage import damage_of, tables_in
from onefold.engine.sqlite.snapshot import snapshot
from onefold.engine.telling import Tell, ticking
from onefold.host import disks
from onefold.host.files import partial as unfinished
from onefold.host.files import place, sync_file, sync_folder, write_whole
from onefold.host.gate import Gate

GATE_WAIT_S = 30.0
STEP_PAGES = 2_048  # Copied between two calls of `tell`.
CHUNK_BYTES = 1 << 22
ROWS_PER_TELL = 50_000


class TableReport(msgspec.Struct, frozen=True):
    """What a table holds. `digest` is the sum of its rows' XXH3-128, so no order of rows matters."""

    rows: int
    digest: str


class Manifest(msgspec.Struct, frozen=True):
    """What a copy holds; lies beside it as FILE.json.

    Attributes:
        made_at_ms: when it was made.
        bytes: length of the file.
        sha256: of the file, 64 hexadecimal digits.
        schema: block, version and digest of each schema file that was applied.
        tables: every table of the file, the program's own too.
    """

    made_at_ms: int
    bytes: int
    sha256: str
    schema: list[tuple[str, int, str]]
    tables: dict[str, TableReport]


def manifest_of(file: Path) -> Path:
    """Where the manifest of a backup lies."""
    return file.with_name(file.name + ".json")


def backup_sqlite(path: Path, into: Path, *, tell: Tell, replace: bool = False) -> Manifest:
    """Copy the database at `path` into the new file `into`, read it back, and answer what it holds.

    Args:
        path: the database; it may be in use, be of any release, and is not changed.
        into: the backup; its folder must exist, and have room.
        tell: hears of the progress.
        replace: take the place of a backup that has this name.

    Raises:
        NotFound: there is no database at `path`.
        Conflict: code "exists": `into` exists, and `replace` was not given.
        Invalid: code "corrupt": the copy is not whole, because the database is not.
        Retry: the gate, or room on the disk, was not to be had.
    """
    path, into = _backed_up(path, into, replace=replace)
    with unfinished(into, mode=_mode_of(path)) as partial:
        counted = _copy(path, partial, tell)
        manifest = _examined(partial, tell)
        sync_file(partial)
        if counted != {name: table.rows for name, table in manifest.tables.items()}:
            raise Invalid("The copy does not hold what the snapshot held.", code="corrupt", file=str(into))
        beside = manifest_of(into)
        if replace:
            beside.unlink(missing_ok=True)  # First: an old manifest would accuse the new file.
        _place(partial, into, replace=replace)
        said = msgspec.json.format(msgspec.json.encode(manifest)) + b"\n"
        write_whole(beside, said, mode=_mode_of(path), replace=True)
    return manifest


def try_backup(path: Path, into: Path, *, replace: bool = False) -> int:
    """How many bytes `backup_sqlite` would copy; raises what it would raise at once. Nothing is written."""
    path, into = _backed_up(path, into, replace=replace)
    with snapshot(path) as source:
        size = _size(source)
    _check_room(into.parent, size)
    return size


def restore_sqlite(file: Path, path: Path, *, tell: Tell, replace: bool = False) -> tuple[Manifest, bool]:
    """Make the database `path` out of the backup `file`; answer what it holds, and whether a manifest agreed.

    The new file is read back before it gets its name. One that is replaced must not be in use.

    Raises:
        NotFound: there is no such backup.
        Conflict: code "exists": there is a database at `path`, and `replace` was not given; code
            "in_use": programs have it open.
        Invalid: code "corrupt": the backup is damaged, or is not what its manifest says; code "live":
            it is a database in use, of which a part is still in its WAL; code "foreign": it has no manifest,
            and nothing of Onefold.
        Retry: the gate, or room on the disk, was not to be had.
    """
    file, path = real_path(file), real_path(path)
    said = _restorable(file, path, replace=replace)
    with unfinished(path, mode=_mode_of(file)) as partial:
        size = file.stat().st_size
        _check_room(path.parent, size)
        digest = _copy_bytes(file, partial, size, tell)
        if said is not None and said.sha256 != digest:
            raise _other_than_said(file)
        found = _examined(partial, tell)
        sync_file(partial)
        _check_ours(file, said, found)
        if said is not None and (found.tables, found.schema) != (said.tables, said.schema):
            raise _other_than_said(file)
        if replace:
            _replace_database(partial, path)
        else:
            _place(partial, path, replace=False)
    return (found if said is None else said), said is not None


def try_restore(file: Path, path: Path, *, tell: Tell, replace: bool = False) -> tuple[Manifest, bool]:
    """What `restore_sqlite` would answer or raise: all of the backup is read, and nothing is written."""
    file, path = real_path(file), real_path(path)
    said = _restorable(file, path, replace=replace)
    if replace:
        _check_unused(path)
    _check_room(path.parent, file.stat().st_size)
    found = _examined(file, tell)
    _check_ours(file, said, found)
    if said is not None and (found.sha256, found.tables, found.schema) != (said.sha256, said.tables, said.schema):
        raise _other_than_said(file)
    return (found if said is None else said), said is not None


def table_reports(connection: sqlite3.Connection, tell: Tell) -> dict[str, TableReport]:
    """Rows and digest of every table, read in one pass each."""
    found: dict[str, TableReport] = {}
    names = tables_in(connection)
    for number, name in enumerate(names):
        rows, total = 0, 0
        for row in connection.execute(f'SELECT * FROM "{name}"'):  # noqa: S608  Of sqlite_master, quoted.
            rows += 1
            total += xxhash.xxh3_128_intdigest(repr(row).encode("utf-8", "surrogatepass"))
            if rows % ROWS_PER_TELL == 0:
                tell("reading back", number, len(names))
        found[name.replace('""', '"')] = TableReport(rows, f"{total % (1 << 128):032x}")
        tell("reading back", number + 1, len(names))
    return found


def _copy(path: Path, partial: Path, tell: Tell) -> dict[str, int]:
    """Copy one snapshot; answer the number of rows of its tables."""
    # The snapshot is held over all steps; without it every commit would start the copy anew.
    with snapshot(path) as source:
        _check_room(partial.parent, _size(source))
        with contextlib.closing(sqlite3.connect(partial, isolation_level=None)) as target:
            target.execute("PRAGMA journal_mode = OFF")  # A copy that fails is thrown away.
            target.execute("PRAGMA synchronous = OFF")  # Synced once, at the end.
            source.backup(
                target, pages=STEP_PAGES, progress=lambda _, left, total: tell("copying", total - left, total)
            )
        return {
            name.replace('""', '"'): _one(source, f'SELECT count(*) FROM "{name}"')  # noqa: S608  As above.
            for name in tables_in(source)
        }


def _examined(file: Path, tell: Tell) -> Manifest:
    """Read all of a file to which nobody writes, and say what it holds."""
    try:
        uri = f"file:{quote(str(file))}?mode=ro&immutable=1"
        with contextlib.closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
            connection.text_factory = _text
            with ticking(connection, tell, "checking"):
                damage = damage_of(connection, rows_only=False)
            if damage:
                raise Invalid("The file is damaged.", code="corrupt", damage=damage[:3])
            tables = table_reports(connection, tell)
            schema = _schema(connection) if "onefold_schema" in tables else []
    except sqlite3.Error as error:
        raise Invalid("The file is not a healthy SQLite database.", code="corrupt", why=str(error)) from error
    digest = hashlib.sha256()
    size = file.stat().st_size
    for done, chunk in _chunks(file):
        digest.update(chunk)
        tell("hashing", done, size)
    return Manifest(SYSTEM.now_ms(), size, digest.hexdigest(), schema, tables)


def _text(raw: bytes) -> str:
    """Of a program's own tables: SQLite keeps as text whatever bytes it is given."""
    return raw.decode("utf-8", "surrogateescape")


def _schema(connection: sqlite3.Connection) -> list[tuple[str, int, str]]:
    return connection.execute("SELECT block, version, digest FROM onefold_schema ORDER BY block, version").fetchall()


def _size(connection: sqlite3.Connection) -> int:
    return _one(connection, "PRAGMA page_count") * _one(connection, "PRAGMA page_size")


def _one(connection: sqlite3.Connection, sql: str) -> Any:
    (value,) = connection.execute(sql).fetchone()
    return value


# -- files --------------------------------------------------------------------------------------


def _backed_up(path: Path, into: Path, *, replace: bool) -> tuple[Path, Path]:
    """The database and where its backup may be put."""
    path, into = real_path(path), into.absolute()
    if not path.is_file():
        raise NotFound("There is no database at this path.", path=str(path))
    _check_target(into, path, replace=replace)
    return path, into


def _restorable(file: Path, path: Path, *, replace: bool) -> Manifest | None:
    """What the backup's manifest says, if it has one; refuses what is no backup, and where none may be put."""
    if not file.is_file():
        raise NotFound("There is no backup at this path.", path=str(file))
    if _has_wal(file):
        raise Invalid("This is a database in use, not a backup; copy it with onefold backup.", code="live")
    _check_target(path, file, replace=replace)
    if not replace and (_has_wal(path) or _journal_of(path).exists()):
        raise Conflict("A WAL or journal lies there that belongs to another file.", code="exists", path=str(path))
    return _read_manifest(file)


def _check_unused(path: Path) -> None:
    # One that has the gate has connected, and opens the file when it next needs it.
    users = sorted(set(disks.holders_of(path, sides=disks.OPENED | {"-gate"})) - {os.getpid()})
    if users:
        raise Conflict("Programs have the database open; stop them first.", code="in_use", pids=users)


def _check_ours(file: Path, said: Manifest | None, found: Manifest) -> None:
    """An empty file is a healthy database too; without a manifest it must look like one of ours."""
    if said is None and not found.schema:
        raise Invalid("There is no database of Onefold in this file.", code="foreign", file=str(file))


def _other_than_said(file: Path) -> Invalid:
    return Invalid("The backup is not what its manifest says.", code="corrupt", file=str(file))


def _check_target(target: Path, source: Path, *, replace: bool) -> None:
    if not target.parent.is_dir():
        raise Invalid("The folder of the new file does not exist.", folder=str(target.parent))
    if target.exists():
        if target.samefile(source):
            raise Invalid("A file cannot be copied onto itself.", path=str(target))
        if not replace:
            raise _exists(target)
        if not target.is_file():
            raise Invalid("Only a file can be replaced.", path=str(target))


def _check_room(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size:
        raise Retry("There is no room for the copy.", code="disk_full", folder=str(folder), bytes=size, free=free)


def _place(partial: Path, target: Path, *, replace: bool) -> None:
    """Give the file its name; a name that came up meanwhile is kept, unless `replace`."""
    try:
        place(partial, target, replace=replace)
    except FileExistsError:
        raise _exists(target) from None


def _replace_database(partial: Path, path: Path) -> None:
    """Put the new file in the place of a database that nobody uses, and keep all out meanwhile."""
    gate = Gate(path)
    try:
        if not gate.acquire_within(GATE_WAIT_S):
            raise Retry("Another process holds the file and does not let go.", code="gate", holder=gate.holder())
        _check_unused(path)
        # What is beside the old file must be gone before the new one is there: it would be applied to it. Before
        # that the old one takes it in: whoever dies between the two leaves it as whole as it was.
        _settle(path)
        for side in (wal_of(path), path.with_name(path.name + "-shm"), _journal_of(path)):
            side.unlink(missing_ok=True)
        sync_folder(path.parent)
        _place(partial, path, replace=True)
    finally:
        gate.close()


def _settle(path: Path) -> None:
    """Let a database that nobody uses take in what lies in its WAL or journal; one that is damaged cannot."""
    if not path.exists():
        return
    try:
        uri = f"file:{quote(str(path))}?mode=rw"
        with contextlib.closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
            busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.OperationalError as error:
        raise translated(error) from error
    except sqlite3.DatabaseError:
        return
    if busy:
        raise Retry("The database that is to be replaced is in use.", code="in_use", path=str(path))


def _has_wal(path: Path) -> bool:
    """Whether a part of a database is in its WAL still."""
    wal = wal_of(path)
    return wal.exists() and wal.stat().st_size > 0


def _journal_of(path: Path) -> Path:
    return path.with_name(path.name + "-journal")


def _read_manifest(file: Path) -> Manifest | None:
    try:
        return msgspec.json.decode(manifest_of(file).read_bytes(), type=Manifest)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise Invalid("The manifest cannot be read.", code="corrupt", why=str(error)) from None


def _copy_bytes(source: Path, target: Path, size: int, tell: Tell) -> str:
    digest = hashlib.sha256()
    with target.open("r+b") as out:
        for done, chunk in _chunks(source):
            digest.update(chunk)
            out.write(chunk)
            tell("copying", done, size)
    return digest.hexdigest()


def _chunks(file: Path) -> Iterator[tuple[int, bytes]]:
    done = 0
    with file.open("rb") as source:
        while chunk := source.read(CHUNK_BYTES):
            done += len(chunk)
            yield done, chunk


def _mode_of(file: Path) -> int:
    return file.stat().st_mode & 0o777


def _exists(target: Path) -> Conflict:
    return Conflict("There is a file of this name already.", code="exists", path=str(target))
