"""Isolation and blocks under real faults: processes killed and paused, connections cut, servers lost; histories judged.

What Onefold promises of composed functions is serializable. One SQLite file, and one PostgreSQL primary, keep the order of
real time too, and are held to it here: strict serializable.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from asking import ASKING
from buying import BUYING
from careless import CARELESS, ENDLESS, FAILING, FAILING_AT_FIRST
from queueing import JOBS
from scenarios import PAUSES
from visiting import VISITING
from waiting import is_gone, until

from onefold import Invalid
from onefold.testing import check, read_history
from onefold.testing.cluster import Installation, cluster
from onefold.testing.simulation import Faults, Postgres, SimulationFailed, explore
from onefold.testing.workload import (
    BANK,
    FAULTS,
    LIST_APPEND,
    LOCKS,
    RW_REGISTER,
    STREAMS,
    Workload,
    faults_for,
    run,
    simulated,
)
from onefold.testing.workload.nemesis import ON_CLIENTS, ON_NODES, ON_POSTGRES
from onefold.testing.workload.recording import Recorder, counts_of, events_of

WORKLOADS = {
    "list-append": LIST_APPEND, "rw-register": RW_REGISTER, "bank": BANK, "locks": LOCKS, "jobs": JOBS,
    "idempotency": ASKING, "booking": BUYING, "streams": STREAMS, "identity": VISITING,
}  # fmt: skip
LONG_S = 60.0
SEEDS = 3  # Of each workload that can be simulated.
EXACT = ("lost-update", "G-single-item", "G2-item", "internal")  # What READ COMMITTED is known for.


def test_processes_on_one_file_are_killed_and_paused(tmp_path: Path) -> None:
    with cluster("sqlite", nodes=0) as made:
        path = tmp_path / "history.jsonl"
        report = run(LIST_APPEND, made, path=path, seconds=0.5, seed=1, faults=ON_CLIENTS, clients=2)
    report.expect_valid()
    assert report.counts["ok"] > 20
    assert {"kill", "pause"} <= set(report.faults)


def test_servers_are_killed_and_their_answers_lost(tmp_path: Path) -> None:
    """What is sent again under its key, because nobody answered, is done once."""
    faults = ["kill_node", "limit_data"]
    with cluster("sqlite", nodes=2) as made:
        assert set(faults_for(made)) == FAULTS.keys() - set(ON_POSTGRES)
        report = run(STREAMS, made, path=tmp_path / "history.jsonl", seconds=0.3, seed=732, faults=faults, processes=1, clients=4)
    report.expect_valid()
    assert report.verdict.strongest_models == ["strict-serializable"]
    assert report.counts["ok"] > 20
    assert set(faults) <= set(report.faults)


def test_a_failover_and_broken_connections(tmp_path: Path) -> None:
    faults = ["backends", "reset_peer", "cut_standby", "failover"]
    with cluster("postgres", nodes=0, standbys=1) as made:
        assert set(faults_for(made)) == FAULTS.keys() - set(ON_NODES)
        report = run(LIST_APPEND, made, path=tmp_path / "history.jsonl", seconds=1, seed=4, faults=faults, clients=2)
    report.expect_valid()
    assert report.verdict.strongest_models == ["strict-serializable"]
    assert report.counts["ok"] > 20
    assert set(faults) <= set(report.faults)


def test_read_committed_is_what_it_says_and_no_more(postgres_url: str, tmp_path: Path) -> None:
    """The canary: were these anomalies not found, no verdict of this file would mean anything."""
    path = tmp_path / "history.jsonl"
    made = Installation(postgres_url)
    report = run(LIST_APPEND, made, path=path, seconds=1, isolation="read_committed", consistency_model="read-committed")
    report.expect_valid()
    stronger = check(read_history(path), "list-append", consistency_model="serializable")
    assert stronger.valid is False
    assert {"lost-update", "G-single-item", "G2-item"} & set(stronger.counts)
    known = {*EXACT, "G-nonadjacent-item"}
    assert set(stronger.counts) <= known | {f"{name}-{order}" for name in known for order in ("process", "realtime")}


@pytest.mark.parametrize("name", [name for name in WORKLOADS if name != "streams"])
def test_under_simulation_its_history_is_right(name: str, onefold_seeds) -> None:
    seeds = onefold_seeds(SEEDS)
    assert explore(simulated(WORKLOADS[name]), seeds=seeds, faults=PAUSES).seeds == len(seeds)


def test_under_simulation_statements_of_serializable_lists_may_interleave(postgres_cluster, onefold_seeds) -> None:
    """And of READ COMMITTED ones not: the same seeds, and the checker says which anomaly it is."""
    on = {level: Postgres(level, postgres_cluster) for level in ("serializable", "read_committed")}
    seeds = onefold_seeds(2)
    assert explore(simulated(LIST_APPEND), seeds=seeds, on=on["serializable"]).seeds == len(seeds)
    with pytest.raises(SimulationFailed, match="lost-update|G-single|G2"):
        explore(simulated(LIST_APPEND), seeds=10, on=on["read_committed"], faults=Faults.none(), shrink_runs_max=0)


def test_a_simulated_history_that_is_wrong_is_told() -> None:
    """The canary of the simulated ones; those of the blocks are among the mutants."""
    with pytest.raises(SimulationFailed, match="nonlinearizable") as found:
        explore(simulated(CARELESS), seeds=20, faults=Faults.none(), shrink_runs_max=0)
    assert found.value.what == "the history is right"
    with pytest.raises(Invalid):
        simulated(CARELESS, clients=33)
    with pytest.raises(SimulationFailed, match="ask"):
        explore(simulated(STREAMS), seeds=1, shrink_runs_max=0)


def test_a_simulated_history_that_says_nothing_is_no_success() -> None:
    def idle(client) -> None:
        client.run(lambda tx: tx.total("n"))

    with pytest.raises(SimulationFailed, match="Nothing was added, or nothing read"):
        explore(simulated(Workload(idle, "set-full")), seeds=1)


def test_a_holder_who_does_not_check_is_found(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    with cluster("sqlite", nodes=0) as made:
        report = run(CARELESS, made, path=path, seconds=1.5, processes=1)
    with pytest.raises(AssertionError, match="nonlinearizable") as told:
        report.expect_valid()
    assert f"onefold check {path} --model cas-register" in str(told.value)
    assert str(told.value).count("nonlinearizable: ") == 1
    assert check(read_history(path), "cas-register").valid is False


def test_a_program_that_fails_is_told(tmp_path: Path) -> None:
    with cluster("sqlite", nodes=0) as made, pytest.raises(RuntimeError, match="ZeroDivisionError"):
        run(FAILING, made, path=tmp_path / "history.jsonl", seconds=3_600, processes=1, clients=1)


def test_a_kill_takes_no_error_of_a_program_with_it(tmp_path: Path) -> None:
    with cluster("sqlite", nodes=0) as made, pytest.raises(RuntimeError, match="ZeroDivisionError"):
        run(FAILING_AT_FIRST, made, path=tmp_path / "history.jsonl", seconds=3_600, faults=["kill"], processes=1, clients=1)


def test_a_program_that_hangs_is_told_with_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[run.__module__], "END_S", 0.01)
    with cluster("sqlite", nodes=0) as made, pytest.raises(RuntimeError, match=r"(?s)did not end.*careless.*in never_ends"):
        run(ENDLESS, made, path=tmp_path / "history.jsonl", seconds=0.01, processes=1, clients=1)


def test_nothing_is_left_when_who_runs_it_is_killed(tmp_path: Path) -> None:
    """Not of a process that stands still either, which no end of its stdin wakes; and nobody reads its token meanwhile."""
    program = """
