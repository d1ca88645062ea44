"""Every bench runs, tiny, so that none rots. What it measures counts only at real size, on a quiet machine."""

from __future__ import annotations

import importlib
import json
import sys
import types

import pytest
from benches import harness
from benches.__main__ import main, names

from onefold.testing.postgres import Cluster


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", names())
def test_a_bench_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("benches." + name.replace("/", "."))
    for place in (harness, module):  # Here nothing is measured, so nothing need reach a disk.
        if hasattr(place, "Cluster"):
            monkeypatch.setattr(place, "Cluster", lambda **given: Cluster(**{**given, "fsync": False}))
    assert (harness.ROOT / module.PAGE).is_file()
    assert f"<!-- numbers: {module.NAME} -->" in (harness.ROOT / module.PAGE).read_text(encoding="utf-8")
    try:
        tables = module.run(harness.TINY)
    except harness.MissingPeer as missing:
        pytest.skip(str(missing))
    assert tables
    assert all(table.rows for table in tables)


def test_a_table_is_written_between_its_marks(tmp_path) -> None:
    page = tmp_path / "README.md"
    page.write_text("# Page\n\n<!-- numbers: x -->\n\nAfter.\n")
    table = harness.Table("Title", ("a", "b"), [("1", "2")])
    harness.write(page, "x", [table], "command")
    harness.write(page, "x", [table], "command")
    text = page.read_text()
    assert text.count("| 1 | 2 |") == 1
    assert text.endswith("After.\n")


def test_tables_are_told_in_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    table = harness.Table("Title", ("a", "b"), [("1", "2")], missed=1)
    monkeypatch.setitem(sys.modules, "benches.made", types.SimpleNamespace(run=lambda _size: [table]))
    monkeypatch.setattr(sys, "argv", ["benches", "made", "--tiny", "--json"])
    assert main() == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == {"bench": "made", "title": "Title", "rows": [{"a": "1", "b": "2"}], "notes": [], "missed": 1}


def test_a_ratio_below_its_bar_is_said_to_be_missed() -> None:
    table = harness.Table("Title", harness.COMPARISON)
    harness.row(table, "x", harness.Sample(10.0), harness.Sample(10.0), bar=2.0)
    harness.row(table, "y", harness.Sample(30.0), harness.Sample(10.0), bar=2.0)
    assert table.missed == 1
    assert "missed" in table.rows[0][-1]
    assert "missed" not in table.rows[1][-1]
