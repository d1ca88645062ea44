"""SQLAlchemy and Onefold in one transaction: what only SQLite has."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from orm_users import User, names
from sqlalchemy.orm import Session

import onefold
from onefold import Conflict, Database, Doomed, Invalid
from onefold.host.gate import Gate


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    with onefold.connect(tmp_path / "a.db") as database:
        yield database


def test_autocommit_of_a_raw_connection_is_refused(db: Database) -> None:
    raw = sqlite3.connect(db.url, isolation_level=None)
    with pytest.raises(Invalid, match="autocommit"):
        onefold.use(raw)
    raw.close()


def test_a_raw_connection_joins_too(db: Database) -> None:
    raw = sqlite3.connect(db.url)
    waiter = db.waiter("topic")
    tx = onefold.use(raw, space_name="tenant/1")
    tx.add("a", 5)
    with tx.savepoint():
        tx.add("a", 1)
    tx.wake("topic")
    raw.commit()
    tx.committed()
    assert waiter.wait(5)
    assert db.at("tenant/1").run(lambda tx: tx.total("a")) == 6
    raw.close()
    waiter.close()


def test_a_transaction_that_sqlite_ended_is_not_gone_on_with(db: Database, engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE own (x UNIQUE ON CONFLICT ROLLBACK)"))
    with Session(engine) as session:
        tx = onefold.use(session)
        tx.add("first", 1)
        session.execute(sa.text("INSERT INTO own VALUES (1)"))
        with pytest.raises(sa.exc.IntegrityError):
            session.execute(sa.text("INSERT INTO own VALUES (1)"))
        with pytest.raises(Doomed):
            tx.add("half", 1)
        session.commit()
    assert db.run(lambda tx: (tx.total("first"), tx.total("half"))) == (0, 0)


def test_a_database_without_onefold_is_refused(tmp_path: Path) -> None:
    raw = sqlite3.connect(tmp_path / "other.db")
    with pytest.raises(Conflict) as missing:
        onefold.use(raw)
    assert missing.value.code == "schema_missing"
    raw.close()


def test_an_orm_on_the_file_waits_its_turn(db: Database, engine: sa.Engine) -> None:
    """It takes the gate for its whole transaction, and ours and theirs lose nothing together."""
    with Session(engine) as session:
        session.add(User(name="holds"))
        session.flush()
        other = Gate(Path(db.url))
        assert not other.try_acquire()
        session.commit()
        assert other.try_acquire()
        other.close()

    def orm() -> None:
        for n in range(40):
            with Session(engine) as session:
                session.add(User(name=f"n{n}"))
                session.commit()

    def ours() -> None:
        for _ in range(40):
            db.run(lambda tx: tx.add("ours", 1))

    threads = [threading.Thread(target=orm), threading.Thread(target=ours), threading.Thread(target=ours)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names(engine)) == 41
    assert db.run(lambda tx: tx.total("ours")) == 80
