"""What pages of a dashboard ask: counts, previews and groups, none of which reads beyond its bound. On both engines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from jobs_ground import Mail, Other

from onefold import Database, Invalid, Tx, jobs
from onefold.messaging.jobs import counts, survey
from onefold.messaging.jobs.moves import to_dead
from onefold.messaging.jobs.records import Body


def dead(tx: Tx, error: str | None, *, kind: str = "mail.send", count: int = 1) -> list[str]:
    ids = [tx.new_id("job") for _ in range(count)]
    for job_id in ids:
        to_dead(tx, Body(tx.space, tx.space_name, job_id, kind, "default", 0, "{}", 3, 3, 3, None, tx.now_ms, None, error))
    return ids


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Timeout after 30,000 ms at 10:44:51", "Timeout after 7 ms at 1:2"),
        ("No key 'ana' in \"users\"", "No key 'it is long' in \"orders\""),
        ("job_01a21c4831990042eefd841e885ef88b is gone", "job_01a21c483199004deadbeef1e885ef88 is gone"),
        ("boom\nline 1", "boom\nline 2"),
        ("x" * 999 + "a tail", "x" * 999 + "another tail"),
    ],
)
def test_errors_that_differ_in_details_are_one(one: str, other: str) -> None:
    assert jobs.fingerprint_of(one) == jobs.fingerprint_of(other)
    assert jobs.fingerprint_of(one) != jobs.fingerprint_of("Another altogether")


def test_dead_jobs_are_grouped_by_kind_and_error(db: Database) -> None:
    first = db.run(dead, "ConnectionError: mail 7 is away", count=3)
    last = db.run(dead, "ConnectionError: mail 12 is away")
    db.run(dead, None)
    db.run(dead, "ConnectionError: mail 7 is away", kind="other")
    groups = db.reader().run(jobs.failure_groups)
    assert [(g.kind, g.pattern, g.count) for g in groups] == [
        ("mail.send", "ConnectionError: mail 0 is away", 4), ("mail.send", "(no error was noted)", 1), ("other", "ConnectionError: mail 0 is away", 1),
    ]  # fmt: skip
    assert groups[0].example == max(first + last)
    assert groups[0].fingerprint == jobs.fingerprint_of("ConnectionError: mail 0 is away")
    assert [g.kind for g in db.reader().run(jobs.failure_groups, kind="other")] == ["other"]


def test_a_preview_counts_what_a_step_will_meet(db: Database) -> None:
    away = db.run(dead, "ConnectionError: mail 7 is away", count=4)
    full = db.run(dead, "DiskFull: no room", count=2)
    db.run(dead, "DiskFull: no room", kind="other")
    everything = db.reader().run(jobs.preview_dead, "mail.send", examples=3)
    assert (everything.count, everything.at_least, [one.id for one in everything.examples]) == (6, False, sorted(away + full)[:3])
    print_ = jobs.fingerprint_of("DiskFull: no room")
    some = db.reader().run(jobs.preview_dead, "mail.send", fingerprint=print_)
    assert (some.count, some.at_least, sorted(one.id for one in some.examples)) == (2, False, sorted(full))
    assert db.run(jobs.purge_dead, "mail.send", fingerprint=print_).done == some.count
    assert db.reader().run(jobs.preview_dead, "mail.send", fingerprint=print_).count == 0


def test_counts_end_at_their_bounds_and_say_so(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "COUNTED_MAX", 4)
    monkeypatch.setattr(survey, "FAILURES_LOOKED_MAX", 3)
    monkeypatch.setattr(counts, "LIVE_LOOKED_MAX", 4)
    db.run(dead, "boom", count=5)
    db.run(jobs.put_many, [Mail(), Mail(), Other(), Mail(), Mail()])
    print_ = jobs.fingerprint_of("boom")

    def asked(tx: Tx) -> list[tuple[int, bool]]:
        found = (
            jobs.preview_dead(tx, "mail.send"), jobs.preview_dead(tx, "mail.send", fingerprint=print_), jobs.count_live(tx, "ready", "mail.send"),
        )  # fmt: skip
        return [(one.count, one.at_least) for one in found]

    assert asked_of(db, asked) == [(4, True), (3, True), (4, True)]
    db.run(lambda tx: [jobs.cancel(tx, one.id) for one in jobs.glance(tx, "ready", limit=2).items])
    db.run(jobs.purge_dead, "mail.send", limit=3)
    assert asked_of(db, asked) == [(2, False), (2, False), (2, False)]
    assert db.reader().run(jobs.count_live, "scheduled", "mail.send") == jobs.Counted(0, at_least=False)


def asked_of(db: Database, ask: Callable[[Tx], Any]) -> Any:
    return db.reader().run(ask)


@pytest.mark.parametrize(
    "ask",
    [
        lambda tx: jobs.count_live(tx, "dead", "mail.send"),
        lambda tx: jobs.preview_dead(tx, "mail.send", examples=0),
        lambda tx: jobs.preview_dead(tx, "mail.send", examples=101),
        lambda tx: jobs.preview_dead(tx, "mail.send", fingerprint="nothing like it"),
        lambda tx: jobs.preview_dead(tx, ""),
    ],
    ids=["state", "too few", "too many", "fingerprint", "kind"],
)
def test_what_is_out_of_range_is_refused(db: Database, ask: Callable[[Tx], Any]) -> None:
    with pytest.raises(Invalid):
        db.reader().run(ask)
