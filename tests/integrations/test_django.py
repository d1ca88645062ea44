"""Django and Onefold in one transaction, on both engines."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator

import pytest
from asgiref.sync import sync_to_async
from django.core.management import call_command
from django.db import IntegrityError, connections, transaction
from django.db.transaction import TransactionManagementError
from django_users import User, alias_of, names

import onefold
from onefold import Conflict, Database, Doomed, Invalid, Money, Tx, ledger


@pytest.fixture
def db(db_url: str) -> Iterator[Database]:
    with onefold.connect(db_url) as database:
        yield database


@pytest.fixture
def alias(db: Database) -> Iterator[str]:
    with alias_of(db.url) as made:
        yield made


def total(db: Database, key: str) -> int:
    return db.run(lambda tx: tx.total(key))


def test_one_commit_for_both_and_then_the_waiters(db: Database, alias: str) -> None:
    told: list[str] = []
    waiter = db.waiter("topic")
    with transaction.atomic(using=alias):
        User.objects.using(alias).create(name="ana")
        tx = onefold.django.use(alias)
        tx.add("users", 1)
        tx.wake("topic")
        tx.on_commit(lambda: told.append("ana"))
        assert not told
    assert told == ["ana"]
    assert waiter.wait(5)
    waiter.close()
    assert names(alias) == ["ana"]
    assert total(db, "users") == 1


def test_a_rollback_leaves_nothing_and_tells_nobody(db: Database, alias: str) -> None:
    told: list[str] = []
    with pytest.raises(ZeroDivisionError), transaction.atomic(using=alias):
        User.objects.using(alias).create(name="ana")
        tx = onefold.django.use(alias)
        tx.add("users", 1)
        tx.on_commit(lambda: told.append("ana"))
        raise ZeroDivisionError
    assert names(alias) == []
    assert total(db, "users") == 0
    assert not told


@pytest.mark.parametrize("join", [onefold.django.use, lambda alias: onefold.use(connections[alias])], ids=["alias", "connection"])
def test_outside_of_an_atomic_block_it_is_refused(alias: str, db: Database, join) -> None:
    with pytest.raises(Invalid) as refused:
        join(alias)
    assert refused.value.code == "autocommit"
    with transaction.atomic(using=alias):
        join(alias).add("users", 1)
    assert total(db, "users") == 1


def test_the_space_is_named(db: Database, alias: str) -> None:
    with transaction.atomic(using=alias):
        onefold.django.use(alias, space_name="tenant/7").add("users", 1)
    assert total(db, "users") == 0
    assert db.at("tenant/7").run(lambda tx: tx.total("users")) == 1


def test_an_inner_block_is_undone_alone(db: Database, alias: str) -> None:
    told: list[str] = []
    with transaction.atomic(using=alias):
        outer = onefold.django.use(alias)
        outer.add("outer", 1)
        outer.on_commit(lambda: told.append("outer"))
        with pytest.raises(ZeroDivisionError), transaction.atomic(using=alias):
            User.objects.using(alias).create(name="eve")
            undone = onefold.django.use(alias)
            undone.add("inner", 1)
            undone.on_commit(lambda: told.append("undone"))
            raise ZeroDivisionError
        with transaction.atomic(using=alias):
            User.objects.using(alias).create(name="ana")
            kept = onefold.django.use(alias)
            kept.add("inner", 10)
            kept.on_commit(lambda: told.append("kept"))
        outer.add("outer", 1)
    assert (total(db, "outer"), total(db, "inner")) == (2, 10)
    assert names(alias) == ["ana"]
    assert told == ["outer", "kept"]


def test_a_tx_stands_and_falls_with_its_block(db: Database, alias: str) -> None:
    with transaction.atomic(using=alias):
        outer = onefold.django.use(alias)
        with transaction.atomic(using=alias):
            inner = onefold.django.use(alias)
            for call in (lambda: outer.add("a", 1), lambda: outer.wake("a"), lambda: outer.many("SELECT :space", [])):
                with pytest.raises(Invalid) as other:
                    call()
                assert other.value.code == "other_block"
        with pytest.raises(Invalid) as other:
            inner.add("a", 1)
        assert other.value.code == "other_block"
        with transaction.atomic(using=alias, savepoint=False):
            outer.add("a", 1)  # No block of its own.
        outer.on_commit(lambda: pytest.raises(Invalid, outer.add, "a", 1))
    with transaction.atomic(using=alias):
        for gone in (outer, inner):
            with pytest.raises(Invalid) as over:
                gone.add("a", 1)
            assert over.value.code == "over"
        onefold.django.use(alias).add("a", 1)
    assert total(db, "a") == 2


def test_an_error_of_ours_that_is_swallowed_commits_nothing(db: Database, alias: str) -> None:
    with transaction.atomic(using=alias):
        User.objects.using(alias).create(name="ana")
        tx = onefold.django.use(alias)
        tx.add("half", 1)
        with pytest.raises(Invalid):
            tx.run("INSERT INTO onefold.counter_totals (space, key, total) VALUES (:space, '', 1)")
        with pytest.raises(Doomed):
            tx.add("half", 1)
        with pytest.raises(TransactionManagementError):
            User.objects.using(alias).create(name="bob")
        with pytest.raises(Invalid) as refused:
            onefold.django.use(alias)
        assert refused.value.code == "not_ready"
    assert names(alias) == []
    assert total(db, "half") == 0


def test_an_error_of_ours_in_an_inner_block_spares_the_outer_one(db: Database, alias: str) -> None:
    with transaction.atomic(using=alias):
        User.objects.using(alias).create(name="ana")
        with pytest.raises(Conflict), transaction.atomic(using=alias):
            tx = onefold.django.use(alias)
            ledger.open_account(tx, "a", currency="EUR")
            ledger.open_account(tx, "b", currency="EUR")
            ledger.transfer(tx, "1", debit="a", credit="b", amount=Money(1, "EUR"))
        onefold.django.use(alias).add("users", 1)
    assert names(alias) == ["ana"]
    assert total(db, "users") == 1
    with pytest.raises(onefold.NotFound):
        db.run(ledger.balance, "a")


def test_an_error_of_djangos_dooms_the_tx(db: Database, alias: str) -> None:
    User.objects.using(alias).create(name="ana")
    with transaction.atomic(using=alias):
        tx = onefold.django.use(alias)
        tx.add("half", 1)
        with pytest.raises(IntegrityError):
            User.objects.using(alias).create(name="ana")
        with pytest.raises(Doomed):
            tx.add("half", 1)
    assert total(db, "half") == 0


def test_a_savepoint_of_ours_undoes_rows_of_theirs(db: Database, alias: str) -> None:
    def nested(tx: Tx) -> None:
        with tx.savepoint():
            User.objects.using(alias).create(name="eve")
            with transaction.atomic(using=alias):
                User.objects.using(alias).create(name="bob")
            tx.run("INSERT INTO onefold.counter_totals (space, key, total) VALUES (:space, '', 1)")

    with transaction.atomic(using=alias):
        tx = onefold.django.use(alias)
        with pytest.raises(Invalid):
            nested(tx)
        with tx.savepoint():
            User.objects.using(alias).create(name="ana")
        tx.add("users", 1)
    assert names(alias) == ["ana"]
    assert total(db, "users") == 1


def test_from_an_async_view(db: Database, alias: str) -> None:
    def sell(name: str) -> None:
        try:
            with transaction.atomic(using=alias):
                User.objects.using(alias).create(name=name)
                onefold.django.use(alias).add("users", 1)
        finally:
            connections[alias].close()

    async def view() -> None:
        await asyncio.gather(*(sync_to_async(sell)(name) for name in ("ana", "bob", "eve")))
        await db.arun(lambda tx: tx.add("users", 10))

    asyncio.run(view())
    assert names(alias) == ["ana", "bob", "eve"]
    assert total(db, "users") == 13


def test_a_database_without_our_schema_says_so(alias: str, db: Database, tmp_path, request: pytest.FixtureRequest) -> None:
    if db.dialect == "sqlite":
        url = str(tmp_path / "theirs.db")
    else:
        url = request.getfixturevalue("postgres_cluster").create_database(f"{alias}_theirs")
    with alias_of(url) as theirs:
        with pytest.raises(Conflict) as refused, transaction.atomic(using=theirs):
            onefold.django.use(theirs)
        assert refused.value.code == "schema_missing"


def test_inspectdb_shows_their_tables_only(db: Database, alias: str) -> None:
    said = io.StringIO()
    call_command("inspectdb", database=alias, stdout=said)
    assert "class UsersUser(" in said.getvalue()
    assert "onefold" not in said.getvalue().lower()
