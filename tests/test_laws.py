"""Laws for every block, present and future: they are read off the index, the schemas and the routes."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import re
import sqlite3
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from block_tables import dump, schema_of, tables_of, views_of

import onefold
from onefold import Database, Invalid, OnefoldError, Tx
from onefold.core.clock import FakeClock
from onefold.core.route import Route
from onefold.index import BLOCKS, folder_of
from onefold.server import openapi
from onefold.server.binding import Bound
from onefold.server.routes import all_routes

ENGINE_TABLES = {"spaces", "counter_deltas", "counter_totals", "tx"}
_SQL = re.compile(r"^\s*(?:--[^\n]*\n\s*)*(SELECT|INSERT|UPDATE|DELETE|WITH)\s")
_TABLE = re.compile(r"CREATE TABLE onefold\.(\w+) \((.*?)\n\)", re.DOTALL)


def routes_of(block: str) -> list[Route]:
    name = f"{BLOCKS[block]}.api"
    return importlib.import_module(name).ROUTES if importlib.util.find_spec(name) else []


@pytest.fixture
def sqlite_db(tmp_path: Path, clock: FakeClock) -> Iterator[Database]:
    """SQLite only: its authorizer sees every table that a statement touches."""
    with onefold.connect(tmp_path / "laws.db", rehearse=True, clock=clock) as database:
        yield database


ROUTES = [pytest.param(block, route, id=f"{route.verb} {route.path}") for block in BLOCKS for route in routes_of(block)]


def sql_texts(block: str) -> list[tuple[str, str]]:
    """Every text of the block: the literal ones, and those that a module puts together when it is loaded."""
    found = []
    for path in sorted(folder_of(block).rglob("*.py")):
        literal = [
            (f"{path.name}:{node.lineno}", node.value)
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and _SQL.match(node.value)
        ]
        module = import_module(".".join([BLOCKS[block], *path.relative_to(folder_of(block)).with_suffix("").parts]))
        joined = [
            (f"{path.name}:{name}", value)
            for name, value in vars(module).items()
            if isinstance(value, str) and any(value.startswith(text) and value != text for _, text in literal)
        ]
        whole = [(where, text) for where, text in literal if not any(text in value for _, value in joined)]
        found += whole + joined
    return found


@pytest.mark.parametrize("block", BLOCKS)
def test_every_text_keeps_to_its_space(block: str) -> None:
    texts = sql_texts(block)
    assert texts
    for where, text in texts:
        assert ":space" in text or "-- all spaces" in text, f"{where} crosses spaces without saying so"


@pytest.mark.parametrize("block", BLOCKS)
def test_every_key_begins_with_the_space(block: str) -> None:
    schema = schema_of(block)
    for table, body in _TABLE.findall(schema):
        columns = "\n".join(line.partition("--")[0] for line in body.splitlines())
        assert re.search(r"^\s*space\s+INTEGER\s+NOT NULL", columns, re.MULTILINE), f"{table} has no space"
        keys = re.findall(r"(?:PRIMARY KEY|UNIQUE) \(\s*(\w+)", columns)
        assert "{identity}" in columns or keys, f"{table} has no key"
        assert set(keys) <= {"space"}, f"a key of {table} does not begin with space"
    for name, column in re.findall(r"CREATE (?:UNIQUE )?INDEX (\w+)\s+ON onefold\.\w+ \(\s*(\w+)", schema):
        assert name.startswith("onefold_")
        marked = re.search(rf"-- all spaces[^\n]*\nCREATE (?:UNIQUE )?INDEX {name}\b", schema)
        assert column == "space" or marked, f"{name} does not begin with space, and does not say why"


@pytest.mark.parametrize("block", BLOCKS)
def test_every_table_states_its_retention(block: str) -> None:
    schema = schema_of(block)
    for found in re.finditer(r"((?:^--[^\n]*\n)+)CREATE TABLE onefold\.(\w+)", schema, re.MULTILINE):
        assert re.search(r"kept|retention|deleted|swept|removed|lives", found[1], re.IGNORECASE), found[2]
    commented = re.findall(r"^--[^\n]*\nCREATE TABLE onefold\.(\w+)", schema, re.MULTILINE)
    assert commented == re.findall(r"CREATE TABLE onefold\.(\w+)", schema), "a table without a comment"
    assert set(commented) == tables_of(block, "sqlite") | tables_of(block, "postgres")


def test_no_table_belongs_to_two_blocks() -> None:
    seen: dict[str, str] = {}
    for block in BLOCKS:
        for table in tables_of(block, "sqlite") | tables_of(block, "postgres") | views_of(block):
            assert table not in seen, f"{table} of {block} is also of {seen[table]}"
            seen[table] = block


def test_rights_and_paths_are_unique_and_well_formed() -> None:
    seen = set()
    for block in BLOCKS:
        for route in routes_of(block):
            assert (route.verb, route.path) not in seen
            seen.add((route.verb, route.path))
            assert route.path.startswith("/")
            assert re.fullmatch(r"[a-z]+:[a-z]+", route.needs)
            parameters = list(inspect.signature(route.fn).parameters)
            assert parameters[0] == "tx"
            assert set(re.findall(r"{(\w+)}", route.path)) <= set(parameters)
            assert inspect.getdoc(route.fn), f"{route.fn.__name__} says nothing"


def test_no_two_records_of_the_api_have_one_name() -> None:
    """They would be called after their modules in its description, and otherwise once one of them is gone."""
    bound = [Bound(route) for route in all_routes()]
    openapi.check_names(bound)
    names = openapi.document(bound, body_bytes_max=1)["components"]["schemas"]
    assert len(names) > 50
    assert not [name for name in names if not re.fullmatch(r"\w+", name)]


@pytest.mark.parametrize(("block", "route"), ROUTES)
def test_the_example_works(db: Database, block: str, route: Route) -> None:
    def call(tx: Tx) -> Any:
        return route.fn(tx, **route.example(tx))

    db.run(call)  # The fixture rehearses: run, undone, run again, and alike.


@pytest.mark.parametrize(("block", "route"), ROUTES)
def test_an_abort_leaves_no_trace(db: Database, block: str, route: Route) -> None:
    class Abort(Exception):
        pass

    def call(tx: Tx) -> None:
        route.fn(tx, **route.example(tx))
        raise Abort

    before = dump(db)
    with pytest.raises(Abort):
        db.run(call)
    assert dump(db) == before


@pytest.mark.parametrize(("block", "route"), ROUTES)
def test_a_get_writes_nothing(db: Database, block: str, route: Route) -> None:
    if route.verb != "GET":
        return
    arguments = db.run(route.example)
    before = dump(db)
    db.reader().run(lambda tx: route.fn(tx, **arguments))
    assert dump(db) == before


def used_by(block: str) -> set[str]:
    """The block, and those that it composes: what it imports by their front doors, and they in turn."""
    found, left = set(), [block]
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            text = "".join(path.read_text(encoding="utf-8") for path in sorted(folder_of(name).glob("*.py")))
            groups = re.findall(r"^from onefold\.(\w+) import ([\w, ]+)$", text, re.MULTILINE)
            left += [other for _, names in groups for other in names.split(", ") if other in BLOCKS]
    return found


@pytest.mark.parametrize("block", BLOCKS)
def test_every_text_names_only_tables_of_its_block(block: str) -> None:
    mine = tables_of(block, "sqlite") | tables_of(block, "postgres") | views_of(block) | {"spaces"}  # Names of spaces.
    for where, text in sql_texts(block):
        assert set(re.findall(r"\bonefold\.(\w+)", text)) <= mine, where


@pytest.mark.parametrize(("block", "route"), ROUTES)
def test_a_block_touches_only_its_own_tables(sqlite_db: Database, block: str, route: Route) -> None:
    """Its own, and through their functions those of the blocks that it composes."""
    mine = set().union(ENGINE_TABLES, *(tables_of(used, "sqlite") | views_of(used) for used in used_by(block)))
    touched: set[str] = set()

    def authorize(action: int, table: str | None, *_: object) -> int:
        if action in {sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE, sqlite3.SQLITE_READ}:
            touched.add((table or "").removeprefix("onefold_"))
        return sqlite3.SQLITE_OK

    arguments = sqlite_db.run(route.example)
    connection = sqlite_db._engine._parts.writer.batches.connection  # type: ignore[attr-defined]
    connection.set_authorizer(authorize)
    sqlite_db.run(lambda tx: route.fn(tx, **arguments))
    connection.set_authorizer(None)
    assert {t for t in touched if not t.startswith("sqlite_") and t} <= mine


HOSTILE: dict[type, list[Any]] = {
    str: ["", "x" * 100_000, "a\0b", "\ud800", "\u202e", "'; DROP TABLE onefold_jobs; --", "%s :name {slot}"],
    int: [-1, 0, 2**63, -(2**63) - 1, 2**62],
}


@pytest.mark.parametrize(("block", "route"), ROUTES)
def test_every_argument_is_bounded(sqlite_db: Database, block: str, route: Route) -> None:
    """A hostile value is answered or refused in our words; a refusal writes nothing."""
    arguments = sqlite_db.run(route.example)
    before = dump(sqlite_db)
    for name, value in arguments.items():
        for bad in HOSTILE.get(type(value), []):
            try:
                sqlite_db.run(lambda tx, name=name, bad=bad: route.fn(tx, **{**arguments, name: bad}))
            except OnefoldError:
                assert dump(sqlite_db) == before
            else:
                assert not (isinstance(bad, str) and (len(bad) > 10_000 or "\0" in bad)), f"{name} takes anything"
                assert not (isinstance(bad, int) and abs(bad) >= 2**62), f"{name} has no upper limit"
                before = dump(sqlite_db)


def test_the_laws_can_fail(db: Database) -> None:
    """A canary: the dump sees a row, so an abort that left one would be seen."""
    before = dump(db)
    db.run(lambda tx: tx.add("canary", 1))
    assert dump(db) != before
    with pytest.raises(Invalid):
        db.run(lambda tx: tx.add("x" * 1_000, 1))


def test_a_block_that_composes_others_is_seen() -> None:
    assert used_by("ledger") == {"ledger"}
    assert used_by("payments") == {"payments", "ledger", "jobs", "events"}


def test_paths_of_the_index_exist() -> None:
    for block in BLOCKS:
        assert isinstance(folder_of(block), Path)
        assert folder_of(block).is_dir()
