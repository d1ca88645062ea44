"""Numbers in payloads: what has no JSON form is refused, all else is read back equal."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import msgspec
import pytest
from jobs_ground import claim, hire, rows

from onefold import Database, Invalid, events, idempotency, jobs
from onefold.core.codec import fingerprint


@jobs.kind("numbers.job")
class Job(msgspec.Struct, frozen=True):
    number: float
    deep: Any = None


@events.kind("numbers.event")
class Happened(msgspec.Struct, frozen=True):
    number: float
    deep: Any = None


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("deep", [False, True])
def test_numbers_that_are_none_are_refused(db: Database, number: float, deep: bool) -> None:
    fields = {"number": 1.0, "deep": {"list": [None, {"x": number}]}} if deep else {"number": number}
    with pytest.raises(Invalid, match="no JSON form"):
        db.run(jobs.put, Job(**fields))
    with pytest.raises(Invalid, match="no JSON form"):
        db.run(events.append, "numbers/1", Happened(**fields))
    for ask in (idempotency.begin, lambda tx, *key, **request: idempotency.once(tx, *key, dict, **request)):
        with pytest.raises(Invalid, match="no JSON form"):
            db.run(ask, "k1", scope="s", request=fields)
    assert rows(db, "jobs_ready") == rows(db, "events") == rows(db, "idempotency_keys") == 0


@pytest.mark.parametrize("request_", [None, [None, 1.5], {"x": "null"}, {"null": None}])
def test_null_is_no_number_and_has_a_fingerprint(db: Database, request_: object) -> None:
    assert fingerprint(request_) == hashlib.sha256(msgspec.json.encode(request_)).hexdigest()[:32]
    db.run(idempotency.begin, "k1", scope="s", request=request_)
    with pytest.raises(Invalid) as refused:
        db.run(idempotency.begin, "k1", scope="s", request=[request_])
    assert refused.value.code == "idempotency_mismatch"


@pytest.mark.parametrize("number", [0.1, -0.0, 5e-324, 1.7976931348623157e308, 2.0**53 + 2])
def test_numbers_are_read_back_equal(db: Database, number: float) -> None:
    db.run(jobs.put, Job(number, deep=[None, number]))
    db.run(events.append, "numbers/1", Happened(number, deep=[None, number]))
    hire(db, "w1")
    (attempt,) = claim(db, kinds=("numbers.job",))
    (event,) = db.run(events.read_stream, "numbers/1").items
    for read in (msgspec.json.decode(attempt.args, type=Job), event.open(Happened)):
        assert (read.number, read.deep) == (number, [None, number])
        assert math.copysign(1, read.number) == math.copysign(1, number)
