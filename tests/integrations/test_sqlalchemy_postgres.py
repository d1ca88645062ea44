"""SQLAlchemy and Onefold in one transaction: what only PostgreSQL has."""

from __future__ import annotations

import threading

import psycopg
import pytest
import sqlalchemy as sa
from orm_users import User
from sqlalchemy.orm import Session

import onefold
from onefold import Database, Invalid, Tx


@pytest.fixture
def db(postgres: Database) -> Database:
    return postgres


def test_a_conflict_inside_the_session_is_run_again(db: Database, engine: sa.Engine) -> None:
    with Session(engine) as session:
        session.add(User(name="ana"))
        session.commit()
    db.run(lambda tx: tx.add("space", 1))  # The first write in a space writes down its name.
    barrier = threading.Barrier(2, timeout=20)
    attempts: list[int] = []

    def visit(tx: Tx, me: int) -> None:
        with onefold.sqlalchemy.session(tx) as session:
            user = session.scalar(sa.select(User).where(User.name == "ana"))
            assert user is not None
            seen = user.visits
            attempts.append(me)
            if attempts.count(me) == 1:
                barrier.wait()
            user.visits = seen + 1

    threads = [threading.Thread(target=db.run, args=(visit, me)) for me in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with Session(engine) as session:
        assert session.scalar(sa.select(User.visits)) == 2
    assert len(attempts) >= 3


def test_autocommit_of_a_raw_connection_is_refused(db: Database) -> None:
    with psycopg.connect(db.url, autocommit=True) as raw:
        with pytest.raises(Invalid, match="autocommit"):
            onefold.use(raw)
