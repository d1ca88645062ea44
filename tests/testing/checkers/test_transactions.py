"""Verdicts on transactions: each anomaly by a smallest history, and small ones against trying every order."""

from __future__ import annotations

import pytest
from checker_histories import in_turn, is_serializable, together, transactional
from hypothesis import given, settings
from hypothesis import strategies as st

from onefold.core.errors import Invalid
from onefold.testing import History, check_list_append, check_rw_register
from onefold.testing.checkers import consistency, svg

LISTS = {
    "G0": (["ax1ay1", "ax2ay2", "rx12ry21"], {"G0"}, ["read-uncommitted"]),
    "G1a": (["fail:ax1", "rx1"], {"G1a"}, ["read-committed"]),
    "G1b": (["ax1ax2", "rx1"], {"G1b", "G-single-item"}, ["read-committed"]),
    "G1c": (["ax1ry1", "ax2ay1", "rx12ry1"], {"G1c"}, ["read-committed"]),
    "G-single": (["ax1ay1", "ax2ry", "rx12"], {"G-single-item"}, ["repeatable-read", "consistent-view"]),
    "G-nonadjacent": (
        ["ax1", "rx1ry", "ay1", "ry1rx"], {"G-nonadjacent-item"}, ["snapshot-isolation", "repeatable-read"],
    ),
    "G2": (["ax1ry", "ay1rx"], {"G2-item"}, ["repeatable-read"]),
    "two rw side by side": (["rx5ry", "ay1rz", "az2at3", "rt3ru", "au4ax5"], {"G2-item"}, ["repeatable-read"]),
    "lost update": (["ax0", "rx0ax1", "rx0ax2"], {"lost-update", "G2-item"}, ["update-atomic", "cursor-stability"]),
    "internal": (["ax1", "rx1ax2rx1", "rx12"], {"internal"}, ["read-atomic"]),
    "internal, from an unknown list": (["ax1ax3rx2"], {"internal"}, ["read-atomic"]),
    "fuzzy read": (
        ["ax1", "ax2", "rx1rx12"], {"internal", "G-single-item"}, ["repeatable-read", "consistent-view", "read-atomic"],
    ),
    "G1b by a second read": (["ax1", "ax2ax3", "rx1rx12"], {"internal", "G1b", "G-single-item"}, ["read-committed"]),
    "G1c by a second read": (["rxrx1ay5", "ax1ry5"], {"internal", "G1c", "G-single-item"}, ["read-committed"]),
    "its own append unseen": (["ax1ax3", "ax2rx1"], {"internal", "G1b", "G-single-item"}, ["read-committed"]),
    "a second read before the update": (
        ["ax0", "rxrx0ax1", "rxax2"], {"internal", "G-single-item"},
        ["repeatable-read", "consistent-view", "read-atomic"],
    ),
    "future read": (["rx1ax1"], {"future-read"}, ["read-committed"]),
    "duplicates": (["ax1", "rx11"], {"duplicate-elements"}, ["read-uncommitted"]),
    "incompatible orders": (["ax1", "ax2", "rx12", "rx2"], {"incompatible-order"}, ["read-committed"]),
    "contradictory orders": (
        ["ax1ry1", "ax2", "ax3ay1", "rx13", "rx123"], {"G1c", "incompatible-order"}, ["read-committed"],
    ),
    "a cycle beside an append that was overlooked": (
        ["ax1ay1", "ax2ay2", "ax3ay3", "rx12", "ry2"], {"G0", "G-single-item"}, ["read-uncommitted"],
    ),
    "dirty update": (["fail:ax1", "ax2", "rx12"], {"dirty-update", "G1a"}, ["read-committed"]),
    "dirty update through an unknown": (
        ["fail:ax1", "info:ax2", "ax3", "rx123"], {"dirty-update", "G1a"}, ["read-committed"],
    ),
}  # fmt: skip
ORDERS = {
    "G-single in real time": (["0:ax1", "1:ax2", "2:rx1", "3:rx12"], "G-single-item-realtime"),
    "G-single in a process": (["0:ax1", "1:ax2", "1:rx1", "3:rx12"], "G-single-item-process"),
    "G-nonadjacent in a process": (["0:rxrz1", "1:ax1", "1:rz", "2:az1"], "G-nonadjacent-item-process"),
    "G1c in a process": (["1:rx1ay1", "2:ry1", "2:ax1"], "G1c-process"),
    "G1c in real time": (["1:rx1", "2:ax1"], "G1c-realtime"),
    "G0 in real time": (["1:ax1", "2:ax2", "3:rx21"], "G0-realtime"),
}
REGISTERS = {
    "G1a": (["fail:wx1", "rx1"], {"G1a"}, ["read-committed"]),
    "G1b": (["wx1wx2", "rx1"], {"G1b"}, ["read-committed"]),
    "G1c": (["wx1ry1", "wy1rx1"], {"G1c"}, ["read-committed"]),
    "G-single": (["wx1wy1", "rx1ry"], {"G-single-item"}, ["repeatable-read", "consistent-view"]),
    "G-nonadjacent": (
        ["wx1", "rx1ry", "wy1", "ry1rx"], {"G-nonadjacent-item"}, ["snapshot-isolation", "repeatable-read"],
    ),
    "G2": (["rxwy1", "rywx1"], {"G2-item"}, ["repeatable-read"]),
    "lost update": (["wx1", "rx1wx2", "rx1wx3"], {"lost-update"}, ["update-atomic", "cursor-stability"]),
    "internal": (["wx1rx2"], {"internal"}, ["read-atomic"]),
    "fuzzy read": (
        ["wx1", "rx1wx2", "rx1rx2"], {"internal", "G-single-item"}, ["repeatable-read", "consistent-view", "read-atomic"],
    ),
    "G1a by a second read": (["wx1", "fail:wx2", "rx1rx2"], {"internal", "G1a"}, ["read-committed"]),
    "G1b by a second read": (["wx1", "wx2wx3", "rx1rx2"], {"internal", "G1b"}, ["read-committed"]),
    "G1c by a second read": (["rxrx1wy5", "wx1ry5"], {"internal", "G1c", "G-single-item"}, ["read-committed"]),
    "its own write unseen": (["fail:wx2", "wx1rx2"], {"internal", "G1a"}, ["read-committed"]),
}  # fmt: skip


