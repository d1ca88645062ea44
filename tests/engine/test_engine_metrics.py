"""The numbers about the engine: what they say of known durations, batches and failures."""

from __future__ import annotations

import functools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from engine_words import WAIT_S, Blocker, in_one_batch, put
from waiting import until

import onefold
from onefold import Database, Denied, Tx, operation
from onefold.engine import metrics
from onefold.engine.call import name_of
from onefold.engine.metrics import Histogram, Metrics
from onefold.engine.postgres import activity
from onefold.engine.reserved import is_reserved, reserved


def refuses(_secret: str, tx: Tx) -> None:
    raise Denied("No.")


def durations(*ns: int) -> Histogram:
    histogram = Histogram()
    for one in ns:
        histogram.record(one)
    return histogram


def test_a_histogram_without_durations_is_all_zeros() -> None:
    assert durations().summary() == {"count": 0, "mean_ms": 0.0, "p50_ms": 0.0, "p99_ms": 0.0}


def test_quantiles_are_the_upper_edge_of_the_bucket_in_which_they_lie() -> None:
    found = durations(*[1_000] * 98, *[2_000_000] * 2).summary()
    assert found == {"count": 100, "mean_ms": 0.041, "p50_ms": 0.001024, "p99_ms": 2.097152}


def test_one_outlier_of_a_hundred_is_not_the_99th_percentile() -> None:
    assert durations(*[1_000] * 99, 2_000_000).summary()["p99_ms"] == 0.001024


def test_the_longest_duration_is_the_last_quantile() -> None:
    assert durations(1_000, 2_000_000).quantile_ms(1.0) == 2.097152


def test_a_batch_of_another_size_may_come_while_the_numbers_are_read() -> None:
    counted = Metrics()

    class Grows(int):
        def __mul__(self, other: int) -> int:
            counted.batch_sizes[len(counted.batch_sizes) + 2] += 1
            return int(self) * other

    counted.batch_sizes[Grows(1)] += 3
    assert counted.snapshot()["batch_size_mean"] == 1.0
    assert len(counted.batch_sizes) == 2


@pytest.mark.parametrize("reading", [False, True])
def test_a_partial_is_counted_under_its_functions_name_and_shows_no_arguments(db: Database, reading: bool) -> None:
    class Refuses:
        def __call__(self, tx: Tx, secret: str) -> None:
            raise Denied("No.")

    handle = db.reader() if reading else db
    for number in range(2):
        with pytest.raises(Denied):
            handle.run(functools.partial(refuses, f"secret {number}"))
        with pytest.raises(Denied):
            handle.run(functools.partial(Refuses(), secret=f"secret {number}"))
    counted = {row["function"].rpartition(".")[2]: row["count"] for row in db.metrics()["aborts"]}
    assert counted == {"refuses": 2, "Refuses": 2}


def test_a_blocks_function_is_counted_under_its_own_name() -> None:
    assert name_of(operation(refuses)) == name_of(refuses)  # type: ignore[arg-type]


def test_a_method_of_c_has_a_name_too(db: Database) -> None:
    with pytest.raises(TypeError):
        db.run(str.upper)
    assert [row["function"] for row in db.metrics()["aborts"]] == ["?.str.upper"]


def test_a_partial_of_a_reserved_function_is_reserved() -> None:
    assert is_reserved(functools.partial(reserved(lambda tx, n: n), 1))
    assert not is_reserved(functools.partial(refuses, "1"))


def test_past_the_limit_functions_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "FUNCTIONS_MAX", 2)
    counted = Metrics()
    for name in ("a", "b", "c", "d", "a"):
        counted.abort(name, "busy")
        counted.retry(name)
    found = counted.snapshot()
    assert found["aborts"] == [
        {"function": "a", "code": "busy", "count": 2},
        {"function": "b", "code": "busy", "count": 1},
        {"function": "other", "code": "other", "count": 2},
    ]
    assert found["retries"] == [
        {"function": "a", "count": 2}, {"function": "b", "count": 1}, {"function": "other", "count": 2}
    ]  # fmt: skip


def test_nothing_is_said_to_take_longer_than_it_took(db: Database) -> None:
    began_ns = time.monotonic_ns()
    db.run(put, "a")
    numbers = db.metrics()  # Which asks the server, and that counts too.
    took_ms = (time.monotonic_ns() - began_ns) / 1e6
    assert numbers["commit"]["count"] >= 1
    for name in ("queue_age", "commit", "gate_wait", "transaction"):
        assert 0 <= numbers[name]["mean_ms"] <= took_ms


