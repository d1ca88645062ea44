"""Numbers as Prometheus reads them: text format 0.0.4, from `Database.metrics` and a census of the jobs.

What a process counts carries its `pid`: with several server processes each scrape meets one of them. What
the database holds (`onefold_jobs`) does not, and is the same whoever tells it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from onefold.engine.database import Database
from onefold.engine.tx import Tx
from onefold.messaging import jobs
from onefold.messaging.jobs import KindStats

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
KINDS_MAX = 500  # Kinds of jobs told one by one; later ones are told together as "other".
LABEL_LENGTH_MAX = 200
DEADLINE_MS = 2_000

_NAME = re.compile(r"[^a-zA-Z0-9_]")
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})

# Of `Database.metrics`: what is known by name, its type and its help. The rest are gauges.
_SUMMARIES = {
    "queue_age": "From the call to the begin of its transaction.",
    "commit": "The COMMIT itself.",
    "gate_wait": "Waiting for the gate between processes.",
    "transaction": "From BEGIN to the end of COMMIT.",
}
_COUNTED = {"aborts": "Calls that ended in an error.", "retries": "Attempts that were made again."}
_LOOP = re.compile(r"loop\.(.+)\.(steps|errors|lag_ms)")

Labels = Mapping[str, str]
Sample = tuple[Labels, float]


def page(db: Database, http: Mapping[int, int], in_flight: int, streams: int) -> bytes:
    """All families. Asks the database, so not on the event loop's thread.

    Args:
        db: whose numbers.
        http: answered requests by status.
        in_flight: requests that run now.
        streams: event streams that are open now.
    """
    now_ms, census = db.options(deadline_ms=DEADLINE_MS).reader().run(_census)
    lines = [
        *_of_engine(db.metrics()),
        *_family("onefold_http_requests_total", "counter", "Requests that were answered.", _by_status(http)),
        *_family("onefold_http_in_flight", "gauge", "Requests that run now.", [(_process(), in_flight)]),
        *_family("onefold_http_streams", "gauge", "Event streams that are open.", [(_process(), streams)]),
        *_of_jobs(_folded(census), now_ms),
    ]
    return ("\n".join(lines) + "\n").encode()


def _census(tx: Tx) -> tuple[int, list[KindStats]]:
    return tx.now_ms, jobs.census(tx)


def _of_jobs(census: list[KindStats], now_ms: int) -> Iterator[str]:
    yield from _family(
        "onefold_jobs", "gauge", "Jobs of a kind in a state, in all spaces; see onefold_jobs_capped.",
        [({"kind": found.kind, "state": found.state}, found.count) for found in census],
    )  # fmt: skip
    yield from _family(
        "onefold_jobs_oldest_seconds", "gauge", "How long the oldest of them is in it; of scheduled ones, overdue.",
        [
            ({"kind": found.kind, "state": found.state}, max(0, now_ms - found.oldest_ms) / 1_000)
            for found in census
        ],
    )  # fmt: skip
    capped = {found.state: found.at_least for found in census}
    yield from _family(
        "onefold_jobs_capped", "gauge", "1: the state holds more jobs than are counted, so counts are lower bounds.",
        [({"state": state}, float(capped.get(state, False))) for state in ("ready", "scheduled", "running", "dead")],
    )  # fmt: skip


def _folded(census: list[KindStats]) -> list[KindStats]:
    """A bounded number of series, however many kinds there are."""
    kinds = set(sorted({found.kind for found in census})[:KINDS_MAX])
    folded: dict[tuple[str, str], KindStats] = {}
    for found in census:
        kind = found.kind if found.kind in kinds else "other"
        had = folded.get((kind, found.state))
        folded[kind, found.state] = KindStats(
            kind, found.state, found.count + (had.count if had else 0),
            min(found.oldest_ms, had.oldest_ms) if had else found.oldest_ms, found.at_least,
        )  # fmt: skip
    return list(folded.values())


def _of_engine(numbers: dict[str, Any]) -> Iterator[str]:
    mine = _process()
    yield from _family("onefold_commits_total", "counter", "Transactions committed.", [(mine, numbers.pop("commits"))])
    for name, text in _SUMMARIES.items():
        yield from _summary(f"onefold_{name}_seconds", text, numbers.pop(name))
    for name, text in _COUNTED.items():
        samples = [
            ({**{key: str(value) for key, value in row.items() if key != "count"}, **mine}, row["count"])
            for row in numbers.pop(name)
        ]
        yield from _family(f"onefold_{name}_total", "counter", text, samples)
    yield from _of_loops(numbers)
    yield from _of_replicas(numbers.pop("replicas"))
    for name, value in sorted(numbers.items()):
        if isinstance(value, (int, float)):
            yield from _family(f"onefold_{_NAME.sub('_', name)}", "gauge", name, [(mine, value)])


def _of_replicas(replicas: list[dict[str, Any]]) -> Iterator[str]:
    """As the server tells them; of several under one name the last."""
    for name, key, per, text in (
        ("onefold_replica_behind_bytes", "behind_bytes", 1, "Bytes of WAL that a standby has not applied."),
        ("onefold_replica_lag_seconds", "lag_ms", 1_000, "How long a standby took to apply what it applied last."),
    ):
        told = {one["name"]: one[key] / per for one in replicas if one[key] is not None}
        yield from _family(name, "gauge", text, [({"replica": who}, value) for who, value in told.items()])


def _of_loops(numbers: dict[str, Any]) -> Iterator[str]:
    found: dict[str, list[Sample]] = {"steps": [], "errors": [], "lag_ms": []}
    for name in list(numbers):
        if match := _LOOP.fullmatch(name):
            found[match[2]].append(({"loop": match[1], **_process()}, numbers.pop(name)))
    yield from _family("onefold_loop_steps_total", "counter", "Steps of a background loop.", found["steps"])
    yield from _family("onefold_loop_errors_total", "counter", "Steps that failed.", found["errors"])
    lags = [(labels, ms / 1_000) for labels, ms in found["lag_ms"]]
    yield from _family("onefold_loop_lag_seconds", "gauge", "Since its last good step.", lags)


def _summary(name: str, text: str, numbers: Mapping[str, float]) -> Iterator[str]:
    mine = _process()
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} summary"
    for quantile, key in (("0.5", "p50_ms"), ("0.99", "p99_ms")):
        yield _line(name, {"quantile": quantile, **mine}, numbers[key] / 1_000)
    yield _line(f"{name}_sum", mine, numbers["mean_ms"] * numbers["count"] / 1_000)
    yield _line(f"{name}_count", mine, numbers["count"])


def _family(name: str, kind: str, text: str, samples: Iterable[Sample]) -> Iterator[str]:
    """Prometheus wants all samples of a name together, under one head."""
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"
    for labels, value in samples:
        yield _line(name, labels, value)


def _line(name: str, labels: Labels, value: float) -> str:
    inner = ",".join(f'{key}="{text[:LABEL_LENGTH_MAX].translate(_ESCAPES)}"' for key, text in labels.items())
    return f"{name}{{{inner}}} {float(value)!r}"


def _by_status(http: Mapping[int, int]) -> list[Sample]:
    return [({"status": str(status), **_process()}, count) for status, count in sorted(http.items())]


def _process() -> dict[str, str]:
    return {"pid": str(os.getpid())}
