"""The audit trail: with the action or not at all, never changed, swept in the end."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, rule

import onefold
from onefold import Database, Invalid, NotFound, Tx, audit
from onefold.core.clock import FakeClock
from onefold.identity.audit.ops import FACTS_LENGTH_MAX, KEPT_MS, SWEEP_MAX, sweep


def act(tx: Tx, key: str = "shop", **changes: Any) -> audit.Record:
    """Something that is done, and its entry."""
    tx.add(key, 1)
    return audit.record(tx, **{"action": "jobs.retry", "subject": "job_1", "actor": "token_1", "reason": "It is back.", **changes})


def test_an_entry_is_found_as_it_was_written(db: Database) -> None:
    entry = db.run(act, facts={"count": 3}, reason="  The mail server is back.  ")
    assert entry.reason == "The mail server is back."
    assert db.reader().run(audit.get, entry.id) == entry
    assert db.reader().run(audit.list_entries).items == [entry]
    with pytest.raises(NotFound):
        db.at("tenant/7").reader().run(audit.get, entry.id)
    assert db.at("tenant/7").reader().run(audit.list_entries).items == []


def test_an_entry_and_its_action_are_one(db: Database) -> None:
    def fails(tx: Tx) -> None:
        act(tx)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        db.run(fails)
    with pytest.raises(Invalid):
        db.run(act, reason="")
    assert db.run(lambda tx: tx.total("shop")) == 0
    assert db.reader().run(audit.list_entries).items == []


def test_facts_are_answered_as_they_are_read_again(db: Database) -> None:
    entry = db.run(act, facts={1: b"two"})
    assert entry.facts == {"1": "dHdv"}
    assert db.reader().run(audit.get, entry.id) == entry


@pytest.mark.parametrize("change", [
    {"reason": ""}, {"reason": " \t "}, {"reason": "x" * 501}, {"reason": "two\nlines"}, {"actor": ""}, {"actor": "a\0b"},
    {"actor": "x" * 201}, {"action": "retry"}, {"action": "Jobs.retry"}, {"action": "jobs." + "x" * 100}, {"subject": "x" * 401},
    {"subject": "\u2028"}, {"facts": {"x": "y" * FACTS_LENGTH_MAX}}, {"facts": {"x": object()}},
    {"facts": ["no object"]},
], ids=lambda given: str(given)[:40].partition(" at 0x")[0])  # fmt: skip
def test_a_bad_entry_is_refused(db: Database, change: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        db.run(act, **change)
    assert db.reader().run(audit.list_entries).items == []


def test_the_newest_come_first_page_by_page(db: Database) -> None:
    written = [db.run(act, subject=f"job_{number}") for number in range(7)]
    newest_first = sorted(written, key=lambda entry: entry.id, reverse=True)
    seen: list[audit.Record] = []
    after: str | None = None
    while True:
        page = db.reader().run(audit.list_entries, after=after, limit=3)
        seen += page.items
        if page.after is None:
            break
        after = page.after
    assert seen == newest_first


def test_old_entries_are_swept_in_bounded_steps(db: Database) -> None:
    def write(tx: Tx) -> None:
        for _ in range(SWEEP_MAX + 1):
            act(tx)
        tx.run("UPDATE onefold.audit SET at_ms = :at_ms WHERE space = :space", at_ms=tx.now_ms - KEPT_MS - 1)

    db.run(write)
    young = db.run(act)
    assert db.run(sweep) is True
    assert db.run(sweep) is False
    assert db.reader().run(audit.list_entries).items == [young]


class Trail(RuleBasedStateMachine):
    """Entries of two spaces, some undone, against a list."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.db = onefold.connect(self.url, clock=FakeClock())
        self.model: dict[str, list[audit.Record]] = {}
        for space in ("a", "b"):
            self.model[space] = self.db.at(space).reader().run(audit.list_entries, limit=1_000).items[::-1]

    @rule(space=st.sampled_from("ab"), subject=st.text(st.characters(codec="ascii", categories=["L", "N"]), max_size=9))
    def records(self, space: str, subject: str) -> None:
        self.model[space].append(self.db.at(space).run(act, subject=subject))

    @rule(space=st.sampled_from("ab"))
    def undone(self, space: str) -> None:
        with pytest.raises(Invalid):
            self.db.at(space).run(lambda tx: (act(tx), act(tx, reason="")))

    @rule()
    def swept(self) -> None:
        assert self.db.run(sweep) is False

    @rule(space=st.sampled_from("ab"))
    def listed(self, space: str) -> None:
        page = self.db.at(space).reader().run(audit.list_entries, limit=1_000)
        assert page.items == sorted(self.model[space], key=lambda entry: entry.id, reverse=True)

    def teardown(self) -> None:
        self.db.close()


@pytest.mark.usefixtures("again")
def test_histories_agree_with_the_model(db_url: str) -> None:
    class OfThisEngine(Trail):
        url = db_url

    OfThisEngine.TestCase.settings = settings(max_examples=15, stateful_step_count=15, deadline=None)
    OfThisEngine.TestCase("runTest").runTest()