def test_each_commit_is_counted_once(db: Database) -> None:
    counts = [db.metrics()["commits"] for _ in range(2)]
    looks = counts[1] - counts[0]  # Which ask PostgreSQL, in transactions.
    for _ in range(3):
        db.run(put, "a")
    assert (looks, db.metrics()["commits"] - counts[1]) == ((2, 5) if db.dialect == "postgres" else (0, 3))


def test_a_database_that_nobody_used_yet_waits_for_nothing(db: Database) -> None:
    numbers = db.metrics()
    assert [numbers[name] for name in ("queued", "oldest_snapshot_ms", "open_transaction_ms", "batch_size_mean")] == [0.0] * 4


@pytest.mark.parametrize("how", ["reads", "writes"])
def test_the_transaction_that_is_open_longest_is_named(db_url: str, threads: ThreadPoolExecutor, how: str) -> None:
    entered, leave = threading.Semaphore(0), threading.Event()

    def dawdle(tx: Tx) -> None:
        tx.total("a")
        entered.release()
        leave.wait(20)

    def comes_later(tx: Tx) -> None:
        dawdle(tx)

    with onefold.connect(db_url) as db:
        assert db.metrics()["open"] is None
        calls = []
        try:
            for handle, fn in ((db.reader() if how == "reads" else db, dawdle), (db.reader(), comes_later)):
                calls.append(threads.submit(handle.run, fn))
                assert entered.acquire(timeout=20)
            numbers = db.metrics()
        finally:
            leave.set()
        for call in calls:
            call.result(20)
        assert numbers["open"]["function"].endswith(".dawdle")
        assert numbers["open"]["ms"] == numbers["open_transaction_ms"]
        assert 0 < numbers["open"]["ms"] < 60_000
        until(lambda: db.metrics()["open"] is None, "the end of the transaction")


def test_a_transaction_that_another_program_forgot_is_told_though_it_has_no_snapshot(postgres_url: str) -> None:
    with onefold.connect(postgres_url) as db, psycopg.connect(postgres_url, application_name="forgotten") as theirs:
        theirs.execute("CREATE TABLE theirs (x int)")
        longest = db.metrics()["open"]
        assert longest["function"] == ""
        assert longest["where"] == f"forgotten, pid {theirs.info.backend_pid}, idle in transaction"
        assert db.metrics()["replicas"] == []


def test_the_oldest_snapshot_is_as_old_as_it_is(db: Database) -> None:
    reading = Blocker()

    def reads(tx: Tx) -> None:
        tx.one("SELECT count(*) FROM onefold.counter_totals")
        reading(tx)

    thread = threading.Thread(target=db.reader().run, args=(reads,))
    thread.start()
    assert reading.entered.wait(WAIT_S)
    ages = [db.metrics()["oldest_snapshot_ms"] for _ in range(2)]
    reading.leave.set()
    thread.join()
    assert 0 < ages[0] < ages[1] < 60_000
    until(lambda: db.metrics()["oldest_snapshot_ms"] == 0)  # Nobody waits for the end of a snapshot.


def test_a_server_that_refuses_to_tell_of_replicas_tells_the_rest_and_is_asked_once(
    plain: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activity, "REPLICAS", "SELECT 1 / 0 LIMIT :most")  # As for a function that it does not have.
    for _ in range(2):
        numbers = plain.metrics()
        assert (numbers["replicas"], numbers["oldest_snapshot_ms"] >= 0) == ([], True)
    assert [row["count"] for row in plain.metrics()["aborts"]] == [1]


def test_functions_per_commit_are_averaged(tmp_path: Path) -> None:
    with onefold.connect(tmp_path / "m.db") as db:
        in_one_batch(db, (None, put, "a"), (None, put, "b"), (None, put, "c"))
        numbers = db.metrics()
    assert numbers["commits"] == 4
    assert numbers["batch_size_mean"] in {2.0, 4.0}  # One that held the writer, then three; or three more with it.


def test_the_durations_of_a_moment_are_a_moment(real: Database) -> None:
    in_one_batch(real, (None, put, "a"), (None, put, "b"))
    numbers = real.metrics()
    for name in ("queue_age", "commit", "gate_wait", "transaction"):
        assert 0 <= numbers[name]["mean_ms"] < 60_000, name
    assert numbers["commit"]["count"] > 0


def test_the_numbers_of_a_closed_file_can_still_be_read(tmp_path: Path) -> None:
    with onefold.connect(tmp_path / "m.db") as db:
        db.run(put, "a")
    numbers = db.metrics()
    assert numbers["commits"] == 1
    assert numbers["queued"] == numbers["oldest_snapshot_ms"] == numbers["wal_bytes"] == 0.0
