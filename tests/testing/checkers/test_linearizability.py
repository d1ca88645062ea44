"""Verdicts on linearizability: known histories, and small ones against trying every order."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from checker_histories import crowd, has_order, histories, is_linearizable, said, single
from hypothesis import given, settings
from hypothesis import strategies as st

from onefold.core.errors import Invalid
from onefold.testing import check_linearizable
from onefold.testing.checkers import History, Operation, svg
from onefold.testing.checkers.models import ILLEGAL, MODELS, cas_register, register, semaphore
from onefold.testing.checkers.reads_from import contradiction, linearizable
from onefold.testing.checkers.wgl import search

V = st.integers(0, 2)
PAIR = st.tuples(V, V).map(list)


def call(f, asked=st.none(), answered=None):
    """A call that answers what it was asked with, or something of its own."""
    if answered is None:
        return asked.map(lambda value: (f, value, value))
    return st.tuples(st.just(f), asked, answered)


def keyed(f, values):
    return st.tuples(st.sampled_from("ab"), values).map(lambda pair: (f, list(pair), list(pair)))


def get(pair):
    return ("get", [pair[0], None], list(pair))


CALLS = {
    "register": call("read", answered=st.none() | V) | call("write", V),
    "cas-register": call("read", answered=st.none() | V) | call("write", V) | call("cas", PAIR),
    "multi-register": st.lists(st.tuples(st.sampled_from("rw"), st.sampled_from("ab"), V).map(list), max_size=3).map(
        lambda txn: ("txn", [[f, key, None if f == "r" else value] for f, key, value in txn], txn)
    ),
    "mutex": call("acquire") | call("release"),
    "fenced-mutex": call("acquire", answered=st.integers(0, 4)) | call("release") | call("release", st.integers(0, 4)),
    "semaphore": call("acquire", st.integers(1, 2)) | call("release", st.integers(1, 2)),
    "queue": call("enqueue", V) | call("dequeue", answered=st.none() | V),
    "unordered-queue": call("enqueue", V) | call("dequeue", answered=st.none() | V),
    "set": call("add", V) | call("remove", V) | call("contains", V, st.booleans())
    | call("read", answered=st.lists(V, max_size=3)),
    "counter": call("add", V) | call("subtract", V) | call("read", answered=st.integers(-2, 4)),
    "key-value": keyed("put", V) | keyed("delete", st.none()) | keyed("append", V) | keyed("cas", PAIR)
    | st.tuples(st.sampled_from("ab"), st.none() | V).map(get),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.usefixtures("again")
def test_the_verdict_is_that_of_trying_every_order(name: str) -> None:
    model = semaphore(2) if name == "semaphore" else MODELS[name]()

    @settings(max_examples=40, deadline=None)
    @given(histories(CALLS[name]))
    def agrees(history: History) -> None:
        verdict = check_linearizable(history, model)
        assert verdict.valid is is_linearizable(said(history), model)
        if verdict.valid is False and model.part is None:
            last = verdict.anomalies[0].last
            assert last is not None
            end = last.completed
            assert not is_linearizable(before(history, end + 1), model)
            assert is_linearizable(before(history, end), model), "a shorter prefix had none either"

    agrees()


@pytest.mark.usefixtures("again")
def test_a_queue_in_any_order_is_that_of_its_values() -> None:
    def run(op, held):
        if op.f == "enqueue":
            return tuple(sorted((*held, op.input)))
        if op.output is None:
            return held
        place = held.index(op.output) if op.output in held else None
        return ILLEGAL if place is None else held[:place] + held[place + 1 :]

    @settings(max_examples=40, deadline=None)
    @given(histories(CALLS["unordered-queue"]))
    def agrees(history: History) -> None:
        assert check_linearizable(history, "unordered-queue").valid is has_order(said(history), run, ())

    agrees()


def before(history: History, place: int) -> list[Operation]:
    """What was known of a history just before an event; which refusals say something is for the whole to tell."""
    return [
        op if op.completed < place else type(op)(op.process, "info", op.f, op.input, None, op.invoked, 1 << 62, op.key)
        for op in said(history) if op.invoked < place
    ]  # fmt: skip


def test_an_unknown_write_may_take_effect_late_or_never() -> None:
    start = ["0 invoke write 1", "0 ok write 1", "1 invoke write 2", "1 info write 2"]
    late = [*start, "2 invoke read", "2 ok read 1", "2 invoke read", "2 ok read 2"]
    assert check_linearizable(single(*late), "register").valid
    assert check_linearizable(single(*late, "2 invoke read", "2 ok read 2"), "register").valid
    assert check_linearizable(single(*late, "2 invoke read", "2 ok read 1"), "register").valid is False


def test_an_invocation_without_completion_is_unknown() -> None:
    events = ["0 invoke write 1", "1 invoke read", "1 ok read 1"]
    assert check_linearizable(single(*events), "register").valid
    assert check_linearizable(single(*reversed(events[1:]), events[0]), "register").valid is False


def test_a_prefix_that_another_initial_state_saves_is_not_the_shortest_without_order() -> None:
    asked = ["0 invoke cas (1, 0)", "1 invoke cas (0, 1)", "0 ok cas (1, 0)", "1 fail cas (0, 1)"]
    verdict = check_linearizable(single(*asked), "cas-register")
    last = verdict.anomalies[0].last
    assert last is not None
    assert (last.process, last.type) == (1, "fail")  # Until it was refused it may have made 1 of a 0.


def test_a_prefix_that_is_wrong_only_because_of_a_later_refusal_is_not_the_shortest_without_order() -> None:
    asked = ["0 invoke read", "1 invoke cas (0, 2)", "0 ok read None", "0 invoke write 0", "2 invoke read"]
    told = ["0 ok write 0", "2 ok read 2", "1 fail cas (0, 2)"]
    verdict = check_linearizable(single(*asked, *told), "cas-register")
    last = verdict.anomalies[0].last
    assert last is not None
    assert (last.process, last.type) == (1, "fail")  # Until then the 2 that was read can have been its own.


def test_a_failed_operation_did_not_happen() -> None:
    read = ["1 invoke read", "1 ok read 1"]
    assert check_linearizable(single("0 invoke write 1", "0 ok write 1", *read), "register").valid
    assert check_linearizable(single("0 invoke write 1", "0 fail write 1", *read), "register").valid is False


def test_a_read_of_nil_saw_the_initial_value() -> None:
    nil = ["0 invoke read", "0 ok read None"]
    write = ["0 invoke write 1", "0 ok write 1"]
    assert check_linearizable(single(*nil, *write), "cas-register").valid
    assert check_linearizable(single(*write, *nil), "cas-register").valid is False
    assert check_linearizable(single(*nil), cas_register(0)).valid is False


def test_two_holders_of_a_lock_are_seen() -> None:
    held = ["0 invoke acquire", "0 ok acquire 1", "1 invoke acquire", "1 ok acquire 2"]
    assert check_linearizable(single(*held), "mutex").valid is False
    assert check_linearizable(single(*held, "0 invoke release", "0 ok release"), "fenced-mutex").valid is False
    freed = [*held[:2], "0 invoke release", "0 ok release", *held[2:]]
    assert check_linearizable(single(*freed), "fenced-mutex").valid
    same = [one.replace("acquire 2", "acquire 1") for one in freed]
    assert check_linearizable(single(*same), "fenced-mutex").valid is False, "a token was given twice"


def test_objects_are_checked_each_for_itself() -> None:
    events = ["0 invoke write ['x', 1]", "0 ok write ['x', 1]", "1 invoke read ['y', None]", "1 ok read ['y', None]"]
    verdict = check_linearizable(single(*events), "register", independent=True)
    assert verdict.valid
    assert verdict.stats["parts"] == 2
    stale = [*events, "1 invoke read ['x', None]", "1 ok read ['x', 2]"]
    assert "key x" in check_linearizable(single(*stale), "register", independent=True).anomalies[0].text


def test_the_counter_example_leaves_out_what_does_not_matter() -> None:
    idle = [event for _ in range(30) for event in ("3 invoke read", "3 ok read 1")]
    bad = ["1 invoke read", "1 ok read 2"]
    verdict = check_linearizable(single("0 invoke write 1", "0 ok write 1", *idle, *bad, *idle), "register")
    assert [str(op) for op in verdict.anomalies[0].operations] == ["#63 p1 read -> 2"], "nobody wrote it"
    late = ["0 invoke write 2", "0 ok write 2", *idle[:6], "2 invoke cas [3, 4]", "0 invoke write 1", "0 ok write 1", *bad]
    verdict = check_linearizable(single("0 invoke write 5", "0 ok write 5", *late[:2], *late[8:]), "cas-register")
    shown = [str(op) for op in verdict.anomalies[0].operations]
    assert shown == ["#4 p2 cas [3 4] (unknown)", "#6 p0 write 1", "#8 p1 read -> 2"]


def test_the_drawing_is_a_document_that_shows_the_counter_example() -> None:
    verdict = check_linearizable(single("0 invoke write '<1>'", "0 ok write '<1>'", "1 invoke read", "1 ok read 2"), "register")
    text = "".join(ET.fromstring(svg(verdict)).itertext())
    assert "register: invalid" in text
    assert "p0 write <1>" in text
    assert "read -> 2" in text


def test_past_the_deadline_the_verdict_is_unknown() -> None:
    puts = [f"{n} invoke enqueue {n}" for n in range(14)] + [f"{n} ok enqueue {n}" for n in range(14)]
    history = single(*puts, "20 invoke dequeue", "20 ok dequeue 99")
    verdict = check_linearizable(history, "queue", deadline_s=0)
    assert verdict.valid is None
    assert "deadline" in verdict.reason


def test_a_long_history_with_crashes_takes_few_configurations() -> None:
    events = []
    for n in range(2_000):
        events += [f"{n % 5} invoke write {n % 7}", f"{n % 5} ok write {n % 7}"]
        if n % 20 == 0:
            events.append(f"{100 + n} invoke cas [1, 2]")
        events += ["7 invoke read", f"7 ok read {n % 7}"]
    verdict = check_linearizable(single(*events), "cas-register")
    assert verdict.valid
    assert verdict.stats["configurations"] < 20_000


def test_operations_of_another_model_are_refused() -> None:
    with pytest.raises(Invalid, match="does not know"):
        check_linearizable(single("0 invoke enqueue 1", "0 ok enqueue 1"), "register")
    with pytest.raises(Invalid, match="no such model"):
        check_linearizable(single(), "regsiter")


def test_a_cas_that_was_refused_saw_another_value_and_one_with_an_error_did_not_happen() -> None:
    events = [
        {"process": 0, "type": "invoke", "f": "write", "value": 1}, {"process": 0, "type": "ok", "f": "write", "value": 1},
        {"process": 1, "type": "invoke", "f": "cas", "value": [1, 2]}, {"process": 1, "type": "fail", "f": "cas", "value": [1, 2]},
    ]  # fmt: skip
    verdict = check_linearizable(History.of(events), "cas-register")
    assert verdict.valid is False
    assert "refused" in verdict.notes[0]
    for failed in ({**events[3], "error": "timeout"}, {**events[3], "value": "timed-out"}):
        assert check_linearizable(History.of([*events[:3], failed]), "cas-register").valid


def test_a_register_of_unknown_beginning_held_nil_or_0_and_no_other_value() -> None:
    def first(seen: object, then: object = ...) -> History:
        reads = [seen, *([] if then is ... else [then])]
        return single(*(f"0 {kind} read {value}" for value in reads for kind in ("invoke", "ok")))

    assert check_linearizable(first(None), "register").valid
    verdict = check_linearizable(first(0), "register")
    assert verdict.valid
    assert "held 0" in verdict.notes[0]
    assert check_linearizable(first(1), "register").valid is False
    assert check_linearizable(first(None, 0), "register").valid is False
    assert check_linearizable(first(1), cas_register(1)).valid
    assert check_linearizable(first(0), cas_register(1)).valid is False


def test_values_that_name_a_key_each_are_of_registers_of_their_own() -> None:
    keyed = ["0 invoke write ['x', 1]", "0 ok write ['x', 1]", "0 invoke read ['y', None]", "0 ok read ['y', None]"]
    verdict = check_linearizable(single(*keyed), "cas-register")
    assert verdict.valid
    assert verdict.stats["parts"] == 2
    assert check_linearizable(single(*keyed), "cas-register", independent=False).valid is False


def test_many_clients_that_write_at_all_times_are_decided() -> None:
    for wrong in ("never", "stale"):
        history, late = crowd(500, clients=24, keys=1, wrong=wrong)
        assert check_linearizable(history, "register").valid
        verdict = check_linearizable(late, "register")
        assert verdict.valid is False
        assert verdict.stats["configurations"] < 10_000


WRITTEN = ["0 invoke write 1", "0 ok write 1"]


@pytest.mark.parametrize(("events", "last"), [
    (["1 invoke read", "1 ok read 7"], 7),  # Nobody wrote it.
    (["0 invoke write 2", "0 ok write 2", "1 invoke read", "1 ok read 1"], 1),  # It is overwritten.
    (["0 invoke write 2", "1 invoke read", "1 ok read 2", "1 invoke read", "1 ok read 1", "0 ok write 2"], 1),
    ([  # Two reads, one after the other, saw two writes in one order, two others in the other.
        "0 invoke write 2", "3 invoke write 3", "1 invoke read", "1 ok read 2", "2 invoke read", "2 ok read 3",
        "1 invoke read", "1 ok read 2", "2 invoke read", "2 ok read 3", "0 ok write 2", "3 ok write 3",
    ], 2),
    ([  # A write fell wholly between two reads of the same other one.
        "3 invoke write 3", "1 invoke read", "1 ok read 3", "0 invoke write 2", "0 ok write 2", "2 invoke read",
        "2 ok read 3", "3 ok write 3",
    ], 3),
    (["2 invoke cas [1, 2]", "2 ok cas [1, 2]", "0 invoke cas [1, 3]", "0 ok cas [1, 3]"], (1, 3)),
])  # fmt: skip
def test_what_a_read_cannot_have_read_is_seen_at_a_look(events: list[str], last: object) -> None:
    history = single(*WRITTEN, *events)
    assert contradiction(history.operations, cas_register())
    assert not is_linearizable(said(history), cas_register())
    found = check_linearizable(history, "cas-register").anomalies[0].last
    assert found is not None
    assert found.output == last


def test_reads_and_writes_alone_are_judged_as_by_the_search() -> None:
    seen = 0
    for seed in range(40):
        _, late = crowd(60, clients=4, keys=1, seed=seed, values=4, wrong="stale")
        valid = search(late.operations, register(), float("inf")).valid
        assert linearizable(late.operations, register())[0] in {valid, None}, seed
        if contradiction(late.operations, register()):
            seen += 1
            assert valid is False, seed
    assert seen > 10


def test_where_reads_fail_without_an_error_a_failed_cas_saw_nothing() -> None:
    events = [*WRITTEN, "1 invoke cas [1, 2]", "1 fail cas [1, 2]"]
    assert check_linearizable(single(*events), "cas-register").valid is False
    assert check_linearizable(single(*events, "2 invoke read", "2 fail read"), "cas-register").valid


def test_lists_that_many_clients_append_to_are_decided() -> None:
    history, late = crowd(500, clients=50, keys=8)
    verdict = check_linearizable(history, "key-value")
    assert verdict.valid
    assert verdict.stats["configurations"] < 8_000, "states that nobody will see are told apart"
    assert check_linearizable(late, "key-value").valid is False


def alone(*ops):
    """Operations one after the other: (f, asked, answered)."""
    return History.of(
        {"process": 0, "type": kind, "f": f, "value": value}
        for f, asked, answered in ops for kind, value in (("invoke", asked), ("ok", answered))
    )  # fmt: skip


@pytest.mark.parametrize(
    ("ops", "valid"),
    [
        ([("put", ["x", "b"], None), ("cas", ["x", ["b", "a"]], None), ("get", ["x", None], "a")], True),
        ([("append", ["x", "a"], None), ("cas", ["x", ["a", "a"]], None)], True),
        ([("append", ["x", "a"], None), ("cas", ["x", ["b", "b"]], None)], False),
        ([("put", ["x", 5], None), ("append", ["x", "a"], None), ("get", ["x", None], "5a")], False),
    ],
)
def test_a_compare_and_set_makes_another_text_than_what_grew(ops, valid) -> None:
    assert check_linearizable(alone(*ops), "key-value").valid is valid


def test_a_refused_compare_and_set_does_not_fit_a_state_that_nobody_reads() -> None:
    writes = ["0 invoke write 2", "2 invoke write 2", "2 ok write 2", "1 invoke cas [2, 3]", "0 ok write 2"]
    history = single(*writes, "1 fail cas [2, 3]", "1 invoke write 2")
    assert not is_linearizable(said(history), cas_register())
    assert check_linearizable(history, "cas-register").valid is False


def test_a_release_tells_the_token_of_an_acquire_that_nobody_saw_answered() -> None:
    lost = ["0 invoke acquire", "0 info acquire"]
    later = ["1 invoke acquire", "1 ok acquire 6", "1 invoke release 6", "1 ok release 6"]
    for token, valid in ((5, True), (7, False)):
        assert check_linearizable(single(*lost, f"2 invoke release {token}", *later), "fenced-mutex").valid
        told = [f"2 invoke release {token}", f"2 ok release {token}"]
        assert check_linearizable(single(*lost, *told, *later), "fenced-mutex").valid is valid
    assert check_linearizable(single(*later, *lost, "2 invoke release 6", "2 ok release 6"), "fenced-mutex").valid is False


@pytest.mark.parametrize(
    ("model", "f", "asked", "answered"),
    [
        ("counter", "add", "two", None), ("counter", "subtract", [1], None), ("semaphore", "acquire", "all", None),
        ("set", "contains", 1, 1), ("set", "read", None, 3), ("set", "read", None, "ab"),
        ("fenced-mutex", "acquire", None, frozenset({1, 2})),
    ],
)  # fmt: skip
def test_what_no_model_can_count_is_refused(model, f, asked, answered) -> None:
    with pytest.raises(Invalid):
        check_linearizable(alone((f, asked, answered)), model)


def test_a_counter_counts_in_halves() -> None:
    halves = [("add", 0.5, None), ("read", None, 0.5), ("add", None, None), ("read", None, 1.5)]
    assert check_linearizable(alone(*halves), "counter").valid


def test_what_was_read_commands_no_terminal_and_breaks_no_drawing() -> None:
    verdict = check_linearizable(alone(("read", None, "\x00\x1b[31m\ud800")), "register")
    assert verdict.valid is False
    ET.fromstring(svg(verdict))
    assert "\\x00\\x1b[31m\\ud800" in "\n".join(verdict.lines())
