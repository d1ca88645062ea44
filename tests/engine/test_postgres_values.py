"""Values and errors on PostgreSQL, and who is let in: schemas, migrations, passwords."""

from __future__ import annotations

import enum
import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import psycopg
import pytest
from engine_words import INSERT, get, put
from hypothesis import given
from hypothesis import strategies as st
from waiting import until

import onefold
from onefold import Conflict, Database, Invalid, OnefoldError, Retry, Tx
from onefold.cli.main import parser
from onefold.engine import schema
from onefold.engine.postgres import engine as engine_module
from onefold.engine.postgres import migrate as migrate_module
from onefold.engine.postgres.asking import asking
from onefold.engine.postgres.backup import backup_facts
from onefold.engine.postgres.errors import from_psycopg
from onefold.engine.postgres.rehearsing import Expected
from onefold.testing.postgres import Cluster

# -- values, and errors -------------------------------------------------------------------------------


class Colour(enum.StrEnum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


def test_types_are_exact_and_null_takes_any(plain: Database) -> None:
    def types(tx: Tx) -> Any:
        return tx.one(
            """SELECT CAST(pg_typeof(:i) AS text), CAST(pg_typeof(:s) AS text), CAST(pg_typeof(:f) AS text),
                      CAST(pg_typeof(:b) AS text), CAST(pg_typeof(:y) AS text)""",
            i=1, s="x", f=0.5, b=True, y=b"z",
        )  # fmt: skip

    assert plain.run(types) == ("bigint", "text", "double precision", "boolean", "bytea")
    for value in (None, 5, None, 2**62):
        assert plain.run(lambda tx: tx.one("SELECT coalesce(:v, CAST(7 AS bigint))", v=value)) == (value or 7,)
    for value in (5, None):  # NULL is of the type that was there before: one plan for both.
        assert plain.run(lambda tx: tx.one("SELECT CAST(pg_typeof(:v) AS text)", v=value)) == ("bigint",)
    assert plain.run(lambda tx: tx.one("SELECT :c || :l", c=Colour.RED, l="!")) == ("red!",)
    assert plain.run(lambda tx: tx.one("SELECT :n + 1", n=Level.HIGH)) == (4,)


def test_whole_numerics_are_ints(plain: Database) -> None:
    row = plain.run(lambda tx: tx.one("SELECT sum(n), avg(n), 1.50, CAST('NaN' AS numeric) FROM (VALUES (1), (2)) AS v (n)"))
    assert row is not None
    assert row[:3] == (3, 1.5, 1.5)
    assert [type(value) for value in row] == [int, float, float, float]
    assert row[3] != row[3]


plain_values = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.binary(max_size=300),
    st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=300),
)  # fmt: skip


@pytest.fixture(scope="module")
def one_database(postgres_cluster: Cluster) -> Iterator[Database]:
    url = postgres_cluster.create_database("values", template="onefold_template")
    with onefold.connect(url) as db:
        yield db
    postgres_cluster.drop_database("values")


@given(st.lists(plain_values, min_size=1, max_size=6))
def test_any_value_comes_back_as_it_went(one_database: Database, values: list[Any]) -> None:
    kinds = {int: "bigint", float: "float8", bool: "boolean", bytes: "bytea", str: "text"}
    columns = ", ".join(f"CAST(:v{n} AS {kinds[type(v)]})" for n, v in enumerate(values))
    parameters = {f"v{n}": v for n, v in enumerate(values)}
    row = one_database.reader().run(lambda tx: tx.one(f"SELECT {columns}", **parameters))
    assert row == tuple(values)
    assert [type(v) for v in row] == [type(v) for v in values]


