"""What the writer makes of a disk that fails at a statement of its own, without any disk."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_words import get, in_one_batch, put

import onefold
from onefold import Database, Retry, Unknown
from onefold.engine.sqlite import batches


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Database]:
    with onefold.connect(tmp_path / "a.db") as db:
        db.run(put, "before")
        yield db


def group_of(db: Database) -> batches.Batches:
    return db._engine._parts.writer.batches  # type: ignore[attr-defined]


class Fails:
    """The writer's cursor on a disk that fails when it is to execute one text, the first times excepted."""

    def __init__(self, group: batches.Batches, at: str, *, after: int = 0) -> None:
        self._cursor = group._cursor
        self._at = at
        self._left = after
        group._cursor = self  # type: ignore[assignment]

    def execute(self, sql: str, *parameters: Any) -> Any:
        self._left -= sql == self._at
        if sql == self._at and self._left < 0:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorname = "SQLITE_IOERR_FSYNC"
            raise error
        return self._cursor.execute(sql, *parameters)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)


def test_a_commit_at_which_the_disk_fails_is_unknown_to_each_of_its_callers(
    plain: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    again: list[Path] = []

    def written(wal: Path) -> None:
        assert group_of(plain).connection is kept, "its close may write back what the log does not hold"
        again.append(wal)

    monkeypatch.setattr(batches, "write_again", written)
    kept = group_of(plain).connection
    Fails(group_of(plain), batches.COMMIT)
    with pytest.raises(Unknown) as told:
        plain.run(put, "a")
    assert told.value.code == "io_error"
    assert plain.run(get, "a") is None
    assert again == [Path(f"{plain.url}-wal")], "before the next transaction the log is written again"
    kept = group_of(plain).connection
    Fails(group_of(plain), batches.COMMIT, after=1)
    answers = in_one_batch(plain, (None, put, "b"), (None, put, "c"))  # The one that holds them up is committed.
    assert [type(answer) for answer in answers] == [Unknown] * 2
    assert answers[0] is not answers[1]
    assert [plain.run(get, key) for key in ("before", "b", "c")] == [1, None, None]
    assert len(again) == 2


def test_a_connection_that_failed_to_begin_is_replaced(plain: Database) -> None:
    Fails(group_of(plain), batches.BEGIN_WRITE)
    with pytest.raises(Retry) as told:
        plain.run(put, "a")
    assert told.value.code == "io_error"
    plain.run(put, "a")
    assert plain.run(get, "a") == 1


def test_nothing_is_written_before_a_log_whose_sync_failed_is_mended(
    plain: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuses(_: Path) -> None:
        raise OSError(5, "Input/output error")

    group_of(plain).suspect = True
    with monkeypatch.context() as patch:
        patch.setattr(batches, "write_again", refuses)
        for _ in range(2):
            with pytest.raises(Retry, match="does not take") as told:
                plain.run(put, "a")
            assert told.value.code == "io_error"
    assert plain.run(get, "a") is None
    assert [line.message for line in caplog.records] == ["a sync of the WAL had failed; it was written again"]
    plain.run(put, "a")
    assert len(caplog.records) == 1
    group_of(plain).reset()
    group_of(plain).suspect = True
    assert plain.run(get, "a") == 1, "also where no connection is open"
    assert len(caplog.records) == 2


def test_a_log_that_cannot_be_mended_does_not_keep_a_database_from_closing(
    plain: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuses(_: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(batches, "write_again", refuses)
    group_of(plain).suspect = True
    with caplog.at_level(logging.ERROR, "onefold.writer"):
        plain.close()
    assert [line.message[:30] for line in caplog.records] == ["the WAL could not be mended: T"]


def test_a_log_that_cannot_be_looked_at_costs_no_commit(
    plain: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(batches, "LOOK_COMMITS", 1)
    monkeypatch.setattr(batches, "wal_of", lambda path: path.with_name("nowhere"))
    plain.run(put, "a")
    assert plain.run(get, "a") == 1
    assert caplog.records[0].message.startswith("the WAL could not be written back")
