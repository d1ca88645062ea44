"""Numbers about the engine itself, cheap enough to be always on."""

from __future__ import annotations

import threading
from collections import Counter
from itertools import accumulate
from typing import Any

_BUCKETS = 64  # Powers of two of nanoseconds.
FUNCTIONS_MAX = 1_000  # Names counted one by one; later ones are counted under "other".


class Histogram:
    """Durations in buckets of powers of two. Not locked: a lost count is no harm here."""

    __slots__ = ("counts", "sum_ns")

    def __init__(self) -> None:
        self.counts = [0] * _BUCKETS
        self.sum_ns = 0

    def record(self, ns: int) -> None:
        """Count one duration."""
        self.counts[ns.bit_length()] += 1
        self.sum_ns += ns

    def quantile_ms(self, q: float) -> float:
        """The upper edge of the bucket that holds the q-quantile; 0 when nothing was counted."""
        total = sum(self.counts)
        if not total:
            return 0.0
        bucket = next(bucket for bucket, seen in enumerate(accumulate(self.counts)) if seen >= q * total)
        return (1 << bucket) / 1e6

    def summary(self) -> dict[str, float]:
        """Count, mean, median and 99th percentile in ms."""
        total = sum(self.counts)
        return {
            "count": total,
            "mean_ms": round(self.sum_ns / total / 1e6, 4) if total else 0.0,
            "p50_ms": self.quantile_ms(0.5),
            "p99_ms": self.quantile_ms(0.99),
        }


class Metrics:
    """What pages and `/metrics` read: see `snapshot`."""

    def __init__(self) -> None:
        self.queue_age = Histogram()
        self.commit = Histogram()
        self.gate_wait = Histogram()
        self.transaction = Histogram()
        self.batch_sizes: Counter[int] = Counter()
        self.commits = 0
        self.aborts: Counter[tuple[str, str]] = Counter()
        self.retries: Counter[str] = Counter()
        self.gauges: dict[str, float] = {}
        self.open: dict[str, Any] | None = None
        self.replicas: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    def abort(self, function: str, code: str) -> None:
        """Count a call that ended in an error."""
        self._count(self.aborts, (function, code))

    def retry(self, function: str) -> None:
        """Count an attempt that was made again."""
        self._count(self.retries, function)

    def forked(self) -> None:
        """In a child process: whoever held the lock stayed behind."""
        self._lock = threading.Lock()

    def _count(self, counter: Counter[Any], key: Any) -> None:
        with self._lock:
            if key not in counter and len(counter) >= FUNCTIONS_MAX:
                key = ("other", "other") if isinstance(key, tuple) else "other"
            counter[key] += 1

    def snapshot(self) -> dict[str, Any]:
        """All numbers as plain data.

        "open" is the transaction that is open longest: `function` ("" when it is none of this process's), `ms`, and
        `where` it is; None when there is none. "replicas" are PostgreSQL's standbys that stream now: `name`, `state`,
        `sync`, and how far behind they are, in `behind_bytes` and `lag_ms`, None where the server does not tell.
        """
        sizes = tuple(self.batch_sizes.items())  # At once: the writer may add one meanwhile.
        batches = sum(count for _, count in sizes)
        return {
            "commits": self.commits,
            "queue_age": self.queue_age.summary(),
            "commit": self.commit.summary(),
            "gate_wait": self.gate_wait.summary(),
            "transaction": self.transaction.summary(),
            "batch_size_mean": round(sum(size * count for size, count in sizes) / batches, 2) if batches else 0.0,
            "aborts": [
                {"function": f, "code": c, "count": n} for (f, c), n in sorted(self.aborts.items())
            ],
            "retries": [{"function": f, "count": n} for f, n in sorted(self.retries.items())],
            "open": self.open,
            "replicas": self.replicas,
            **self.gauges,
        }