import sys
from pathlib import Path
from careless import ENDLESS
from onefold.testing.cluster import cluster
from onefold.testing.workload import run
from onefold.testing.workload.nemesis import Nemesis

def stay(nemesis, seconds):
    [process] = nemesis.processes
    process.pause()
    print(process._process.pid, process._folder, nemesis.made.token, flush=True)
    sys.stdin.read()

Nemesis.rage = stay
with cluster("sqlite", nodes=0) as made:
    run(ENDLESS, made, path=Path("history.jsonl"), processes=1, clients=1)
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env, cwd=tmp_path
    ) as owner:
        assert owner.stdout is not None
        pid, folder, token = owner.stdout.readline().split()
        assert token not in Path(f"/proc/{pid}/cmdline").read_text()
        owner.kill()
    until(lambda: not Path(folder).exists(), "the removal of its folder")
    until(lambda: is_gone(int(pid)), "the end of its clients")


def test_a_node_that_ends_by_itself_is_no_fault(tmp_path: Path) -> None:
    with cluster("sqlite", nodes=1) as made:
        os.kill(made.nodes[0].pid, signal.SIGTERM)
        with pytest.raises(RuntimeError, match="node1 has ended by itself"):
            run(ENDLESS, made, path=tmp_path / "history.jsonl", seconds=3_600, processes=1, clients=1)
        with pytest.raises(RuntimeError, match="node1 does not run"):
            made.nodes[0].pause()
        assert "is paused" not in made.story()


