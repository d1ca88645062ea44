"""Verdicts of the checkers that look at a history once: sessions, bank, sets, long forks."""

from __future__ import annotations

import pytest
from checker_histories import in_turn, single, together

from onefold.core.errors import Invalid
from onefold.testing import (
    check,
    check_bank,
    check_comments,
    check_long_fork,
    check_sequential,
    check_sessions,
    check_set_full,
    check_total_queue,
    check_unique_ids,
)


@pytest.mark.parametrize(("second", "broken"), [
    (["0 invoke read", "0 ok read 4"], "read-your-writes"),
    (["0 invoke read", "0 ok read 6", "0 invoke read", "0 ok read 5"], "monotonic-reads"),
    (["0 invoke write", "0 ok write 4"], "monotonic-writes"),
    (["0 invoke read", "0 ok read 7", "0 invoke write", "0 ok write 6"], "writes-follow-reads"),
])  # fmt: skip
def test_a_session_that_goes_backwards(second: list[str], broken: str) -> None:
    verdict = check_sessions(single("0 invoke write", "0 ok write 5", *second))
    assert verdict.valid is False
    assert set(verdict.counts) == {broken}
    assert verdict.not_models == [broken]
    assert "causal" in verdict.also_not


def test_sessions_see_each_their_own_order() -> None:
    events = ["0 invoke write", "0 ok write 5", "1 invoke read", "1 ok read 2", "0 invoke read", "0 ok read 5"]
    assert check_sessions(single(*events, "0 invoke write", "0 ok write 6", "1 invoke read", "1 ok read None")).valid is False
    assert check_sessions(single(*events, "0 invoke write", "0 info write 3", "1 invoke read", "1 ok read 2")).valid
    keyed = ["0 invoke write ['x']", "0 ok write ['x', 5]", "0 invoke read ['y']", "0 ok read ['y', None]"]
    assert check_sessions(single(*keyed)).valid
    with pytest.raises(Invalid, match="no version"):
        check_sessions(single("0 invoke read", "0 ok read 'seven'"))


def bank(*balances: str):
    return single(*(f"0 {kind} read {one}" for one in balances for kind in ("invoke", "ok")))


def test_a_bank_keeps_its_total() -> None:
    assert check_bank(bank("{1: 60, 2: 40}", "{1: 30, 2: 70}")).valid
    assert set(check_bank(bank("{1: 60, 2: 40}", "{1: 30, 2: 60}")).counts) == {"wrong-total"}
    assert set(check_bank(bank("{1: 60, 2: 40}"), total=99).counts) == {"wrong-total"}
    assert set(check_bank(bank("{1: 60, 2: 40}", "{1: 100}")).counts) == {"unexpected-key"}
    assert set(check_bank(bank("{1: 60, 2: 40}", "{1: 100, 2: None}")).counts) == {"nil-balance"}
    assert set(check_bank(bank("{1: -1, 2: 101}")).counts) == {"negative-value"}
    assert check_bank(bank("{1: -1, 2: 101}"), allow_negative=True).valid
    assert check_bank(single("0 invoke transfer", "0 ok transfer")).valid is None
    with pytest.raises(Invalid, match="no map"):
        check_bank(bank("[1, 2]"))


ADDED = ["0 invoke add 1", "0 ok add 1", "0 invoke add 2", "0 ok add 2"]


@pytest.mark.parametrize(("reads", "found"), [
    (["[1, 2]"], set()),
    (["[1]"], {"lost"}),
    (["[1, 2]", "[2]"], {"lost"}),
    (["[2]", "[1, 2]"], set()),
    (["[1, 2, 1]"], {"duplicated"}),
    (["[1, 2, 3]"], {"unexpected"}),
])  # fmt: skip
def test_elements_of_a_set(reads: list[str], found: set[str]) -> None:
    verdict = check_set_full(single(*ADDED, *(f"1 {kind} read {one}" for one in reads for kind in ("invoke", "ok"))))
    assert set(verdict.counts) == found
    assert verdict.valid is not bool(found)


def test_a_stale_element_is_a_fault_only_of_a_linearizable_set() -> None:
    history = single(*ADDED, "1 invoke read", "1 ok read [2]", "1 invoke read", "1 ok read [1, 2]")
    assert "1 elements were stale" in check_set_full(history).notes[0]
    assert set(check_set_full(history, linearizable=True).counts) == {"stale"}


def test_an_element_of_unknown_fate_may_be_missing_until_it_was_seen() -> None:
    unknown = ["0 invoke add 1", "0 info add 1"]
    read = ["1 invoke read", "1 ok read {}", "1 invoke read", "1 ok read {}"]
    assert check_set_full(single(*unknown, *(one.format("[]") for one in read))).valid is None
    seen = [read[0], read[1].format("[1]"), read[2], read[3].format("[]")]
    assert set(check_set_full(single(*unknown, *seen)).counts) == {"lost"}


def test_a_long_fork() -> None:
    writes = ["wx1", "wy1"]
    assert set(check_long_fork(together(*writes, "rx1ry", "rxry1", lists=False)).counts) == {"long-fork"}
    assert check_long_fork(in_turn("0:wx1", "1:rx1ry", "0:wy1", "1:rx1ry1", lists=False)).valid
    assert check_long_fork(together(*writes, lists=False)).valid is None
    with pytest.raises(Invalid, match="written twice"):
        check_long_fork(together("wx1", "wx2", lists=False))


