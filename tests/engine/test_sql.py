"""One text for both engines."""

from __future__ import annotations

import pytest

from onefold import Invalid
from onefold.engine.sql import compile_schema, compile_statement, ends_transaction, first_word


@pytest.mark.parametrize(
    ("sql", "sqlite", "postgres"),
    [
        ("SELECT a FROM onefold.t WHERE b = :b", "SELECT a FROM onefold_t WHERE b = ?1", "SELECT a FROM onefold.t WHERE b = %(b)s"),
        ("SELECT ':b onefold.t %' FROM onefold.t", "SELECT ':b onefold.t %' FROM onefold_t", "SELECT ':b onefold.t %%' FROM onefold.t"),
        ("SELECT a % 2 FROM onefold.t", "SELECT a % 2 FROM onefold_t", "SELECT a %% 2 FROM onefold.t"),
        ("SELECT 1 {for_update} {skip_locked}", "SELECT 1  ", "SELECT 1 FOR UPDATE SKIP LOCKED"),
        ("SELECT {null:int}", "SELECT NULL", "SELECT CAST(NULL AS BIGINT)"),
        ("SELECT '2'::text -- :not a parameter", "SELECT '2'::text -- :not a parameter", "SELECT '2'::text -- :not a parameter"),
    ],
)  # fmt: skip
def test_a_text_is_rewritten_for_each_engine(sql: str, sqlite: str, postgres: str) -> None:
    assert compile_statement(sql, "sqlite").text == sqlite
    assert compile_statement(sql, "postgres").text == postgres


@pytest.mark.parametrize(
    ("sql", "writes"),
    [
        ("SELECT 1 {for_update}", False), ("INSERT INTO onefold.t (a) VALUES (1)", True), ("delete from onefold.t", True),
        ("WITH x AS (SELECT 1) SELECT 1 FROM x", False), ("WITH x AS (SELECT 1) UPDATE onefold.t SET a = 1", True),
        ("-- why\n SELECT 1", False),
        ("with x as (insert into onefold.t (a) values (1) returning a) select a from x", True),
        ("WITH x AS (SELECT 1) MERGE INTO onefold.t USING x ON false WHEN NOT MATCHED THEN DO NOTHING", True),
    ],
)  # fmt: skip
def test_it_is_known_what_writes(sql: str, writes: bool) -> None:
    assert compile_statement(sql, "postgres").writes is writes


@pytest.mark.parametrize(
    ("sql", "word", "ends"),
    [
        ("", "", False), (" \n", "", False), ("; 1", "", False), ("Begin Immediate", "begin", True),
        (" /* why */ -- why\n; SELECT 1", "select", False), ("\tROLLBACK", "rollback", True),
        ("rollback to p", "rollback", False), ("ROLLBACK WORK TO p", "rollback", False),
        ("ROLLBACK TRANSACTION", "rollback", True), ("SAVEPOINT p", "savepoint", False), ("/* x\n */END", "end", True),
    ],
)  # fmt: skip
def test_it_is_known_with_what_a_foreign_text_begins(sql: str, word: str, ends: bool) -> None:
    assert (first_word(sql), ends_transaction(sql)) == (word, ends)


def test_parameters_are_found() -> None:
    found = compile_statement("SELECT :b_c2, :a, 'x:y', a::text, :b_c2 FROM onefold.t", "sqlite")
    assert found.parameters == ("b_c2", "a")
    assert found.text == "SELECT ?1, ?2, 'x:y', a::text, ?1 FROM onefold_t"


def test_an_unknown_slot_is_refused() -> None:
    with pytest.raises(Invalid, match="slot"):
        compile_statement("SELECT {nonsense}", "sqlite")


def test_a_schema_is_rewritten_for_each_engine() -> None:
    script = """
-- The toys; INTEGER and TEXT here are words, not types.
CREATE TABLE onefold.toys (
    id    {identity}, -- Of one cluster.
    name  TEXT    NOT NULL CHECK (name <> ';'),
    size  INTEGER,
    alive BOOLEAN,
    body  BLOB
) {table:hot};
CREATE INDEX onefold_toys_name ON onefold.toys (name);
"""
    sqlite = compile_schema(script, "sqlite")
    postgres = compile_schema(script, "postgres")
    assert len(sqlite) == len(postgres) == 2
    assert "onefold_toys" in sqlite[0]
    assert sqlite[0].endswith(") STRICT")
    assert "INTEGER PRIMARY KEY AUTOINCREMENT" in sqlite[0]
    assert "size  BIGINT" in postgres[0]
    assert 'name  TEXT COLLATE "C"' in postgres[0]
    assert "BYTEA" in postgres[0]
    assert postgres[0].endswith("WITH (fillfactor=50)")
    assert "';'" in postgres[0]


def test_a_marked_statement_is_for_its_engine_alone() -> None:
    script = """
-- Both have it.
CREATE TABLE onefold.toys (id INTEGER) {table}; -- Of every size.
-- The engine: postgres or another, is a word here and no mark.
-- engine: postgres
CREATE TABLE onefold.parts (id INTEGER) {table};
-- engine: sqlite
CREATE INDEX onefold_toys_id ON onefold.toys (id);
"""
    assert compile_schema(script, "sqlite") == [
        "CREATE TABLE onefold_toys (id INTEGER) STRICT", "CREATE INDEX onefold_toys_id ON onefold_toys (id)",
    ]  # fmt: skip
    assert compile_schema(script, "postgres") == ["CREATE TABLE onefold.toys (id BIGINT)", "CREATE TABLE onefold.parts (id BIGINT)"]


@pytest.mark.parametrize("mark", ["-- engine: mysql", "-- engine:", "--engine: SQLite", "-- engine: sqlite\n-- engine: postgres"])
def test_a_mark_that_names_no_engine_or_two_is_refused(mark: str) -> None:
    for dialect in ("sqlite", "postgres"):
        with pytest.raises(Invalid, match="marked"):
            compile_schema(f"{mark}\nCREATE TABLE onefold.toys (id INTEGER) {{table}};\n", dialect)