def test_files_become_one_history(tmp_path: Path) -> None:
    one, two = tmp_path / "1.jsonl", tmp_path / "2.jsonl"
    first, second = Recorder(one), Recorder(two)
    first.write(1, "invoke", "read", None)
    second.write(2, "invoke", "write", 5)
    first.write(1, "ok", "read", 5)
    first.close()
    second.close()
    with two.open("ab") as file:
        file.write(b'{"time":9')  # It was killed here.
    events = events_of([two, one], began_ns=0)
    assert [(event["process"], event["type"], event["index"]) for event in events] == [
        (1, "invoke", 0), (2, "invoke", 1), (1, "ok", 2),
    ]  # fmt: skip
    assert counts_of(events) == {"ok": 1, "fail": 0, "info": 1}
    same = tmp_path / "3.jsonl"
    same.write_bytes(b'{"time":7,"process":1,"type":"ok"}\n{"time":7,"process":2,"type":"invoke"}\n')
    assert [event["type"] for event in events_of([same], began_ns=7)] == ["invoke", "ok"]


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    made, path = Installation(str(tmp_path / "a.db")), tmp_path / "history.jsonl"
    for given in (
        {"faults": ["flood"]}, {"faults": ["backends"]}, {"faults": ["kill_node"]}, {"faults": ["latency"]}, {"processes": 0}, {"processes": 17}, {"clients": 0},
        {"clients": 128}, {"seconds": 0}, {"seconds": 1e6},
    ):  # fmt: skip
        with pytest.raises(Invalid):
            run(LIST_APPEND, made, path=path, **given)
    with pytest.raises(Invalid, match="no such model"):
        Workload(LIST_APPEND.program, "lists")
    for bare in (Workload(lambda client: None, "bank"), replace(BANK, finish=lambda client: None)):
        with pytest.raises(Invalid, match="import"):
            run(bare, made, path=path)
    for nowhere in (tmp_path / "nowhere" / "history.jsonl", tmp_path):
        with pytest.raises(Invalid, match="path"):  # Not after all of it was run.
            run(LIST_APPEND, made, path=nowhere)
    assert not path.exists()


@pytest.mark.soak
@pytest.mark.timeout(3_600)
@pytest.mark.usefixtures("onefold_scale")  # So that `make sim` runs it as well, from its seed.
@pytest.mark.parametrize("name", WORKLOADS)
@pytest.mark.parametrize("engine", ["sqlite", "postgres"])
def test_long(name: str, engine: str, tmp_path: Path, onefold_seed: int) -> None:
    """Every fault that there can be, several failovers among them."""
    with cluster(engine, nodes=2 if name == "streams" else 0, standbys=int(engine == "postgres")) as made:
        faults = faults_for(made)
        path = tmp_path / "history.jsonl"
        report = run(WORKLOADS[name], made, path=path, seconds=LONG_S, seed=onefold_seed, faults=faults)
        report.expect_valid()
    assert set(faults) <= set(report.faults)
    print(report)


@pytest.mark.soak
@pytest.mark.timeout(3_600)
@pytest.mark.usefixtures("onefold_scale")
def test_one_failover_after_the_other(tmp_path: Path, onefold_seed: int) -> None:
    """Each to a standby of the primary before; what the first one had acknowledged is on the last."""
    faults = ["failover", "cut_standby", "kill", "backends"]
    with cluster("postgres", nodes=0, standbys=1) as made:
        path = tmp_path / "history.jsonl"
        report = run(LIST_APPEND, made, path=path, seconds=LONG_S, seed=onefold_seed, faults=faults)
    report.expect_valid()
    assert report.faults.count("failover") > 1
    print(report)
