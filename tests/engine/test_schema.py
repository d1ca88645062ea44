"""Schema files: numbered, applied once, never edited; newer ones refused."""

from __future__ import annotations

import contextlib
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

import onefold
from onefold import Conflict, Invalid, Retry
from onefold.engine import schema
from onefold.engine.call import space_of
from onefold.engine.schema import SchemaFile
from onefold.engine.sqlite import migrate as sqlite_migrate
from onefold.host.gate import Gate
from onefold.index import schema_directories

FIRST = SchemaFile("toy", 1, "CREATE TABLE onefold.toys (space INTEGER NOT NULL, id TEXT NOT NULL, PRIMARY KEY (space, id)) {table:clustered};\n")
SECOND = SchemaFile("toy", 2, "ALTER TABLE onefold.toys ADD COLUMN size INTEGER;\nCREATE INDEX onefold_toys_size ON onefold.toys (space, size);\n")
THIRD = SchemaFile(
    "toy", 3,
    "-- engine: postgres\nCREATE INDEX onefold_toys_there ON onefold.toys (space, size, id);\n"
    "-- engine: sqlite\nCREATE INDEX onefold_toys_here ON onefold.toys (space, size, id);\n",
)  # fmt: skip
ENGINE = schema.load([])


def structure(path: Path) -> list[tuple[str, str]]:
    connection = sqlite3.connect(path)
    found = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name").fetchall()
    connection.close()
    return found


def test_fresh_equals_migrated(tmp_path: Path) -> None:
    onefold.connect(tmp_path / "old.db", files=[*ENGINE, FIRST]).close()
    onefold.connect(tmp_path / "old.db", files=[*ENGINE, FIRST, SECOND]).close()
    onefold.connect(tmp_path / "old.db", files=[*ENGINE, FIRST, SECOND, THIRD]).close()
    onefold.connect(tmp_path / "new.db", files=[*ENGINE, FIRST, SECOND, THIRD]).close()
    assert structure(tmp_path / "old.db") == structure(tmp_path / "new.db")
    names = {name for name, _ in structure(tmp_path / "new.db")}
    assert "onefold_toys_here" in names
    assert "onefold_toys_there" not in names


def test_a_file_counts_as_applied_where_it_holds_nothing_for_the_engine(tmp_path: Path) -> None:
    other = SchemaFile("toy", 2, "-- engine: postgres\nCREATE INDEX onefold_toys_there ON onefold.toys (space);\n")
    assert onefold.migrate(tmp_path / "a.db", files=[*ENGINE, FIRST, other])[-1] == ("toy", 2)
    assert onefold.migrate(tmp_path / "a.db", files=[*ENGINE, FIRST, other]) == []


def test_migrating_twice_applies_nothing(tmp_path: Path) -> None:
    assert len(onefold.migrate(tmp_path / "a.db", files=[*ENGINE, FIRST])) == len(ENGINE) + 1
    assert onefold.migrate(tmp_path / "a.db", files=[*ENGINE, FIRST]) == []
    assert onefold.migrate(tmp_path / "a.db", files=[*ENGINE, FIRST, SECOND]) == [("toy", 2)]


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    onefold.connect(tmp_path / "a.db", files=[*ENGINE, FIRST, SECOND]).close()
    with pytest.raises(Conflict) as newer:
        onefold.connect(tmp_path / "a.db", files=[*ENGINE, FIRST])
    assert newer.value.code == "schema_newer"


def test_a_newer_schema_is_permitted_where_its_files_say_so(tmp_path: Path) -> None:
    """Also after a restart, and beside the tables of blocks that this release has never heard of."""
    ours, theirs = schema.RELEASE, (schema.RELEASE[0], schema.RELEASE[1] + 1)
    columns = SECOND.text
    for number, (oldest, permitted) in enumerate([(ours, True), (theirs, False), ((99, 0), False), ((0, 0), True)]):
        newer = SchemaFile("toy", 2, f"-- release {oldest[0]}.{oldest[1]} works on this: a column more.\n{columns}")
        stranger = SchemaFile("later", 1, FIRST.text.replace("toys", "laters"))
        path = tmp_path / f"{number}.db"
        onefold.connect(path, files=[*ENGINE, FIRST, newer, stranger]).close()
        if permitted:
            with onefold.connect(path, files=[*ENGINE, FIRST]) as old:
                old.run(lambda tx: tx.run("INSERT INTO onefold.toys (space, id) VALUES (:space, 'a')"))
            assert onefold.migrate(path, files=[*ENGINE, FIRST, newer]) == []
        else:
            with pytest.raises(Conflict, match="newer release") as refused:
                onefold.connect(path, files=[*ENGINE, FIRST])
            assert refused.value.facts == {"block": "toy", "version": 2}