@pytest.mark.parametrize(
    ("sql", "kind", "code"),
    [
        (INSERT + " RETURNING total", Conflict, "unique"),
        ("INSERT INTO onefold.counter_totals (space, key, total) VALUES (:space, '', 1)", Invalid, "check"),
        ("INSERT INTO onefold.counter_totals (space, key) VALUES (:space, 'b')", Invalid, "check"),
        ("SELECT 1 / (:total - :total)", Invalid, "check"),
        ("SELECT CAST(:key AS bigint)", Invalid, "check"),
        ("SELECT nonsense", Invalid, "statement"),
        ("SELECT * FROM onefold.nowhere", Invalid, "statement"),
        ("SELECT DISTINCT total FROM onefold.counter_totals FOR UPDATE", Invalid, "statement"),  # Not supported there.
    ],
)
def test_errors_speak_our_language(plain: Database, sql: Any, kind: type[Exception], code: str) -> None:
    plain.run(put, "a", 1)
    with pytest.raises(kind) as raised:
        plain.run(lambda tx: tx.all(sql, key="a", total=1))
    assert raised.value.code == code  # type: ignore[attr-defined]
    with pytest.raises(kind):  # The same when nobody waited for it.
        plain.run(lambda tx: tx.run(sql, key="a", total=1))
    assert plain.run(get, "a") == 1


