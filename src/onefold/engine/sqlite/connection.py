"""Opening SQLite the one way that suits us, and its errors in our words."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sqlite3
import sys
import time
from pathlib import Path
from typing import Self

from onefold.core.errors import Conflict, Invalid, OnefoldError, Retry, Unknown
from onefold.engine.call import Durability

VERSION_MIN = (3, 40, 0)
CACHED_STATEMENTS = 512
BUSY_TIMEOUT_S = 5.0  # For writers that do not take the gate; ours never meet.
BUSY_PAUSE_S = 0.01
CACHE_KIB = 65_536
CHECKPOINT_PAGES = 8_000  # 32 MiB: a page that changes again and again is written back once.
WAL_BYTES_KEPT = 64 << 20  # A WAL that grew beyond it, behind a long reader, is cut back afterwards.
HEAP_BYTES_KEPT, HEAP_BYTES_STEP = 64 << 20, 1 << 20
_M_TRIM_THRESHOLD, _M_TOP_PAD = -1, -2  # Of glibc's mallopt.

BEGIN_WRITE = "BEGIN IMMEDIATE -- the engine's"
BEGIN_READ = "BEGIN -- the engine's"
COMMIT = "COMMIT -- the engine's"
ROLLBACK = "ROLLBACK -- the engine's"
SYNCHRONOUS: dict[Durability, str] = {"always": "FULL", "everysec": "NORMAL"}


class EngineConnection(sqlite3.Connection):
    """A connection whose transactions are the engine's, also while a function has it.

    The engine's own words end in a remark, so that no statement that it prepared is taken for a function's.
    """

    _lent = _guarded = False

    def lend(self) -> Self:
        """The connection for a function, which can neither begin nor end a transaction with it.

        However it tries: there are six ways in the driver, and all of them prepare the word. An error may end the
        transaction all the same (ON CONFLICT ROLLBACK, an interrupted INSERT); whoever swallows it gets no further.
        """
        if not self._guarded:
            self.set_authorizer(self._judged)
            # Outside of a transaction the driver then says BEGIN before a write, which is refused; else a statement
            # that was prepared before, and is judged no more, would commit by itself.
            self.isolation_level = "IMMEDIATE"
            self._guarded = True
        self._lent = True
        return self

    def take_back(self) -> None:
        """The function is over; how it reads rows and texts is nobody else's affair."""
        if self._lent:
            self._lent = False
            self.row_factory, self.text_factory = None, str

    def close(self) -> None:
        """Close it; Invalid for a function that has it."""
        if self._lent:
            raise Invalid("A function over tx does not close the connection.", code="inner_commit")
        super().close()

    def _judged(self, action: int, *_: str | None) -> int:
        refused = self._lent and (action == sqlite3.SQLITE_TRANSACTION or not self.in_transaction)
        return sqlite3.SQLITE_DENY if refused else sqlite3.SQLITE_OK


def open_connection(path: Path, *, readonly: bool = False, durability: Durability = "always") -> EngineConnection:
    """A connection in WAL mode, in autocommit, usable from any one thread at a time.

    A writer must be opened under the gate: it may set the journal mode and recover the WAL.
    """
    if sqlite3.sqlite_version_info < VERSION_MIN:
        raise Invalid("SQLite 3.40 or newer is needed.", have=sqlite3.sqlite_version)
    try:
        connection = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, cached_statements=CACHED_STATEMENTS,
            timeout=BUSY_TIMEOUT_S, factory=EngineConnection,
        )
    except sqlite3.Error as error:
        raise Invalid("The database file cannot be opened.", path=str(path), why=str(error)) from error
    try:
        if readonly:
            connection.execute("PRAGMA query_only = ON")
            connection.execute("PRAGMA wal_autocheckpoint = 0")
        else:
            mode = _to_wal(connection)
            if mode != "wal":
                raise Invalid("The file system does not support WAL; use a local disk.", path=str(path), mode=mode)
            connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
            connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES_KEPT}")
        connection.execute(f"PRAGMA synchronous = {SYNCHRONOUS[durability]}")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA fullfsync = ON")  # Of macOS, where a sync is none without; nothing elsewhere.
        connection.execute("PRAGMA checkpoint_fullfsync = ON")
    except sqlite3.Error as error:
        connection.close()
        raise translated(error) from error
    except BaseException:
        connection.close()
        raise
    return connection


def _to_wal(connection: sqlite3.Connection) -> str:
    """Set WAL mode. SQLite does not wait for another program that writes in DELETE mode, so we do."""
    give_up = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                raise
            time.sleep(BUSY_PAUSE_S)
        else:
            return str(mode)


def real_path(path: Path) -> Path:
    """Without links: SQLite keeps the WAL beside the real file, and the gate must be one for all names."""
    return Path(os.path.realpath(path))


def wal_of(path: Path) -> Path:
    """Where SQLite keeps the write-ahead log; it may be opened, the file itself may not."""
    return path.with_name(path.name + "-wal")


def steady_heap() -> None:
    """Keep glibc from giving the heap's top back after each RETURNING: two brk calls a statement.

    Measured 11.4 us against 3.6 us for an upsert with RETURNING. Harmless elsewhere.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL(None)
            libc.mallopt(_M_TRIM_THRESHOLD, HEAP_BYTES_KEPT)
            libc.mallopt(_M_TOP_PAD, HEAP_BYTES_STEP)


def translated(error: BaseException, *, at_commit: bool = False) -> OnefoldError:
    """A driver error as one of ours. No driver error leaves the engine."""
    name: str = getattr(error, "sqlite_errorname", None) or ""
    why = str(error)
    if name in {"SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY", "SQLITE_CONSTRAINT_ROWID"}:
        return Conflict("A row with this key exists already.", code="unique", why=why)
    if name == "SQLITE_CONSTRAINT_FOREIGNKEY":
        return Conflict("A row that this one refers to is missing, or still referred to.", code="reference", why=why)
    if name.startswith("SQLITE_CONSTRAINT"):
        return Invalid("A constraint of the table refuses the row.", code="check", why=why)
    if name == "SQLITE_AUTH":
        return Invalid("A function over tx neither begins nor ends transactions.", code="inner_commit")
    if name == "SQLITE_INTERRUPT":
        return Retry("The deadline passed; the call was undone.", code="deadline")
    if name == "SQLITE_FULL":
        return Retry("The disk is full; nothing was written. Make room and repeat.", code="disk_full")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return Retry("Another program holds the file without taking the gate; see `onefold doctor`.", code="busy")
    if name.startswith("SQLITE_IOERR"):
        if at_commit:
            return Unknown("The disk failed at COMMIT; the outcome cannot be told.", code="io_error", why=why)
        return Retry("The disk failed; the call was undone.", code="io_error", why=why)
    if name == "SQLITE_READONLY":
        return Invalid("A reader cannot write, or the file is read-only.", code="read_only", why=why)
    if name in {"SQLITE_CORRUPT", "SQLITE_NOTADB"}:
        return Invalid("The file is not a healthy SQLite database; see `onefold doctor`.", code="corrupt", why=why)
    if isinstance(error, sqlite3.ProgrammingError):
        return Invalid("The SQL text and its parameters do not fit.", code="statement", why=why)
    return Invalid("SQLite refuses the statement.", code="statement", why=why)
