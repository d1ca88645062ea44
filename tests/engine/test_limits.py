"""What has a limit, at it and one past it, on both engines."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from engine_words import WAIT_S, Blocker, count, put

import onefold
from onefold import Database, Invalid, Retry, Tx
from onefold.core import ids
from onefold.engine import sql as sql_module
from onefold.engine import tx as tx_module
from onefold.engine import wake
from onefold.engine.postgres import codec
from onefold.engine.postgres import spaces as postgres_spaces
from onefold.engine.sqlite import everysec, readers
from onefold.engine.sqlite import spaces as sqlite_spaces
from onefold.engine.sqlite import tx as sqlite_tx


def refused(db: Database, work: Callable[[Tx], object]) -> str:
    """The code with which it is refused, having written nothing."""

    def writes_first(tx: Tx) -> None:
        put(tx, "written")
        work(tx)

    with pytest.raises(Invalid) as error:
        db.run(writes_first)
    assert db.run(count) == 0
    return error.value.code


@pytest.mark.parametrize("prefix", ["", "job1", "j" * 17])
def test_an_id_has_a_prefix_of_1_to_16_letters(db: Database, prefix: str) -> None:
    assert db.run(lambda tx: tx.new_id("j" * 16)).startswith("j" * 16 + "_")
    refused(db, lambda tx: tx.new_id(prefix))


def test_a_transaction_makes_only_so_many_ids(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids, "COUNT_MAX", 3)
    assert refused(db, lambda tx: [tx.new_id("job") for _ in range(4)]) == "ids"
    assert len(set(db.run(lambda tx: [tx.new_id("job") for _ in range(3)]))) == 3


def test_only_so_many_readers_are_admitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "ADMITTED_MAX", 1)
    blocker = Blocker()

    async def scenario() -> Retry:
        first = asyncio.create_task(db.reader().arun(blocker))
        await blocker.sits()
        try:
            with pytest.raises(Retry) as full:
                await db.reader().arun(count)
        finally:
            blocker.leave.set()
            await first
        return full.value

    with onefold.connect(tmp_path / "r.db") as db:
        assert asyncio.run(scenario()).code == "queue_full"


def test_a_read_that_gets_no_thread_is_admitted_no_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    blocker = Blocker()

    async def scenario(db: Database) -> None:
        first = asyncio.create_task(db.reader().arun(blocker))
        await blocker.sits()
        try:
            with monkeypatch.context() as patch:
                patch.setattr(threading.Thread, "start", no_more)
                with pytest.raises(RuntimeError):
                    await db.reader().arun(count)  # The pool has put it into its queue all the same.
        finally:
            blocker.leave.set()
            await first
        assert await db.reader().arun(count) == 0

    db = onefold.connect(tmp_path / "r.db")
    asyncio.run(scenario(db))
    closing = threading.Thread(target=db.close, daemon=True)
    closing.start()
    closing.join(2)
    assert not closing.is_alive(), "it waits for a call that ended"


def test_a_commit_stands_though_there_is_no_thread_for_what_comes_after_it(
    real: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_more(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    def hints(tx: Tx) -> str:
        put(tx, "a")
        tx.on_commit(heard.set)
        tx.wake("topic")
        return "done"

    synced: list[Path] = []
    heard = threading.Event()
    monkeypatch.setattr(everysec, "sync_file", synced.append)
    lazy = real.options(durability="everysec")
    assert real.run(count) == 0
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_more)
        assert lazy.run(hints) == "done"
    assert len(synced) == (1 if real.dialect == "sqlite" else 0), "nobody else would have brought it to the disk"
    assert not heard.is_set()
    assert lazy.run(hints) == "done"
    assert heard.wait(WAIT_S)
    real.close()
    assert len(synced) == (2 if real.dialect == "sqlite" else 0)


def test_a_counter_has_a_key_of_1_to_200_characters_and_counts_whole_numbers(db: Database) -> None:
    assert {refused(db, lambda tx, key=key: tx.add(key, 1)) for key in ("", "k" * 201, 7)} == {"key"}
    assert {refused(db, lambda tx, delta=delta: tx.add("k", delta)) for delta in (1.0, True, "1")} == {"type"}
    db.run(lambda tx: (tx.add("k" * 200, 1), tx.add("k", -2)))
    assert db.run(lambda tx: (tx.total("k" * 200), tx.total("k"))) == (1, -2)


@pytest.mark.parametrize(
    "hint",
    [lambda tx, n: tx.emit("fact", n=n), lambda tx, n: tx.wake(f"topic/{n}"), lambda tx, n: tx.on_commit(int)],
    ids=["emit", "wake", "on_commit"],
)
def test_a_transaction_gives_only_so_many_hints(
    db: Database, monkeypatch: pytest.MonkeyPatch, hint: Callable[[Tx, int], object]
) -> None:
    monkeypatch.setattr(tx_module, "HINTS_MAX", 3)
    refused(db, lambda tx: [hint(tx, n) for n in range(4)])
    assert len(db.run(lambda tx: [hint(tx, n) for n in range(3)])) == 3


def test_behind_a_stuck_callback_hints_are_dropped_and_come_again_later(
    db: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(wake, "HINTS_QUEUED_MAX", 1)
    entered, leave, told = threading.Event(), threading.Event(), [threading.Event() for _ in range(6)]

    def stuck() -> None:
        entered.set()
        leave.wait(WAIT_S)

    db.run(lambda tx: tx.on_commit(stuck))
    assert entered.wait(WAIT_S)
    with caplog.at_level(logging.ERROR, "onefold"):
        for event in told[:4]:
            db.run(lambda tx, event=event: tx.on_commit(event.set))
    assert len(caplog.records) == 1  # Of three that were dropped: whoever reads the log needs to know once.
    leave.set()
    assert told[0].wait(WAIT_S)
    for event in told[4:]:
        db.run(lambda tx, event=event: tx.on_commit(event.set))
        assert event.wait(WAIT_S)
    assert [event.is_set() for event in told] == [True, False, False, False, True, True]


class Metres(float):
    """As good as a float."""


def test_a_subclass_of_float_is_held_to_what_floats_are(db: Database) -> None:
    assert db.run(lambda tx: tx.one("SELECT CAST(:v AS DOUBLE PRECISION)", v=Metres(1.5))) == (1.5,)
    assert refused(db, lambda tx: tx.one("SELECT CAST(:v AS DOUBLE PRECISION)", v=Metres("inf"))) == "not_finite"


def test_an_option_at_its_limit_is_taken(db: Database) -> None:
    for deadline_ms in (1, 600_000):
        db.options(deadline_ms=deadline_ms)
    assert db.at("s" * 200).space_name == "s" * 200
    assert db.at("s" * 200).options(deadline_ms=600_000, hot="h" * 200).run(lambda tx: len(tx.space_name)) == 200
    assert db.options(hot="h").run(lambda tx: tx.wake("t" * 10_000)) is None
    with pytest.raises(Invalid):
        db.options(deadline_ms=600_001)


def test_only_so_many_texts_are_kept_and_those_go_on_to_work(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    db.run(count)
    kept = sqlite_tx._statements if db.dialect == "sqlite" else codec._plans
    monkeypatch.setattr(sql_module, "TEXTS_MAX", len(kept) + 1)
    assert db.run(lambda tx: tx.one(f"SELECT 1 -- {id(db)}")) == (1,)
    assert "SQL texts" in str(pytest.raises(Invalid, db.run, lambda tx: tx.one(f"SELECT 2 -- {id(db)}")).value)
    assert db.run(lambda tx: tx.one(f"SELECT 1 -- {id(db)}")) == (1,)


def test_only_so_many_spaces_are_remembered_and_all_can_be_used(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (sqlite_spaces, postgres_spaces):
        monkeypatch.setattr(module, "KNOWN_MAX", 2)
    engine = db._engine
    known = engine._spaces if db.dialect == "postgres" else engine._parts.writer.batches._spaces  # type: ignore[attr-defined]
    sizes = []
    for name in ("a", "b", "c", "a"):
        db.at(name).run(put, "k")
        sizes.append(len(known._known))
    assert sizes == [1, 2, 1, 2]
    assert [db.at(name).run(count) for name in "abc"] == [1, 1, 1]
