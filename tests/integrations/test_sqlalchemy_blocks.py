"""The blocks through a Session of SQLAlchemy write what they write through `run`, on both engines."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa
from orm_users import User
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from waiting import auntil

import onefold
from onefold import Database, Doomed, Money, OnefoldError, Tx, events, jobs, ledger
from onefold.host.gate import Gate
from onefold.runtime import Supervisor, all_loops


@events.kind("user.came")
class UserCame(msgspec.Struct, frozen=True):
    name: str


@jobs.kind("user.greet")
class Greet(msgspec.Struct, frozen=True):
    name: str


@pytest.fixture
def db(real: Database) -> Database:
    return real


def gated_async(db: Database) -> AsyncEngine:
    return onefold.sqlalchemy.gate(create_async_engine(f"sqlite+aiosqlite:///{db.url}"))


def come(tx: Tx, name: str) -> str:
    ledger.open_account(tx, f"wallet/{name}", currency="EUR")
    ledger.open_account(tx, f"bank/{name}", currency="EUR", kind="unlimited")
    ledger.transfer(tx, name, debit=f"bank/{name}", credit=f"wallet/{name}", amount=Money(100, "EUR"))
    jobs.put(tx, Greet(name=name), unique=name)
    tx.add("users", 1)
    return events.append(tx, f"user/{name}", UserCame(name=name), UserCame(name=name), expected="absent").ids[-1]


def seen(db: Database, name: str) -> tuple[object, ...]:
    def look(tx: Tx) -> tuple[object, ...]:
        return (
            [(event.version, event.data) for event in events.read_stream(tx, f"user/{name}").items],
            ledger.balance(tx, f"wallet/{name}"), ledger.balance(tx, f"bank/{name}"), tx.total("users"),
            [job.args for job in jobs.list_jobs(tx, state="ready").items],
        )  # fmt: skip

    return db.run(look)


def test_all_blocks_work_in_a_session(db: Database, engine: sa.Engine) -> None:
    with Session(engine) as session:
        session.add(User(name="ana"))
        event_id = come(onefold.use(session), "ana")
        session.commit()
    with Supervisor(db, all_loops()):
        assert events.wait_for(db, event_id)
    found = seen(db, "ana")
    assert [version for version, _ in found[0]] == [1, 2]
    assert found[1].available == Money(100, "EUR")
    assert (found[3], len(found[4])) == (1, 1)


def test_a_counter_is_kept_as_the_engine_keeps_it(db: Database, engine: sa.Engine) -> None:
    with Session(engine) as session:
        onefold.use(session).add("users", 1)
        kept = session.scalar(sa.text("SELECT count(*) FROM onefold_counter_totals" if db.dialect == "sqlite"
                                      else "SELECT count(*) FROM onefold.counter_deltas"))
        session.rollback()
    assert kept == 1


def test_a_savepoint_of_the_session_tells_nobody_and_forgets_only_its_own(db: Database, engine: sa.Engine) -> None:
    told: list[str] = []
    with Session(engine) as session:
        tx = onefold.use(session)
        tx.on_commit(lambda: told.append("before"))
        with session.begin_nested():
            tx.on_commit(lambda: told.append("kept"))
        with pytest.raises(ZeroDivisionError), session.begin_nested(), session.begin_nested():
            tx.on_commit(lambda: told.append("undone"))
            inner = onefold.use(session)
            inner.on_commit(lambda: told.append("undone too"))
            raise ZeroDivisionError
        with pytest.raises(Doomed):
            inner.add("users", 1)
        assert told == []
        tx.on_commit(lambda: told.append("after"))
        session.commit()
        assert told == ["before", "kept", "after"]
        with pytest.raises(Doomed):
            tx.add("users", 1)
        with session.begin_nested():
            onefold.use(session).on_commit(lambda: told.append("too soon"))
        session.rollback()
    assert len(told) == 3


def test_a_closed_session_forgets_whom_to_tell(db: Database, engine: sa.Engine) -> None:
    told: list[str] = []
    session = Session(engine)
    onefold.use(session).on_commit(lambda: told.append("closed"))
    session.close()
    onefold.use(session).on_commit(lambda: told.append("committed"))
    session.commit()
    assert told == ["committed"]


def test_a_long_lived_session_has_no_more_listeners_with_each_transaction(db: Database, engine: sa.Engine) -> None:
    with Session(engine) as session:
        for _ in range(5):
            onefold.use(session).add("users", 1)
            session.commit()
        assert [len(list(session.dispatch.after_commit)), len(list(session.dispatch.after_rollback))] == [1, 0]


def test_a_callback_that_fails_does_not_fail_the_commit(
    db: Database, engine: sa.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[str] = []
    with Session(engine) as session:
        tx = onefold.use(session)
        tx.on_commit(lambda: 1 // 0)
        tx.on_commit(lambda: told.append("next"))
        session.add(User(name="ana"))
        session.commit()
    assert told == ["next"]
    assert "a callback after commit failed" in caplog.text


def test_a_savepoint_whose_transaction_is_gone_ends_with_an_error_of_ours(db: Database, engine: sa.Engine) -> None:
    with Session(engine) as session:
        tx = onefold.use(session)
        with pytest.raises(OnefoldError) as refused, tx.savepoint():
            if db.dialect == "sqlite":
                session.execute(sa.text("ROLLBACK"))
            else:
                pid = session.scalar(sa.text("SELECT pg_backend_pid()"))
                with engine.connect() as other:
                    assert other.scalar(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
        assert isinstance(refused.value.__cause__, sa.exc.DBAPIError)
        with pytest.raises(Doomed):
            tx.add("users", 1)
        session.invalidate()


def rolls_back(session: Session) -> None:
    session.rollback()


def closes(session: Session) -> None:
    session.close()


def undoes_its_connection(session: Session) -> None:
    transaction = session.connection().get_transaction()
    assert transaction is not None
    transaction.rollback()


@pytest.mark.parametrize("undo", [rolls_back, closes, undoes_its_connection])
def test_what_a_session_inside_run_undoes_is_not_committed(
    db: Database, engine: sa.Engine, undo: Callable[[Session], None]
) -> None:
    def work(tx: Tx) -> None:
        tx.add("half", 1)
        with onefold.sqlalchemy.session(tx) as session:
            session.add(User(name="ana"))
            session.flush()
            undo(session)

    with pytest.raises(Doomed) as doomed:
        db.run(work)
    assert getattr(doomed.value.__cause__, "code", None) == "inner_rollback"
    with Session(engine) as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(User)) == 0
    assert db.run(lambda tx: tx.total("half")) == 0


def test_a_block_of_a_session_inside_run_that_fails_is_not_committed(db: Database, engine: sa.Engine) -> None:
    def work(tx: Tx) -> None:
        with onefold.sqlalchemy.session(tx) as session, contextlib.suppress(ZeroDivisionError), session.begin():
            session.add(User(name="ana"))
            session.flush()
            raise ZeroDivisionError

    with pytest.raises(Doomed):
        db.run(work)
    with Session(engine) as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(User)) == 0


def test_the_time_on_postgres_is_the_servers(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onefold.core.clock.SYSTEM.now_ms", lambda: 1, raising=False)
    made = sa.create_engine(postgres_url.replace("postgresql://", "postgresql+psycopg://"))
    with Session(made) as session:
        server = session.scalar(sa.text("SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)"))
        assert onefold.use(session).now_ms >= server
    made.dispose()


def test_an_async_engine_waits_for_the_gate_and_its_event_loop_does_not(tmp_path: Path) -> None:
    with onefold.connect(tmp_path / "a.db") as db:
        engine = gated_async(db)
        gate = Gate(Path(db.url))

        async def visit() -> str:
            async with AsyncSession(engine) as session:
                event_id = await onefold.sqlalchemy.join(session, come, "ana")
                await session.commit()
                return event_id

        async def scenario() -> None:
            gate.acquire()
            task = asyncio.create_task(visit())
            done, _ = await asyncio.wait({task}, timeout=0.2)  # The loop is free to time this out.
            assert not done
            gate.release()
            await task
            assert gate.try_acquire()
            gate.close()
            await engine.dispose()

        asyncio.run(scenario())
        assert seen(db, "ana")[3] == 1


def test_a_task_that_is_cancelled_at_the_gate_leaves_it_free(tmp_path: Path) -> None:
    with onefold.connect(tmp_path / "a.db") as db:
        engine = gated_async(db)
        gate = Gate(Path(db.url))

        async def visit() -> None:
            async with AsyncSession(engine) as session:
                await onefold.sqlalchemy.join(session, come, "ana")
                await session.commit()

        async def scenario() -> None:
            gate.acquire()
            task = asyncio.create_task(visit())
            await asyncio.wait({task}, timeout=0.2)
            task.cancel()
            await asyncio.wait({task}, timeout=0.2)
            gate.release()
            await asyncio.wait({task})
            assert task.cancelled()
            await auntil(gate.try_acquire, "the gate")
            gate.release()
            await visit()
            await engine.dispose()

        asyncio.run(scenario())
        gate.close()
        assert seen(db, "ana")[3] == 1
