"""SQLAlchemy and Onefold in one transaction, on both engines."""

from __future__ import annotations

import asyncio

import pytest
import sqlalchemy as sa
from orm_users import User, async_url_of, names
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

import onefold
from onefold import Conflict, Database, Doomed, Invalid, Tx


@pytest.fixture
def db(real: Database) -> Database:
    return real


def test_use_joins_the_sessions_transaction(db: Database, engine: sa.Engine) -> None:
    waiter = db.waiter("topic")
    with Session(engine) as session:
        session.add(User(name="ana"))
        tx = onefold.use(session)
        tx.add("users", 1)
        tx.wake("topic")
        session.commit()
    assert names(engine) == ["ana"]
    assert db.run(lambda tx: tx.total("users")) == 1
    assert waiter.wait(5)
    with Session(engine) as session:
        session.add(User(name="bob"))
        onefold.sqlalchemy.use(session).add("users", 1)
        session.rollback()
    assert names(engine) == ["ana"]
    assert db.run(lambda tx: tx.total("users")) == 1
    waiter.close()


def test_a_swallowed_error_dooms_only_our_tx(db: Database, engine: sa.Engine) -> None:
    with Session(engine) as session:
        tx = onefold.use(session)
        with pytest.raises(Invalid):
            tx.run("INSERT INTO onefold.counter_totals (space, key, total) VALUES (:space, '', 1)")
        with pytest.raises(Doomed):
            tx.add("a", 1)
        session.rollback()


def test_a_session_lives_inside_run(db: Database, engine: sa.Engine) -> None:
    def work(tx: Tx, name: str) -> int:
        tx.add("users", 1)
        with onefold.sqlalchemy.session(tx) as session:
            session.add(User(name=name))
            session.flush()
            tx.add("between", 1)
            found = session.scalar(sa.select(sa.func.count()).select_from(User))
        assert tx.total("between") == found
        return found or 0

    assert db.run(work, "ana") == 1
    assert asyncio.run(db.arun(work, "bob")) == 2
    assert names(engine) == ["ana", "bob"]

    def fails(tx: Tx) -> None:
        work(tx, "eve")
        raise Conflict("No.")

    with pytest.raises(Conflict, match="No"):
        db.run(fails)
    assert names(engine) == ["ana", "bob"]
    assert db.run(lambda tx: tx.total("users")) == 2


def test_its_own_commit_raises_and_nothing_stays(db: Database, engine: sa.Engine) -> None:
    def commits(tx: Tx) -> None:
        with onefold.sqlalchemy.session(tx) as session:
            session.add(User(name="ana"))
            session.commit()

    with pytest.raises(Invalid, match="run"):
        db.run(commits)
    assert names(engine) == []


@pytest.mark.parametrize("text", ["COMMIT", "rollback", "/* x */ END", "-- x\nCOMMIT", "BEGIN", "ROLLBACK WORK"])
def test_a_commit_in_words_is_refused_and_costs_nobody_else(db: Database, engine: sa.Engine, text: str) -> None:
    def ends(tx: Tx) -> None:
        tx.add("half", 1)
        with onefold.sqlalchemy.session(tx) as session:
            session.add(User(name="ana"))
            session.flush()
            try:
                session.execute(sa.text(text))
            except Invalid:
                pass

    async def crowd() -> list[object]:
        innocents = (db.arun(lambda tx: tx.add("innocent", 1)) for _ in range(8))
        return await asyncio.gather(db.arun(lambda tx: tx.add("innocent", 1)), db.arun(ends), *innocents, return_exceptions=True)

    outcomes = asyncio.run(crowd())
    assert isinstance(outcomes.pop(1), Invalid | Doomed)
    assert outcomes == [None] * 9
    assert names(engine) == []
    assert db.run(lambda tx: (tx.total("half"), tx.total("innocent"))) == (0, 9)


def test_savepoints_of_the_session_are_its_own(db: Database, engine: sa.Engine) -> None:
    def nests(tx: Tx) -> None:
        with onefold.sqlalchemy.session(tx) as session:
            session.add(User(name="ana"))
            with pytest.raises(ZeroDivisionError), session.begin_nested():
                session.add(User(name="bob"))
                session.flush()
                raise ZeroDivisionError
            with session.begin_nested():
                session.add(User(name="eve"))

    db.run(nests)
    assert names(engine) == ["ana", "eve"]


def test_an_error_swallowed_inside_the_session_dooms(db: Database, engine: sa.Engine) -> None:
    def swallows(tx: Tx) -> None:
        tx.add("half", 1)
        with onefold.sqlalchemy.session(tx) as session:
            session.execute(sa.insert(User).values(name="ana"))
            try:
                session.execute(sa.insert(User).values(name="ana"))
            except sa.exc.IntegrityError:
                pass

    with pytest.raises(Doomed):
        db.run(swallows)
    assert names(engine) == []
    assert db.run(lambda tx: tx.total("half")) == 0


def test_join_from_asyncio(db: Database, engine: sa.Engine) -> None:
    def work(tx: Tx, by: int) -> int:
        tx.add("async", by)
        return tx.total("async")

    async def scenario() -> list[int]:
        async_engine = create_async_engine(async_url_of(db))
        async with AsyncSession(async_engine) as session:
            session.add(User(name="ana"))
            first = await onefold.sqlalchemy.join(session, work, 3)
            await session.commit()
        async with AsyncSession(async_engine) as session:
            second = await onefold.sqlalchemy.join(session, work, 4)
            await session.rollback()
        await async_engine.dispose()
        return [first, second]

    assert asyncio.run(scenario()) == [3, 7]
    assert db.run(lambda tx: tx.total("async")) == 3
    assert names(engine) == ["ana"]


def test_autocommit_is_refused(db: Database, engine: sa.Engine) -> None:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        with pytest.raises(Invalid, match="autocommit"):
            onefold.use(connection)
    with pytest.raises(Invalid):
        onefold.use(object())