PUT = ["0 invoke enqueue 1", "0 ok enqueue 1", "0 invoke enqueue 2", "0 info enqueue 2"]


@pytest.mark.parametrize(("answers", "found", "notes"), [
    (["dequeue 1"], set(), []),
    (["dequeue 1", "dequeue 2"], set(), ["1 came out whose enqueue was not acknowledged."]),
    (["dequeue 1", "dequeue 1", "dequeue"], set(), ["1 came out more often than they were put in."]),
    (["drain [2, 1]"], set(), ["1 came out whose enqueue was not acknowledged."]),
    (["drain [2]"], {"lost"}, ["1 came out whose enqueue was not acknowledged."]),
    (["dequeue 7"], {"lost", "unexpected"}, ["Nothing drained the queue: what is lost may be in it still."]),
    (["dequeue 1", "dequeue 7", "dequeue 7"], {"unexpected"}, []),
])  # fmt: skip
def test_what_goes_into_a_queue_comes_out(answers: list[str], found: set[str], notes: list[str]) -> None:
    events = [f"1 {kind} {one if kind == 'ok' else one.split()[0]}" for one in answers for kind in ("invoke", "ok")]
    verdict = check_total_queue(single(*PUT, *events))
    assert set(verdict.counts) == found
    assert verdict.valid is not bool(found)
    assert verdict.notes == notes


def test_what_a_queue_lost_can_be_with_whom_nothing_answered() -> None:
    events = ["1 invoke dequeue", "1 info dequeue", "2 invoke enqueue 3", "2 ok enqueue 3", "3 invoke dequeue", "3 ok dequeue 3"]
    verdict = check_total_queue(single(*PUT, *events))
    assert verdict.counts == {"lost": 1}
    assert "1 of unknown outcome" in verdict.notes[0]
    assert check_total_queue(single(*PUT)).valid is None
    with pytest.raises(Invalid, match="does not know"):
        check_total_queue(single("0 invoke push 1", "0 ok push 1"))


def test_an_id_is_given_once() -> None:
    ids = ["0 invoke generate", "0 ok generate 1", "1 invoke generate", "1 ok generate 2", "2 invoke generate", "2 info generate"]
    assert check_unique_ids(single(*ids)).valid
    assert check_unique_ids(single(*ids, "3 invoke generate", "3 ok generate 2")).counts == {"duplicated": 1}
    assert check_unique_ids(single(*ids[4:])).valid is None
    with pytest.raises(Invalid, match="does not know"):
        check_unique_ids(single("0 invoke read", "0 ok read 1"))


@pytest.mark.parametrize(("answer", "valid"), [
    ("['c', 'b', 'a']", True), ("[None, 'b', 'a']", True), ("[None, None, None]", True), ("[7, [None, 'b', 'a']]", True),
    ("['c', 'b', None]", False), ("[7, ['c', None, 'a']]", False),
])  # fmt: skip
def test_what_a_client_inserted_is_seen_in_its_order(answer: str, valid: bool) -> None:
    events = [f"0 {kind} add '{one}'" for one in "abc" for kind in ("invoke", "ok")]
    verdict = check_sequential(single(*events, "1 invoke read", f"1 ok read {answer}"))
    assert verdict.valid is valid
    assert set(verdict.counts) == (set() if valid else {"inversion"})


@pytest.mark.parametrize(("seen", "valid"), [("[]", True), ("[1]", True), ("{1, 2}", True), ("[3, 1]", True), ("[2]", False), ("[3]", False)])
def test_what_was_written_before_is_seen_with_what_came_after(seen: str, valid: bool) -> None:
    events = ["0 invoke write 1", "0 ok write 1", "0 invoke write 2", "1 invoke write 3", "1 info write 3", "0 ok write 2"]
    verdict = check_comments(single(*events, "2 invoke read", f"2 ok read {seen}"))
    assert verdict.valid is valid
    assert set(verdict.counts) == (set() if valid else {"causal-reverse"})


def test_insertions_need_reads_of_all() -> None:
    assert check_sequential(single("0 invoke add 1", "0 ok add 1")).valid is None
    assert check_comments(single("0 invoke write 1", "0 ok write 1")).valid is None
    for one in (check_sequential, check_comments):
        with pytest.raises(Invalid, match="does not know"):
            one(single("0 invoke read", "0 ok read 1"))


@pytest.mark.parametrize(("model", "events"), [
    ("total-queue", ["0 invoke drain", "0 ok drain [1]"]), ("unique-ids", ["0 invoke generate", "0 ok generate 1"]),
    ("comments", ["0 invoke write 1", "0 ok write 1", "0 invoke read", "0 ok read [1]"]),
    ("long-fork", ["0 invoke read [['r', 1, None], ['r', 2, None]]", "0 ok read [['r', 1, 1], ['r', 2, None]]"]),
    ("register", ["0 invoke write [1, 2]", "0 ok write [1, 2]", "0 invoke read", "0 ok read [1, 2]"]),
])  # fmt: skip
def test_a_scan_is_seen_from_the_operations(model: str, events: list[str]) -> None:
    assert f"Judged as {model}" in check(single(*events)).notes[0]


def test_a_set_of_pairs_is_not_guessed() -> None:
    with pytest.raises(Invalid, match="name it"):
        check(single("0 invoke add ['k', 1]", "0 ok add ['k', 1]", "1 invoke read ['k', None]", "1 ok read ['k', [1]]"))
