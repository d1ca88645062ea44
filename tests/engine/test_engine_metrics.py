"""The numbers about the engine: what they say of known durations, batches and failures."""

from __future__ import annotations

from pathlib import Path

import pytest
from engine_words import in_one_batch, put

import onefold
from onefold import Database
from onefold.engine import metrics
from onefold.engine.metrics import Histogram, Metrics


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


def test_a_database_that_nobody_used_yet_waits_for_nothing(db: Database) -> None:
    numbers = db.metrics()
    assert numbers["queued"] == numbers["oldest_snapshot_ms"] == numbers["batch_size_mean"] == 0.0


def test_functions_per_commit_are_averaged(tmp_path: Path) -> None:
    with onefold.connect(tmp_path / "m.db") as db:
        in_one_batch(db, (None, put, "a"), (None, put, "b"), (None, put, "c"))
        numbers = db.metrics()
    assert (numbers["commits"], numbers["batch_size_mean"]) == (4, 2.0)  # One that held the writer, then three.


def test_the_numbers_of_a_closed_file_can_still_be_read(tmp_path: Path) -> None:
    with onefold.connect(tmp_path / "m.db") as db:
        db.run(put, "a")
    numbers = db.metrics()
    assert numbers["commits"] == 1
    assert numbers["queued"] == numbers["oldest_snapshot_ms"] == numbers["wal_bytes"] == 0.0