@pytest.mark.parametrize("line", ["-- release 0.1 works on this:", "-- Release 0.1 works on this: x", "\n-- release 0.1 works on this: x"])
def test_what_does_not_say_why_is_no_permission(line: str) -> None:
    assert ":" not in SchemaFile("toy", 2, f"{line}\nCREATE TABLE onefold.a (a INTEGER) {{table}};\n").digest


def test_the_release_is_the_one_of_the_package() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(r'^version = "(\d+)\.(\d+)', text, re.MULTILINE)[0] == 'version = "{}.{}'.format(*schema.RELEASE)


def test_an_edited_file_is_refused(tmp_path: Path) -> None:
    onefold.connect(tmp_path / "a.db", files=[*ENGINE, FIRST]).close()
    with pytest.raises(Conflict) as edited:
        onefold.connect(tmp_path / "a.db", files=[*ENGINE, SchemaFile("toy", 1, FIRST.text + "-- changed\n")])
    assert edited.value.code == "schema_edited"


def test_a_failing_file_leaves_nothing(tmp_path: Path) -> None:
    broken = SchemaFile("toy", 2, "CREATE TABLE onefold.half (a INTEGER) {table};\nCREATE TABLE nonsense nonsense;\n")
    onefold.connect(tmp_path / "a.db", files=[*ENGINE, FIRST]).close()
    before = structure(tmp_path / "a.db")
    with pytest.raises(Invalid):
        onefold.connect(tmp_path / "a.db", files=[*ENGINE, FIRST, broken])
    assert structure(tmp_path / "a.db") == before


def test_files_without_gaps(tmp_path: Path) -> None:
    (tmp_path / "002.sql").write_text("SELECT 1;")
    with pytest.raises(Invalid, match="without gaps"):
        schema.load([("toy", tmp_path)])


def test_every_shipped_file_can_be_read() -> None:
    files = schema.load(schema_directories())
    assert {"engine"} <= {file.block for file in files}
    for file in files:
        assert file.statements("sqlite") or file.statements("postgres")  # Some are of one engine alone.


def test_who_holds_the_gate_is_waited_for_by_those_who_have_something_to_apply(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onefold.migrate(tmp_path / "a.db", files=ENGINE)
    monkeypatch.setattr(sqlite_migrate, "GATE_WAIT_S", 0.05)
    with contextlib.closing(Gate(tmp_path / "a.db")) as gate:
        gate.acquire()
        assert onefold.migrate(tmp_path / "a.db", files=ENGINE) == []
        with pytest.raises(Retry) as held:
            onefold.migrate(tmp_path / "a.db", files=[*ENGINE, FIRST])
    assert held.value.code == "gate"


def test_the_number_of_a_space_is_the_one_that_databases_hold() -> None:
    assert space_of("") == 1_622_210_670_741_801_569
    assert space_of("tenant/7") == 2_958_391_650_828_566_476


def test_the_digest_of_a_file_is_the_one_that_databases_hold() -> None:
    assert SchemaFile("toy", 1, "CREATE TABLE toys (id TEXT);\n").digest == "9d3c49aafa04898e"
    works = SchemaFile("toy", 2, "-- release 0.1 works on this: it adds.\nCREATE TABLE more (id TEXT);\n")
    assert works.digest == "0.1:42737aa28b521d1d"


def test_two_versions_starting_together(tmp_path: Path) -> None:
    """Old and new program at once: the old one works or is refused, never breaks; the file ends new."""
    path = tmp_path / "a.db"
    program = (
        "import sys, onefold\nfrom onefold.engine import schema\n"
        f"toy = [schema.SchemaFile('toy', 1, {FIRST.text!r}), schema.SchemaFile('toy', 2, {SECOND.text!r})]\n"
        "files = [*schema.load([]), *toy[:int(sys.argv[1])]]\n"
        "try:\n    onefold.connect(sys.argv[2], files=files).close()\n"
        "except onefold.Conflict as error:\n    print(error.code)\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", program, str(1 + n % 2), str(path)], stdout=subprocess.PIPE, text=True)
        for n in range(6)
    ]
    answers = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert all(process.returncode == 0 for process in processes)
    assert set(answers) <= {"", "schema_newer"}
    assert set(answers[1::2]) == {""}
    onefold.connect(path, files=[*ENGINE, FIRST, SECOND]).close()
