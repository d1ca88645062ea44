"""Whole installations: nodes that are killed and paused, a primary that is lost, and the story that a failure tells."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from benches.testing.clusters import processor_s
from load import Load
from waiting import is_gone, until

import onefold
from onefold import Invalid, locks
from onefold.testing.cluster import Node, cluster
from onefold.testing.cluster.timeline import LINES_MAX, Timeline, read
from onefold.testing.postgres import Cluster
from onefold.testing.standby import Standby

READY_S_MAX = 2.0
CORES = 2  # On which that was to be reached. Processor time is the same, or nearly, beside other tests; the bench has the clock on the wall.


def ask(node: Node, owner: str) -> int:
    return node.request("POST", "/v1/locks/acquire", {"name": "till", "owner": owner, "ttl_ms": 60_000})[0]


def test_three_nodes_on_sqlite_share_one_database_and_outlive_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    own_s = time.process_time()
    with cluster("sqlite", nodes=3) as made:
        one, two, three = made.nodes
        assert time.process_time() - own_s + sum(processor_s(node.pid) for node in made.nodes) < READY_S_MAX * CORES
        assert {node.request("GET", "/readyz")[0] for node in made.nodes} == {200}
        assert ask(one, "ana") == 200
        one.kill()
        assert not one.running
        assert ask(two, "bob") == 409
        three.pause()
        assert two.request("GET", "/readyz")[0] == 200
        three.resume()
        assert three.request("GET", "/readyz")[0] == 200
        until(lambda: '"onefold.access","message":"POST' in two.log, "the line of the request")
        right, made.url = made.url, "/nowhere/onefold.db"
        with pytest.raises(RuntimeError, match="folder of the database"):
            one.start()
        made.url = right
        one.start()  # The one before had said its last word, and was not gone for sure.
        assert one.request("GET", "/readyz")[0] == 200
        story = made.story()
        for text in ("node1        is killed", "node3        is paused", "POST /v1/locks/acquire: 409 request_id=node2-2"):
            assert text in story
        of_it = [line.split("s  ", 1)[1] for line in story.splitlines() if "request_id=node2-2" in line.split()]
        assert {line.split()[0] for line in of_it} == {"node2"}
        assert sum("POST /v1/locks/acquire: 409" in line for line in of_it) == 1
        (held,) = [line.split() for line in of_it if "onefold.coordination.locks.ops.acquire" in line]
        assert {"logger=onefold.transaction", "outcome=held"} <= set(held)
        assert sum("info POST /v1/locks/acquire 409" in line for line in of_it) == 1
        assert three.stop() == 0
        monkeypatch.setattr(sys.modules[Node.__module__], "START_S", 0.01)
        three.launch()
        three.pause()
        with pytest.raises(TimeoutError, match=r"(?s)node3: .*onefold"):  # With its log: what it said before.
            three.ready()
        assert not three.running


def test_a_node_with_a_wrong_clock_has_its_place_in_the_story() -> None:
    with cluster("sqlite", nodes=1, skew_ms=(-3_600_000,)) as made:
        (late,) = made.nodes
        now_ms = time.time_ns() // 1_000_000
        status, lock = late.request("POST", "/v1/locks/acquire", {"name": "till", "owner": "ana", "ttl_ms": 60_000})
        assert status == 200
        assert abs(lock["acquired_at_ms"] - (now_ms - 3_600_000)) < 60_000
        until(lambda: '"onefold.access"' in late.log, "its line in the log")
        lines = [line.split(" s  ", 1) for line in made.story().splitlines()]
        (ours,) = [float(at) for at, text in lines if "/v1/locks/acquire: 200" in text]
        (theirs,) = [float(at) for at, text in lines if "logger=onefold.access" in text]
        assert abs(ours - theirs) < 60.0


def test_failovers_to_synchronous_standbys_lose_nothing_acknowledged() -> None:
    with cluster("postgres", nodes=1, standbys=2) as made, made.connect() as db:
        load = Load(db)
        try:
            load.progress(by=100)
            made.fail_over()
            load.progress(by=100)
            assert made.standbys == [], "it follows the lost one, and would forget what was acknowledged since"
            assert made.add_standby().name == "standby3"
            made.fail_over()
            load.progress(by=100)
        finally:
            load.stop()
        load.check()
        node = made.nodes[0]
        until(lambda: node.request("GET", "/readyz")[0] == 200, "the node to find the new primary")
        assert ask(node, "ana") == 200
        story = made.story()
        assert "standby1     is promoted" in story
        assert "standby3     is promoted" in story
        for lost in ("primary", "standby1"):
            assert f"{lost:<12} LOG:  database system is ready to accept connections" in story
        with pytest.raises(Invalid, match="no standby"):
            made.fail_over()


def test_shards_fail_apart_and_have_one_story() -> None:
    with cluster("postgres", nodes=1, shards=2) as made:
        one, two = made.shards
        assert one is made
        assert [ask(shard.nodes[0], owner) for shard, owner in ((one, "ana"), (two, "bob"), (one, "bob"))] == [200, 200, 409]
        two.fail_over()
        until(lambda: two.nodes[0].request("GET", "/readyz")[0] == 200, "the node to find the new primary")
        assert [ask(shard.nodes[0], owner) for shard, owner in ((one, "bob"), (two, "ana"), (two, "bob"))] == [409, 409, 200]
        with one.connect() as db:
            assert db.run(lambda tx: (held := locks.lock_of(tx, "till")) and held.owner) == "ana"
        assert ([standby.name for standby in one.standbys], two.standbys) == (["shard1_standby1"], [])
        assert "shard2_standby1 is promoted" in one.story() == two.story()


def test_shards_on_sqlite_are_files_of_their_own() -> None:
    with cluster("sqlite", nodes=1, shards=3) as made:
        assert [ask(shard.nodes[0], "ana") for shard in made.shards] == [200, 200, 200]
        assert [shard.nodes[0].name for shard in made.shards] == ["shard1_node1", "shard2_node1", "shard3_node1"]
        assert len({shard.url for shard in made.shards}) == 3


def test_a_standby_repeats_its_primary_and_takes_over() -> None:
    with Cluster() as primary:
        url = primary.create_database("a")
        onefold.migrate(url)
        with Standby(primary, "b") as standby:
            with onefold.connect(url) as db:
                db.run(lambda tx: tx.add("k", 5))
                standby.catch_up()
                (seen,) = until(lambda: db.metrics()["replicas"], "the standby to be seen")
                assert (seen["name"], seen["state"], seen["sync"]) == ("b", "streaming", "async")
                assert seen["behind_bytes"] >= 0
            with standby.admin("a") as copy:
                assert copy.execute("SELECT pg_is_in_recovery(), sum(delta) FROM onefold.counter_deltas").fetchone() == (True, 5)
            primary.kill9()
            standby.promote()
            with onefold.connect(standby.dsn("a")) as db:
                db.run(lambda tx: tx.add("k", 1))
                assert db.run(lambda tx: tx.total("k")) == 6


def test_a_failure_inside_tells_the_story(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), cluster(nodes=0) as made:
        made.timeline.note("test", "divides by zero")
        raise ZeroDivisionError
    assert "test         divides by zero" in capsys.readouterr().err


BAD_CLOCK, MORE_CLOCKS = {"skew_ms": (86_400_001,)}, {"nodes": 1, "skew_ms": (0, 0)}


@pytest.mark.parametrize("given", [{"nodes": 17}, {"nodes": -1}, {"standbys": 5}, {"shards": 0}, {"shards": 5}, {"shards": 4, "nodes": 5}, {"standbys": 1}, BAD_CLOCK, MORE_CLOCKS])
def test_what_cannot_be_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(Invalid), cluster("sqlite", **given):
        pass


def test_there_are_two_engines() -> None:
    engine: Any = "mysql"
    with pytest.raises(Invalid), cluster(engine):
        pass


def test_a_timeline_has_one_order_and_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    timeline = Timeline()
    timeline.note("test", "begins")
    ours = '{"at_ms": 1000, "level": "info", "logger": "a", "message": "hello", "status": 200}\nTraceback\n{"no": "time"}'
    theirs = "1970-01-01 00:00:00.500 UTC [7] LOG:  ready\n\tand more"
    lines = timeline.told([("node", ours), ("primary", theirs)]).splitlines()
    assert [line.split("s  ", 1)[1].split(maxsplit=1) for line in lines] == [
        ["primary", "LOG:  ready"], ["primary", "and more"], ["node", "info hello logger=a status=200"], ["node", "Traceback"],
        ["node", '{"no": "time"}'], ["test", "begins"],
    ]  # fmt: skip
    timeline.note("late", "starts")
    for _ in range(2 * LINES_MAX):
        timeline.note("test", "goes on")
    fallen = timeline.told([("late", "Traceback\nZeroDivisionError")], ahead_ms={"late": 60_000}).splitlines()
    assert all(float(line.split()[0]) < 60 for line in fallen[1:]), "of a time that nobody knows"
    timeline = Timeline()
    timeline.note("late", "starts")
    assert [line.split(maxsplit=3)[3] for line in timeline.told([("late", "Traceback")]).splitlines()] == ["starts", "Traceback"]
    monkeypatch.setattr(sys.modules[Timeline.__module__], "NOTES_MAX", 2)
    timeline = Timeline()
    for number in range(5):
        timeline.note("test", f"note {number}")
    assert [line.split()[-1] for line in timeline.told([]).splitlines()] == ["3", "4"]
    long = timeline.told([("node", "x\n" * 1_000)]).splitlines()
    assert len(long) == LINES_MAX + 1
    assert "602 earlier" in long[0]
    assert read("node", "") == []


def test_nothing_is_left_when_the_owner_of_a_cluster_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys; from onefold.testing.cluster import cluster\n"
        "with cluster(nodes=1) as made:\n"
        "    node = made.nodes[0]; node.pause(); print(node.pid, made.url, flush=True); sys.stdin.read()"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(onefold.__file__).parent.parent), "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    ) as owner:
        assert owner.stdout is not None
        pid, file = owner.stdout.readline().split()
        owner.send_signal(signal.SIGKILL)
    until(lambda: not Path(file).parent.exists(), "the removal of its folder")
    until(lambda: is_gone(int(pid)), "the server's end")
