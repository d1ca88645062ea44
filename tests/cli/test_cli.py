"""The command line: what it prints, its exit codes, and that errors are one line."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import until

import onefold
from onefold import tokens
from onefold.cli import bench
from onefold.cli.grammar import parser
from onefold.cli.main import run
from onefold.testing.postgres import Cluster

SOURCES = str(Path(onefold.__file__).parent.parent)


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run in this process: exit code, stdout, stderr."""
    code = run(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_token_is_created_shown_once_listed_and_revoked(db_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    at = ("--url", db_url, "--json")
    code, out, _ = answer(
        capsys, "token", "create", "shop", "--right", "booking:*", "--right", "jobs:read", "--space", "t/7",
        "--ttl-days", "30", *at,
    )  # fmt: skip
    made = json.loads(out)
    assert (code, made["rights"], made["space_name"]) == (0, ["booking:*", "jobs:read"], "t/7")
    assert made["expires_at_ms"] - made["created_at_ms"] == 30 * 86_400_000
    sent = tokens.parse(made["bearer"])
    assert sent is not None
    with onefold.connect(db_url) as db:
        assert db.run(tokens.verify, sent[0], digest=sent[1]).id == made["id"]
    code, out, _ = answer(capsys, "token", "list", *at)
    assert [token["id"] for token in json.loads(out)] == [made["id"]]
    assert made["bearer"] not in out
    code, out, _ = answer(capsys, "token", "revoke", made["id"], "--dry-run", *at)
    assert (code, [token["id"] for token in json.loads(out)["sample"]]) == (0, [made["id"]])
    assert json.loads(answer(capsys, "token", "list", *at)[1])[0]["revoked_at_ms"] is None
    code, out, _ = answer(capsys, "token", "revoke", made["id"], *at)
    assert json.loads(out)["revoked_at_ms"] is not None
    code, out, _ = answer(capsys, "token", "list", "--url", db_url)
    assert "revoked" in out
    assert "booking:* jobs:read" in out


def test_errors_are_one_line_with_a_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = str(tmp_path / "t.db")
    onefold.migrate(url)
    for arguments, expected, part in [
        (("token", "revoke", "nobody", "--url", url), 3, "There is no such token"),
        (("token", "revoke", "nobody", "--dry-run", "--url", url), 3, "There is no such token"),
        (("token", "revoke", "nobody", "--url", str(tmp_path / "mistyped.db")), 3, "There is no database"),
        (("token", "create", "x", "--right", "nonsense", "--url", url), 2, "A right is"),
        (("token", "list", "--url", str(tmp_path / "no" / "x.db")), 2, "folder"),
        (("token", "list", "--url", "mysql://x"), 2, "A URL begins with"),
        (("worker", "nonsense", "--url", url), 2, "MODULE:OBJECT"),
        (("worker", "no_such_module:worker", "--url", url), 3, "no such module"),
        (("worker", "json:loads", "--url", url), 1, "loads"),
        (("worker", "json:none", "--url", url), 3, "no such object"),
    ]:
        code, out, err = answer(capsys, *arguments)
        assert (code, out, err.count("\n")) == (expected, "", 1), (arguments, err)
        assert part in err
        assert "Traceback" not in err
        code, _, err = answer(capsys, *arguments, "--json")
        assert code == expected
        assert json.loads(err)["error"]["code"]
    assert not (tmp_path / "mistyped.db").exists()


def test_wrong_usage_is_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ((), ("nonsense",), ("token",), ("token", "create"), ("token", "create", "x"), ("doctor", "--wat")):
        with pytest.raises(SystemExit) as ended:
            run(arguments)
        assert ended.value.code == 2
        assert "usage:" in capsys.readouterr().err
        with pytest.raises(SystemExit) as ended:
            run([*arguments, "--json"])
        assert ended.value.code == 2
        assert json.loads(capsys.readouterr().err)["error"]["code"] == "usage"


def test_the_url_comes_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ONEFOLD_URL", str(tmp_path / "env.db"))
    assert answer(capsys, "migrate")[0] == 0
    assert (tmp_path / "env.db").exists()
    assert answer(capsys, "migrate", "--url", str(tmp_path / "arg.db"))[0] == 0
    assert (tmp_path / "arg.db").exists(), "--url wins"


def test_migrate_says_what_it_applied_and_then_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = str(tmp_path / "t.db")
    _, out, _ = answer(capsys, "migrate", "--url", url, "--json")
    assert {"block": "tokens", "version": 1} in json.loads(out)["applied"]
    assert answer(capsys, "migrate", "--url", url)[1] == "Nothing to do.\n"


def test_the_printed_sql_migrates_postgresql_as_migrate_does(
    postgres_cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    _, script, _ = answer(capsys, "migrate", "--sql")
    url = postgres_cluster.create_database("by_hand")
    try:
        with postgres_cluster.admin("by_hand") as connection:
            connection.execute(script.encode())
        code, out, _ = answer(capsys, "migrate", "--url", url)
        assert (code, out) == (0, "Nothing to do.\n")
        with onefold.connect(url) as db:
            assert db.run(tokens.list_tokens).items == []
    finally:
        postgres_cluster.drop_database("by_hand")


def test_version_names_what_runs_here(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = answer(capsys, "version", "--json")
    assert code == 0
    assert {"onefold", "python", "sqlite", "uvicorn"} <= set(json.loads(out))


def test_bench_measures_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    probe = bench._probe
    monkeypatch.setattr(bench, "_probe", lambda url, seconds, tell: probe(url, seconds / 20, tell))
    code, out, _ = answer(capsys, "bench", "--seconds", "1", "--url", str(tmp_path / "t.db"), "--json")
    rows = json.loads(out)
    assert code == 0
    assert [row["what"] for row in rows] == ["4 KiB durable", "commit, 1 caller", "commit, 128 callers"]
    assert all(row["per_second"] > 0 for row in rows)
    assert list(tmp_path.iterdir()) == []
    assert answer(capsys, "bench", "nonsense")[0] == 2


def test_benches_of_a_checkout_speak_json_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "benches").mkdir()
    (tmp_path / "benches" / "__main__.py").write_text("import json, sys; print(json.dumps(sys.argv[1:]))")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert run(["bench", "messaging/jobs", "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == ["messaging/jobs", "--json"]


def test_whatever_deletes_can_be_tried_first_and_all_speaks_json() -> None:
    """A new command that takes something away names itself here, or has `--dry-run`."""
    found = {" ".join(words): options for words, options in commands(parser())}
    assert all("--json" in options for options in found.values()), found
    assert len(found) > 30
    deleting = {
        "token revoke", "jobs cancel", "jobs purge", "jobs retry", "events drop-parked", "locks release", "webhooks replay",
        "keys retire", "backup", "restore", "sessions end", "webhooks delete",
    }  # fmt: skip
    assert {name for name, options in found.items() if "--dry-run" in options} == deleting
    harmless = {"bench", "check", "doctor", "export", "migrate", "serve", "version", "worker"}
    makes = {"create", "list", "ls", "stats", "why", "failures", "pause", "resume", "tail", "retry-parked", "attempts", "failed",
             "pending", "rotate", "enable", "disable"}  # fmt: skip
    assert {name for name in found if name.split()[-1] not in makes} - harmless == deleting


def commands(top: argparse.ArgumentParser, *before: str) -> Iterator[tuple[tuple[str, ...], set[str]]]:
    """Every command by its words, and its options."""
    inner = [action for action in top._actions if isinstance(action, argparse._SubParsersAction)]
    if not inner:
        yield before, {option for action in top._actions for option in action.option_strings}
    for action in inner:
        for name, parsed in action.choices.items():
            yield from commands(parsed, *before, name)


def test_long_work_is_told_on_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.chdir(tmp_path)
    history = tmp_path / "history.edn"
    history.write_text("{:type :invoke, :process 0, :f :read, :value nil}\n{:type :ok, :process 0, :f :read, :value nil}\n")
    for arguments, words in [
        (("migrate",), "applying jobs 003"),
        (("doctor", "--check"), "looking for damage"),
        (("check", "history.edn", "--model", "register"), "checking 1 operations"),
        (("backup", "b.db"), "checking"),
    ]:
        said = answer(capsys, *arguments, "--url", str(tmp_path / "t.db"))[2]
        assert f"\r\x1b[K{words}" in said, arguments
        assert said.endswith("\r\x1b[K"), arguments
    phases: list[str] = []
    bench._probe(str(tmp_path / "t.db"), 0.01, lambda what, _done, _total: phases.append(what))  # type: ignore[arg-type]
    assert phases == ["the disk", "one caller", "128 callers"]


def test_a_reader_that_hangs_up_is_no_error(tmp_path: Path) -> None:
    script = f"{sys.executable} -m onefold.cli.main migrate --sql | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": SOURCES},
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "BEGIN;\n", "")


def test_help_is_quick_to_come(tmp_path: Path) -> None:
    """Nothing heavy is imported before it is known what to do."""
    code = "import sys; from onefold.cli.main import parser; parser(); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": SOURCES},
    )  # fmt: skip
    assert not {"uvicorn", "psycopg", "onefold.server", "onefold.messaging.jobs"} & set(done.stdout.split())


def test_worker_runs_a_programs_worker_until_sigterm(db_url: str, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(
        textwrap.dedent(f"""
            import msgspec, onefold
            from onefold import jobs

            @jobs.kind("greet")
            class Greet(msgspec.Struct, frozen=True):
                name: str

            def greet(tx, args):
                tx.add(f"greeted/{{args.name}}", 1)

            db = onefold.connect({db_url!r})
            worker = jobs.Worker(db, tx={{Greet: greet}})
            db.run(jobs.put, Greet("ana"))
        """),
        encoding="utf-8",
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "onefold.cli.main", "worker", "shop:worker", "--json"], cwd=tmp_path,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": SOURCES},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline()) == {"event": "started", "worker": "shop:worker"}
        with onefold.connect(db_url) as db:
            until(lambda: db.reader().run(lambda tx: tx.total("greeted/ana")) == 1, "the job")
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=40)
        assert process.returncode == 0, errors
        assert b"Traceback" not in errors
    finally:
        process.kill()
        process.communicate()


def test_no_number_passes_its_bounds_behind_zeros() -> None:
    with pytest.raises(SystemExit):
        run(["events", "tail", "--after", f"{0:012}{10**20}"])
