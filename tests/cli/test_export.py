"""`onefold export --jsonl`: every row, once, of one moment, in bounded memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jobs_ground import Mail

import onefold
from onefold import Invalid, Money, Tx, jobs, ledger, locks
from onefold.cli.answer import is_postgres
from onefold.cli.main import run
from onefold.engine.export import snapshot_of, tables_of
from onefold.index import BLOCKS

SOURCES = str(Path(onefold.__file__).parent.parent)

EXPORTER = """
import resource, sys
from onefold.cli.main import run
run(["export", "--jsonl", "--block", "tokens", "--url", sys.argv[1]])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
code = run(["export", "--jsonl", "--block", "engine", "--url", sys.argv[1]])
print(code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, file=sys.stderr)
"""


def exported(capsys: pytest.CaptureFixture[str], url: str, *arguments: str) -> list[Any]:
    assert run(["export", "--jsonl", "--url", url, *arguments]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.split("\n")[:-1]]
    assert lines[0]["onefold"] == 1
    assert lines[-1]["end"] is True
    assert sum(lines[-1]["rows"].values()) == len(lines) - 2
    return lines


def fill(tx: Tx) -> None:
    for number in range(3):
        jobs.put(tx, Mail(to=f"m{number}"), unique=f"u{number}")
    locks.acquire(tx, "till", owner="ana", ttl_ms=1_000)


def test_every_row_of_the_chosen_blocks_stands_there_once(db_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with onefold.connect(db_url) as db:
        db.run(fill)
        db.at("t/7").run(jobs.put, Mail(to='"quoted"\n\u2028'))
    lines = exported(capsys, db_url, "--block", "jobs")
    rows = [line["row"] for line in lines[1:-1] if line["table"] == "jobs_ready"]
    assert sorted(json.loads(row["args"])["to"] for row in rows) == ['"quoted"\n\u2028', "m0", "m1", "m2"]
    assert lines[-1]["rows"]["jobs_unique"] == 3
    assert "locks" not in lines[-1]["rows"]
    names = {line["row"]["space"]: line["row"]["name"] for line in lines[1:-1] if line["table"] == "spaces"}
    assert {names[row["space"]] for row in rows} == {"", "t/7"}
    only = exported(capsys, db_url, "--block", "jobs", "--block", "locks", "--space", "t/7")
    assert [line["row"]["space_name"] for line in only[1:-1] if line["table"] == "jobs_ready"] == ["t/7"]
    assert only[-1]["rows"]["locks"] == 0


def test_without_a_block_all_tables_come(db_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = exported(capsys, db_url)
    assert set(lines[0]["blocks"]) == {"engine", *BLOCKS}
    tables = tables_of([], "postgres" if is_postgres(db_url) else "sqlite")
    assert set(lines[-1]["rows"]) == {table for of_block in tables.values() for table in of_block}


def test_wrong_words_are_refused(db_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["export", "--jsonl", "--block", "nonsense", "--url", db_url]) == 2
    assert run(["export", "--jsonl", "--url", str(tmp_path / "none.db")]) == 3
    assert run(["export", "--jsonl", "--url", "postgresql://nobody@127.0.0.1:1/none"]) == 6
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 3
    assert run(["export", "--jsonl", "--space", "\udcff", "--url", db_url]) == 2
    assert "no UTF-8" in capsys.readouterr().err
    with pytest.raises(Invalid) as unknown:
        tables_of(["jobs", "n" * 101, "other"], "sqlite")
    assert unknown.value.facts["block"] == "n" * 100


def test_all_tables_are_of_one_moment(db_url: str) -> None:
    """Money that moves between two reads is neither lost nor counted twice."""
    with onefold.connect(db_url) as db:
        def open_accounts(tx: Tx) -> None:
            for name in ("till", "safe"):
                tx.run("INSERT INTO onefold.counter_totals (space, key, total) VALUES (:space, :key, 100)", key=name)

        db.run(open_accounts)
        with snapshot_of(db_url, db.dialect) as snapshot:
            assert "counter_totals" in snapshot.tables()

            def move(tx: Tx) -> None:
                tx.run("UPDATE onefold.counter_totals SET total = 0 WHERE space = :space AND key = 'till'")
                tx.run("UPDATE onefold.counter_totals SET total = 200 WHERE space = :space AND key = 'safe'")
                jobs.put(tx, Mail())

            db.run(move)
            assert [row["total"] for row in snapshot.rows("counter_totals", None)] == [100, 100]
            assert list(snapshot.rows("jobs_ready", None)) == []
        with snapshot_of(db_url, db.dialect) as snapshot:
            assert sorted(row["total"] for row in snapshot.rows("counter_totals", None)) == [0, 200]


def test_memory_does_not_grow_with_the_rows(db_url: str) -> None:
    with onefold.connect(db_url) as db:
        def fill_some(tx: Tx, first: int) -> None:
            tx.many(
                "INSERT INTO onefold.counter_totals (space, key, total) VALUES (:space, :key, 0)",
                [{"key": f"{number:06}" + "x" * 190} for number in range(first, first + 5_000)],
            )

        for step in range(30):
            db.run(fill_some, step * 5_000)
    done = subprocess.run(
        [sys.executable, "-c", EXPORTER, db_url], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": SOURCES},
    )  # fmt: skip
    code, grown_kib = map(int, done.stderr.split())
    assert (code, done.stdout.count('"counter_totals","row"')) == (0, 150_000)
    assert len(done.stdout) > 36_000_000
    assert grown_kib < 12_000


def test_what_a_block_stores_is_whole(db_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Cents that were moved can be added up from the lines alone."""
    with onefold.connect(db_url) as db:
        def pay(tx: Tx) -> None:
            ledger.open_account(tx, "a", currency="EUR", overdraft_minor=1_000)
            ledger.open_account(tx, "b", currency="EUR")
            ledger.transfer(tx, "k", debit="a", credit="b", amount=Money(250, "EUR"))

        db.run(pay)
    lines = exported(capsys, db_url, "--block", "ledger")[1:-1]
    transfers = [line["row"] for line in lines if line["table"] == "ledger_transfers"]
    assert [(row["debit"], row["credit"], row["amount"], row["currency"]) for row in transfers] == [("a", "b", 250, "EUR")]
    posted = {line["row"]["account"]: line["row"]["posted"] for line in lines if line["table"] == "ledger_balances"}
    assert posted == {"a": -250, "b": 250}
