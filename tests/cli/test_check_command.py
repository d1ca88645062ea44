"""`onefold check`: verdicts, exit codes, JSON and the drawing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import onefold
from onefold.cli.main import run

GOOD = "{:process 0 :type :invoke :f :write :value 1} {:process 0 :type :ok :f :write :value 1}"
BAD = f"{GOOD} {{:process 1 :type :invoke :f :read}} {{:process 1 :type :ok :f :read :value 2}}"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "history.edn"


def test_a_valid_history_ends_with_0(file: Path, capsys) -> None:
    file.write_text(GOOD)
    assert run(["check", str(file), "--model", "register"]) == 0
    assert capsys.readouterr().out.startswith("valid: register")


def test_an_invalid_history_ends_with_1_and_is_drawn(file: Path, capsys) -> None:
    file.write_text(BAD)
    drawing = file.with_suffix(".svg")
    assert run(["check", str(file), "--model", "register", "--svg", str(drawing), "--json"]) == 1
    verdict = json.loads(capsys.readouterr().out)
    assert verdict["valid"] is False
    assert verdict["anomalies"]["nonlinearizable"][0]["operations"][-1]["output"] == "2"
    assert drawing.read_text().startswith("<svg")


@pytest.mark.parametrize(("ops", "model"), [
    (":f :cas :value [1 2]", "cas-register"), (":f :write :value 1", "register"), (':f :get :key "a" :value nil', "key-value"),
    (":f :acquire :value 3", "fenced-mutex"), (":f :acquire", "mutex"), (":f :enqueue :value 1", "unordered-queue"),
    (":f :read :value {1 10}} {:process 1 :type :invoke :f :transfer", "bank"), (":f :add :value 1", "set"),
    (":f :read :value [1]} {:process 1 :type :ok :f :add :value 1", "set-full"),
    (":f :read :value 0} {:process 1 :type :ok :f :add :value 1", "counter"),
    (":f :txn :value [[:append 1 2]]", "list-append"), (":value [[:w 1 2] [:r 3]]", "rw-register"),
    (":f :txn :value [[:write :x 2] [:write :x 2]]", "multi-register"),
])  # fmt: skip
def test_the_model_is_seen_from_the_operations(file: Path, capsys, ops: str, model: str) -> None:
    file.write_text(f"{{:process 0 :type :ok {ops}}}")
    run(["check", str(file), "--json"])
    verdict = json.loads(capsys.readouterr().out)
    assert verdict["model"] == model
    assert model in verdict["notes"][0]


def test_what_registers_hold_at_first_can_be_said(file: Path) -> None:
    file.write_text("{:process 1 :type :invoke :f :txn} {:process 1 :type :ok :f :txn :value [[:read :x 7] [:read :y 8]]}")
    command = ["check", str(file), "--model", "multi-register"]
    assert run([*command, "--initial", "{:x 7 :y 8}"]) == 0
    assert run([*command, "--initial", "7"]) == 1
    assert run(command) == 1


def test_an_unknown_verdict_ends_with_2(file: Path, capsys) -> None:
    file.write_text("[]")
    assert run(["check", str(file), "--model", "bank", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["valid"] == "unknown"


@pytest.mark.parametrize(("text", "options", "message"), [
    ("{:process 0", ["--model", "register"], "line=1"),
    (GOOD, ["--model", "regsiter"], "list-append"),
    (GOOD, ["--model", "register", "--permits", "2"], "no such option"),
    (GOOD, ["--model", "list-append"], "perhaps='register'"),
    ("{:process 0 :type :ok :f :dance}", [], "name it"),
    (GOOD, ["--model", "register", "--initial", "1 2"], "one value"),
    (GOOD, ["--model", "register", "--deadline-s", "-1"], "deadline"),
])  # fmt: skip
def test_invalid_input_ends_with_2_and_says_why(file: Path, capsys, text: str, options: list[str], message: str) -> None:
    file.write_text(text)
    assert run(["check", str(file), *options]) == 2
    assert message in capsys.readouterr().err


def test_no_file_ends_with_3(file: Path, capsys) -> None:
    assert run(["check", str(file), "--model", "register"]) == 3
    assert "no history" in capsys.readouterr().err


def test_the_options_reach_their_checker(file: Path, capsys) -> None:
    skew = [[["append", "x", 1], ["r", "y", None]], [["append", "y", 1], ["r", "x", None]]]
    events = [{"process": p, "type": kind, "f": "txn", "value": skew[p]} for kind in ("invoke", "ok") for p in (0, 1)]
    file.write_text(json.dumps(events))
    assert run(["check", str(file), "--model", "list-append"]) == 1
    assert "It is not: repeatable-read." in capsys.readouterr().out
    assert run(["check", str(file), "--model", "list-append", "--consistency-model", "snapshot-isolation"]) == 0
    file.write_text(GOOD.replace(":write :value 1", ":acquire :value 2"))
    assert run(["check", str(file), "--model", "semaphore"]) == 1
    assert run(["check", str(file), "--model", "semaphore", "--permits", "2"]) == 0


def test_what_cannot_be_read_or_drawn_is_no_verdict(tmp_path: Path, capsys) -> None:
    assert run(["check", str(tmp_path / ("a" * 300)), "--model", "register"]) == 2
    assert "cannot be read" in capsys.readouterr().err
    file = tmp_path / "history.edn"
    file.write_text(GOOD)
    assert run(["check", str(file), "--model", "register", "--svg", str(tmp_path), "--json"]) == 2
    said = capsys.readouterr()
    assert json.loads(said.out)["valid"] is True  # Which may have taken long to find.
    assert "cannot be written" in json.loads(said.err)["error"]["text"]


def test_names_need_not_be_utf_8_and_command_no_terminal(tmp_path: Path, capsys) -> None:
    file = tmp_path / "\udcff\x1b[31m.edn"
    file.write_text(GOOD)
    assert run(["check", str(file), "--model", "register", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["file"] == str(file)
    file.unlink()
    assert run(["check", str(file), "--json"]) == 3
    assert json.loads(capsys.readouterr().err)["error"]["code"] == "not_found"
    assert run(["check", str(file)]) == 3
    assert "\\udcff\\x1b[31m.edn" in capsys.readouterr().err


def test_the_verdict_stands_when_nobody_reads_it(file: Path) -> None:
    file.write_text(BAD)
    command = [sys.executable, "-m", "onefold.cli.main", "check", str(file)]
    nobody, end = os.pipe()
    os.close(nobody)
    env = {**os.environ, "PYTHONPATH": str(Path(onefold.__file__).parent.parent)}
    hung_up = subprocess.run(command, stdout=end, stderr=subprocess.PIPE, check=False, env=env)
    os.close(end)
    without = subprocess.run(["bash", "-c", '"$@" >&-', "bash", *command], stderr=subprocess.PIPE, check=False, env=env)
    assert [(done.returncode, done.stderr) for done in (hung_up, without)] == [(1, b"")] * 2
