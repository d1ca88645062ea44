"""Verdicts of the checkers that look at a history once: sessions, bank, sets, long forks."""

from __future__ import annotations

import pytest
from checker_histories import in_turn, single, together

from onefold.core.errors import Invalid
from onefold.testing import check_bank, check_long_fork, check_sessions, check_set_full


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