def test_references_speak_our_language(plain: Database, postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as owner:
        owner.execute("CREATE TABLE parent (id bigint PRIMARY KEY)")
        owner.execute("CREATE TABLE child (id bigint REFERENCES parent DEFERRABLE INITIALLY DEFERRED)")
    with pytest.raises(Conflict) as missing:
        plain.run(lambda tx: tx.run("INSERT INTO child (id) VALUES (1)"))  # Found at COMMIT.
    assert missing.value.code == "reference"
    assert plain.run(lambda tx: tx.one("SELECT count(*) FROM child")) == (0,)


def test_a_plan_that_a_migration_made_stale_is_made_anew(plain: Database, postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as owner:
        owner.execute("CREATE TABLE changing (a bigint)")
        assert plain.run(lambda tx: tx.all("SELECT * FROM changing")) == []
        owner.execute("ALTER TABLE changing ALTER a TYPE text")
        owner.execute("INSERT INTO changing VALUES ('x')")
    assert plain.run(lambda tx: tx.all("SELECT * FROM changing")) == [("x",)]


def test_a_stale_plan_is_known_by_its_place_and_not_by_its_words(plain: Database, postgres_url: str) -> None:
    attempts: list[int] = []

    def says_so(tx: Tx) -> None:
        attempts.append(1)
        tx.run("SELECT says_so()")

    with psycopg.connect(postgres_url, autocommit=True) as owner:
        owner.execute("""CREATE FUNCTION says_so() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
            RAISE 'cached plan must not change result type' USING ERRCODE = '0A000'; END $$""")
    with pytest.raises(Invalid) as refused:
        plain.run(says_so)
    assert (refused.value.code, attempts) == ("statement", [1])


@pytest.mark.parametrize(
    ("state", "kind", "code"),
    [
        ("23505", Conflict, "unique"), ("23P01", Conflict, "unique"), ("23503", Conflict, "reference"), ("23001", Conflict, "reference"),
        ("23514", Invalid, "check"), ("22012", Invalid, "check"), ("26000", Invalid, "pooler"), ("25006", Invalid, "read_only"),
        ("42601", Invalid, "statement"), ("40001", Retry, "conflict"), ("40P01", Retry, "conflict"), ("57014", Retry, "cancelled"),
        ("55P03", Retry, "lock_timeout"), ("53100", Retry, "disk_full"), ("58030", Retry, "disk_full"), ("53300", Retry, "unavailable"),
        ("57P01", Retry, "unavailable"), ("40003", Retry, "unavailable"), ("58000", Retry, "unavailable"), ("08006", Retry, "unavailable"),
    ],
)  # fmt: skip
def test_what_a_foreign_connection_raises_is_said_in_our_words(state: str, kind: type[OnefoldError], code: str) -> None:
    found = from_psycopg(psycopg.errors.lookup(state)("said"))
    assert isinstance(found, kind)
    assert found.code == code


def test_what_the_driver_itself_raises_is_said_in_our_words() -> None:
    for error, kind, code, why in (
        (psycopg.OperationalError("gone\nand a hint"), Retry, "unavailable", "gone"),
        (psycopg.InterfaceError("closed"), Retry, "unavailable", "closed"),
        (psycopg.ProgrammingError("no place for %s"), Invalid, "statement", "no place for %s"),
        (ValueError("x"), Invalid, "statement", "ValueError"),
    ):
        found = from_psycopg(error)
        assert (type(found).kind, found.code, found.facts["why"]) == (kind.kind, code, why)


class Made(msgspec.Struct):
    id: int
    name: str


def test_a_rehearsal_forgives_drawn_numbers_and_nothing_else() -> None:
    drawn = ({1, 2}, {3, 4})
    for first, second, same in (
        (1, 3, True), (1, 1, True), (9, 9, True), (1, 5, False), (5, 3, False), (3, 1, False), (1, "3", False), (True, 3, False),
        ([1, "a"], [4, "a"], True), ([1, "a"], [4, "b"], False), ([1], [3, 4], False), ([1], (3,), False),
        ({"id": 1}, {"id": 3}, True), ({"id": 1}, {"id": 5}, False), ({1: "a"}, {3: "a"}, True), ({"a": 1}, {"b": 3}, False),
        ({"a": 1}, {}, False), (Made(1, "a"), Made(3, "a"), True), (Made(1, "a"), Made(3, "b"), False), (1.0, 3, False),
    ):  # fmt: skip
        expected = Expected(first, drawn, anything=False)
        assert (expected == second, expected != second) == (same, not same), (first, second)
        assert Expected(first, drawn, anything=True) == second


def test_a_function_that_answers_a_drawn_number_passes_its_rehearsal(postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as owner:
        owner.execute("CREATE TABLE drawn (id bigint GENERATED ALWAYS AS IDENTITY)")
    with onefold.connect(postgres_url, rehearse=True) as db:
        assert db.run(lambda tx: tx.one("INSERT INTO drawn DEFAULT VALUES RETURNING id")) == (2,)


def test_who_is_interrupted_in_a_rehearsal_is_not_run_again(postgres_url: str) -> None:
    runs: list[int] = []

    def interrupted_once(tx: Tx) -> None:
        put(tx, "a", 1)
        runs.append(1)
        if len(runs) == 1:
            raise KeyboardInterrupt

    with onefold.connect(postgres_url, rehearse=True) as db:
        with pytest.raises(KeyboardInterrupt):
            db.run(interrupted_once)
        assert (len(runs), db.run(get, "a")) == (1, None)


# -- connecting --------------------------------------------------------------------------------------


def test_an_unmigrated_database_is_refused_with_the_command_to_run(postgres_cluster: Cluster) -> None:
    url = postgres_cluster.create_database("bare")
    try:
        with pytest.raises(Conflict, match="onefold migrate --url URL") as refused:
            onefold.connect(url)
        command = str(refused.value).partition("run: onefold ")[2].partition(" (")[0]
        assert parser().parse_args(command.split()).url == "URL", "the command that it names is one"
        assert refused.value.code == "schema_missing"
        later = [*schema.load(()), schema.SchemaFile("later", 1, "CREATE TABLE onefold.later (a INTEGER) {table};")]
        onefold.migrate(url, files=schema.load(()))
        with pytest.raises(Conflict) as behind:
            onefold.connect(url, files=later)
        assert behind.value.facts["missing"] == ["later 001"]
        assert onefold.migrate(url, files=later) == [("later", 1)]
        onefold.connect(url, files=schema.load(())).close()  # A block that it does not know is none of its business.
        more = [
            schema.SchemaFile("later", 2, "-- release 0.1 works on this: a table more.\nCREATE TABLE onefold.b (a INTEGER) {table};"),
            schema.SchemaFile("later", 3, "CREATE TABLE onefold.c (a INTEGER) {table};"),
        ]
        onefold.migrate(url, files=[*later, more[0]])
        onefold.connect(url, files=later).close()
        onefold.migrate(url, files=[*later, *more])
        with pytest.raises(Conflict) as newer:
            onefold.connect(url, files=later)
        assert (newer.value.code, newer.value.facts["version"]) == ("schema_newer", 3)
        with pytest.raises(Conflict):
            onefold.migrate(url, files=later)
        onefold.connect(url, files=[*later, *more]).close()
    finally:
        postgres_cluster.drop_database("bare")


def test_several_migrators_at_once_do_it_once(postgres_cluster: Cluster) -> None:
    url = postgres_cluster.create_database("crowded")
    try:
        answers: list[Any] = []
        threads = [threading.Thread(target=lambda: answers.append(onefold.migrate(url))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(answers) == 4
        assert sum(1 for answer in answers if answer) == 1
        onefold.connect(url).close()
    finally:
        postgres_cluster.drop_database("crowded")


def test_a_migration_that_fails_leaves_no_trace(postgres_cluster: Cluster) -> None:
    url = postgres_cluster.create_database("failing")
    bad = [*schema.load(()), schema.SchemaFile("bad", 1, "CREATE TABLE onefold.good (a INTEGER);\nCREATE NONSENSE;")]
    try:
        with pytest.raises(Invalid) as refused:
            onefold.migrate(url, files=bad)
        assert refused.value.code == "migration"
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT to_regnamespace('onefold')").fetchone() == (None,)
    finally:
        postgres_cluster.drop_database("failing")


def test_no_error_tells_the_password(postgres_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "CONNECT_NS", 300_000_000)
    secret = "s3cr3t-word"
    right = postgres_cluster.dsn("onefold_template", tcp=True)
    wrong = right.replace(postgres_cluster.password, secret)
    for url, kind in (
        (wrong, Invalid), (right.replace("onefold_template", "nowhere"), Invalid),
        (f"postgresql://u:{secret}@127.0.0.1:1/x", Retry), (f"postgresql://u:{secret}@host:port:what/x", Invalid),
        (f"postgresql://u:begun@{secret}@host/x", Invalid), (f"postgresql://u:%{secret}@host/x", Invalid),
    ):  # fmt: skip
        for attempt in (onefold.connect, onefold.migrate):
            with pytest.raises(kind) as refused:
                attempt(url)
            text = f"{refused.value} {refused.value.facts} {refused.value!r}"
            assert secret not in text
            assert postgres_cluster.password not in text


def test_a_connection_over_tcp_with_a_password_works(postgres_cluster: Cluster) -> None:
    with onefold.connect(postgres_cluster.dsn("onefold_template", tcp=True)) as db:
        assert db.reader().run(get, "a") is None


def test_a_server_that_is_too_old_is_refused(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with psycopg.connect(postgres_url) as owner:
        version = owner.info.server_version
    monkeypatch.setattr(migrate_module, "VERSION_MIN", version + 1)
    for door in (onefold.connect, onefold.migrate):
        with pytest.raises(Invalid, match="or newer is needed") as refused:
            door(postgres_url)
        assert refused.value.facts == {"have": version // 10_000}
    monkeypatch.setattr(migrate_module, "VERSION_MIN", version)
    assert onefold.migrate(postgres_url) == []
    onefold.connect(postgres_url).close()


def test_a_migration_waits_for_another_one_only_so_long(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate_module, "LOCK_WAIT_MS", 20)
    with psycopg.connect(postgres_url) as other:
        other.execute("SELECT pg_advisory_lock(%s)", [migrate_module.LOCK_KEY])
        with pytest.raises(Retry) as busy:
            onefold.migrate(postgres_url)
    assert busy.value.code == "lock_timeout"
    assert onefold.migrate(postgres_url) == []


def test_a_user_who_may_not_read_what_is_needed_is_told(postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as owner:
        owner.execute("CREATE ROLE stranger LOGIN")
        try:
            with pytest.raises(Invalid, match="cannot be read by this user") as refused:
                onefold.connect(postgres_url.replace("postgres@", "stranger@", 1))
            owner.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")  # Asked by each new connection.
            with pytest.raises(Invalid, match="pg_control_system"):
                onefold.connect(postgres_url.replace("postgres@", "stranger@", 1))
        finally:
            owner.execute("DROP ROLE stranger")
    assert refused.value.code == "refused"


def test_whoever_asks_a_server_is_told_in_our_words(postgres_url: str) -> None:
    with pytest.raises(Invalid, match="refuses what is asked"), asking(postgres_url, name="asked") as connection:
        connection.execute("SELECT nonsense")
    with pytest.raises(Retry, match="cannot be reached"), asking(postgres_url, name="asked") as connection:
        connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")


def test_how_a_server_archives_is_told(postgres_url: str) -> None:
    assert backup_facts(postgres_url).archive_how == ""
    with psycopg.connect(postgres_url, autocommit=True) as owner:
        try:
            owner.execute("ALTER SYSTEM SET archive_library = 'basic_archive'")
            owner.execute("SELECT pg_reload_conf()")
            until(lambda: backup_facts(postgres_url).archive_how == "basic_archive")
        finally:
            owner.execute("ALTER SYSTEM RESET archive_library")
            owner.execute("SELECT pg_reload_conf()")