@pytest.mark.parametrize("name", LISTS)
def test_an_anomaly_of_lists(name: str) -> None:
    texts, anomalies, ruled_out = LISTS[name]
    verdict = check_list_append(together(*texts))
    assert verdict.valid is False
    assert set(verdict.counts) == anomalies
    assert verdict.not_models == ruled_out


@pytest.mark.parametrize("name", ORDERS)
def test_an_anomaly_of_order(name: str) -> None:
    texts, anomaly = ORDERS[name]
    verdict = check_list_append(in_turn(*texts))
    assert anomaly in verdict.counts
    assert verdict.valid is False
    assert check_list_append(in_turn(*texts), model="serializable").valid


@pytest.mark.parametrize("name", REGISTERS)
def test_an_anomaly_of_registers(name: str) -> None:
    texts, anomalies, ruled_out = REGISTERS[name]
    verdict = check_rw_register(together(*texts, lists=False))
    assert verdict.valid is False
    assert set(verdict.counts) == anomalies
    assert verdict.not_models == ruled_out


@pytest.mark.parametrize("texts", [
    ["az1ax1ay1", "rx1ay2", "ry12az3", "rz13"],  # Adya, figure 3.
    ["info:ax2ry", "ax1ay1", "rx12ry1"], ["rxax1ax2", "rx12"], ["rx", "ax1", "ax2"], ["fail:ax1", "ax2", "rx2"],
    ["rx5ay1", "ryaz2", "rzat3", "rt3au4", "ruax5"], ["ax1ax2", "ax3", "rx12"], ["info:ax1", "rx1", "rx"],
])  # fmt: skip
def test_a_right_history_of_lists(texts: list[str]) -> None:
    assert check_list_append(together(*texts)).valid


def test_an_anomaly_that_the_model_allows_is_told_and_no_fault() -> None:
    skew = together("ax1ry", "ay1rx")
    verdict = check_list_append(skew, model="snapshot-isolation")
    assert verdict.valid
    assert verdict.counts == {"G2-item": 1}
    assert "serializable" in verdict.also_not
    assert "snapshot-isolation" in " ".join(verdict.strongest_models)


def test_a_cycle_is_explained_and_drawn() -> None:
    verdict = check_list_append(together("ax1ry", "ay1rx"))
    [anomaly] = verdict.anomalies
    assert anomaly.steps == ["rw", "rw"]
    assert "it read y = [], without 1 of #3" in anomaly.text
    assert svg(verdict).count('class="a"') == 2


def test_what_nobody_wrote_is_a_note_or_with_a_whole_history_an_anomaly() -> None:
    assert "1 elements" in check_list_append(together("ax1", "rx12")).notes[0]
    assert "garbage-read" in check_list_append(together("ax1", "rx12"), whole=True).counts
    assert check_rw_register(together("wx1", "rx2", lists=False)).valid is None
    assert "garbage-read" in check_rw_register(together("wx1", "rx2", lists=False), whole=True).counts


def test_versions_of_registers_are_ordered_by_what_is_assumed() -> None:
    stale = in_turn("0:wx1", "1:wx2", "2:rx1", lists=False)
    assert check_rw_register(stale).valid
    assert "cyclic-versions" in check_rw_register(stale, assume=["linearizable-keys"]).counts
    twice = in_turn("0:wx1", "1:wx2", "0:wx1", "2:rx1", lists=False)
    assert check_rw_register(twice, assume=["linearizable-keys"]).valid
    crossed = in_turn("0:wx1wy2", "1:wx2wy1", "0:rx2", "1:ry2", lists=False)
    assert check_rw_register(crossed, model="serializable").valid
    assert "G0" in check_rw_register(crossed, assume=["sequential-keys"]).counts
    back = in_turn("0:wx1", "0:wx2", "0:rx1", lists=False)
    assert "cyclic-versions" in check_rw_register(back, assume=["sequential-keys"]).counts
    chain = together("rxwx1wy1", "rx1wx2", "rx2ry", lists=False)
    assert "G-single-item" in check_rw_register(chain).counts
    follows = together("wx1", "rx1wx2wy1", "rx1ry1", lists=False)
    assert check_rw_register(follows).valid
    assert "G-single-item" in check_rw_register(follows, assume=["wfr-keys"]).counts


@pytest.mark.parametrize(("texts", "model", "assumption"), [
    (["0:wx1", "1:wx2", "2:rx1"], "strict-serializable", "linearizable-keys"),
    (["0:wx1", "0:wx2", "0:rx1"], "strong-session-serializable", "sequential-keys"),
    (["0:wx1", "0:wx2", "0:wy1", "1:rx1ry1"], "strong-session-serializable", "sequential-keys"),
])  # fmt: skip
def test_a_note_says_what_a_strict_model_promises_and_was_not_assumed(
    texts: list[str], model: str, assumption: str
) -> None:
    history = in_turn(*texts, lists=False)
    verdict = check_rw_register(history, model=model)
    assert verdict.valid
    assert verdict.notes == [f"It is invalid with --assume {assumption}, which {model} promises and no read shows."]
    assert check_rw_register(history, model=model, assume=[assumption]).valid is False
    assert check_rw_register(history, model="serializable").notes == []


def test_no_note_where_the_promise_is_kept() -> None:
    kept = in_turn("0:wx1", "1:rx1wx2", "2:rx2", "0:rx2", lists=False)
    assert check_rw_register(kept).notes == []
    late = in_turn("0:wx1", "1:wx2", "1:rx2", "0:rx1", lists=False)  # Each process by itself saw no way back.
    assert check_rw_register(late, model="strong-session-serializable").notes == []


@pytest.mark.parametrize("name", consistency.ALIASES)
def test_a_model_has_the_names_that_others_gave_it(name: str) -> None:
    verdict = check_list_append(together("ax1ry", "ay1rx"), model=f":{name}")
    assert verdict.checker == f"list-append {consistency.ALIASES[name]}"


def test_nothing_to_judge_is_unknown() -> None:
    assert check_list_append(History([])).valid is None
    assert check_list_append(together("rx")).valid is None


def test_what_is_no_history_of_transactions_is_refused() -> None:
    with pytest.raises(Invalid, match="appended twice"):
        check_list_append(together("ax1", "ax1"))
    with pytest.raises(Invalid, match="micro-operation"):
        check_list_append(together("wx1", lists=False))
    with pytest.raises(Invalid, match="no such consistency model"):
        check_list_append(together("ax1"), model="acid")
    with pytest.raises(Invalid, match="no such assumption"):
        check_rw_register(together("wx1", lists=False), assume=["luck"])


@pytest.mark.usefixtures("again")
def test_lists_are_judged_as_by_trying_every_order() -> None:
    @settings(max_examples=40, deadline=None)
    @given(transactional(lists=True), st.booleans())
    def agrees(history: History, real_time: bool) -> None:
        model = "strict-serializable" if real_time else "serializable"
        verdict = check_list_append(history, model=model, whole=True)
        assert (verdict.valid is not False) is is_serializable(history, real_time=real_time)

    agrees()


@pytest.mark.usefixtures("again")
def test_no_right_history_of_registers_is_called_wrong() -> None:
    @settings(max_examples=40, deadline=None)
    @given(transactional(lists=False), st.booleans(), st.sampled_from([(), ("wfr-keys",)]))
    def sound(history: History, real_time: bool, assume: tuple[str, ...]) -> None:
        model = "strict-serializable" if real_time else "serializable"
        if check_rw_register(history, model=model, assume=assume, whole=True).valid is False:
            assert not is_serializable(history, real_time=real_time)

    sound()


def test_thousands_of_transactions_make_a_graph_that_grows_with_them() -> None:
    events = []
    store: dict[int, list[int]] = {}
    for n in range(2_000):
        key, process = n // 50, n % 8
        store.setdefault(key, []).append(n)
        for kind in ("invoke", "ok"):
            seen = list(store[key]) if kind == "ok" else None
            events.append({"process": process, "type": kind, "f": "txn", "value": [["append", key, n], ["r", key, seen]]})
    verdict = check_list_append(History.of(events))
    assert verdict.valid
    assert verdict.stats["dependencies"] < 3 * 2_000
    events[-1]["value"][1][2].pop(0)
    assert check_list_append(History.of(events)).valid is False


@pytest.mark.parametrize("model", consistency.IMPLIES)
def test_a_model_forbids_what_weaker_ones_forbid(model: str) -> None:
    for weaker in consistency.implied(model):
        for anomaly in consistency.FORBIDS.get(weaker, ()):
            assert model in consistency.ruled_out([anomaly])
