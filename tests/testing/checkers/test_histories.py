"""Histories are read as they are written: EDN, JSON, a log; and what is none is refused, with its place."""

from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onefold.core.errors import Invalid, NotFound
from onefold.testing.checkers import parse_history, read_history
from onefold.testing.checkers.edn import DEPTH_MAX, read_all

EVENTS = [
    {"process": 0, "type": "invoke", "f": "txn", "value": [["append", "x", 1], ["r", "y", None]], "index": 4},
    {"process": 0, "type": "ok", "f": "txn", "value": [["append", "x", 1], ["r", "y", [1, 2]]], "index": 5},
    {"process": "nemesis", "type": "info", "f": "kill", "value": None},
    {"process": 1, "type": "invoke", "f": "txn", "value": [["append", "x", 2]], "index": 6},
]
EDN = """
{:process 0, :type :invoke, :f :txn, :value [[:append :x 1] [:r :y nil]], :index 4}
#jepsen.history.Op{:process 0, :type :ok, :f :txn, :value [[:append :x 1] [:r :y [1 2]]], :index 5} ; a remark
{:process :nemesis, :type :info, :f :kill, :value #{:n1 "n2"}} #_ {:not "read"}
{:process 1 :type :invoke :f :txn :value [[:append :x 2]] :index 6}
"""
FORMS = {
    "JSON": json.dumps(EVENTS), "JSON lines": "\n".join(map(json.dumps, EVENTS)),
    "EDN, line by line": EDN, "EDN, a vector": f"[{EDN}]", "EDN, a list": f"({EDN})",
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_a_history_means_the_same_in_each_form(form: str) -> None:
    first, second = parse_history(FORMS[form]).operations
    assert (first.process, first.type, first.f, first.index) == (0, "ok", "txn", 5)
    assert first.input == (("append", "x", 1), ("r", "y", None))
    assert first.output == (("append", "x", 1), ("r", "y", (1, 2)))
    assert (second.type, second.output) == ("info", None)


def test_a_log_of_jepsen() -> None:
    lines = ["INFO  jepsen.util - 3\t:invoke\t:cas\t[1 2]", "WARN something else", "INFO  jepsen.util - 3\t:info\t:cas\t:timed-out"]
    [op] = parse_history("\n".join(lines)).operations
    assert (op.process, op.type, op.f, op.input) == (3, "info", "cas", (1, 2))


@pytest.mark.parametrize("before", ["", "INFO  jepsen.util - ", "2015-01-02 03:04:05,678{GMT}\tINFO\t[worker 3] jepsen.util: "])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_log_may_have_any_words_before_its_events(before: str, end: str) -> None:
    lines = [
        "3\t:invoke\t:cas\t[1 2]", ":nemesis\t:info\t:start\tnil", "3\t:fail\t:cas\t[1 2]",
        "3 \t:invoke :read \tnil \t:hint 0", "3\t:ok\t:read\tnil", "3\t:invoke\t:cas\t[1 2]", "3\t:fail\t:cas\t[1 2]\t:timeout",
    ]  # fmt: skip
    refused, read, failed = parse_history(end.join(before + line for line in lines)).operations
    assert (refused.type, refused.refused, failed.type, failed.refused) == ("fail", True, "fail", False)
    assert (read.type, read.output, read.process) == ("ok", None, 3)


@pytest.mark.parametrize("text", [
    "[[{:type :ok :process 0 :f :read :value 1}]]", ";; remark\n[{:type :ok :process 0 :f :read :value 1}]",
    "[\n ; remark\n {:type :ok, :process 0, :f :read, :value 1} ; more\r\n]\r\n", '[[{"type": "ok", "f": "read", "value": 1}]]',
    "[#jepsen.history.Op{:index 0, :type :ok, :process 0, :f :read, :value 1}]", "({:type :ok :process :w1 :f :read :value 1})",
    '{:type :ok :process nil :f :read :value 1 :error #error {:cause "no" :via [{:type java.io.IOException}]}}',
])  # fmt: skip
def test_events_are_found_in_any_wrapping(text: str) -> None:
    [op] = parse_history(text).operations
    assert (op.type, op.f, op.output) == ("ok", "read", 1)


def test_a_packed_file_is_unpacked(tmp_path) -> None:
    path = tmp_path / "history.edn.gz"
    path.write_bytes(gzip.compress(EDN.encode()))
    assert len(read_history(path)) == 2
    path.write_bytes(gzip.compress(EDN.encode())[:40])
    with pytest.raises(Invalid, match="unpacked"):
        read_history(path)


@pytest.mark.parametrize(("text", "value"), [
    ("nil true false", [None, True, False]), ("-12 +3 4N 2.5 1e3 1.5M 1/4", [-12, 3, 4, 2.5, 1000.0, 1.5, 0.25]),
    (r'"a\n\"\u0041" \a \newline \u0041', ['a\n"A', "a", "\n", "A"]), (":a :b/c sym", ["a", "b/c", "sym"]),
    ("#{1 [2]} (1, 2) {[1] {:a 1}}", [frozenset({1, (2,)}), [1, 2], {(1,): {"a": 1}}]),
    ('#inst "2020" #a/b [1] #_ x #_ #_ 1 2 3', ["2020", [1], 3]), ("##Inf ; end", [float("inf")]), ("", []),
])  # fmt: skip
def test_values_of_edn(text: str, value: list[object]) -> None:
    assert list(read_all(text)) == value


@pytest.mark.parametrize("text", [
    "[1", "(1]", "}", '"abc', "{1}", "#_", "[1 #_]", r"\foo", "[" * (DEPTH_MAX + 1), "#", ":", "##Foo", "1/0", "\\",
])  # fmt: skip
def test_what_is_no_edn_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="not EDN") as refused:
        list(read_all(f"\n{text}"))
    assert refused.value.facts["line"] == 2


@given(st.text(alphabet='[](){}#_:;"\\ \n1a/', max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        assert list(read_all(text)) is not None
    except Invalid as refused:
        assert refused.code == "not_edn"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='ab"\\\n ', max_size=4),
    lambda inner: st.lists(inner, max_size=4), max_leaves=12,
)  # fmt: skip


@given(VALUES)
def test_json_values_are_edn_when_spelled_so(value: object) -> None:
    assert list(read_all(json.dumps(value).replace("null", "nil"))) == [value]


@pytest.mark.parametrize(("text", "message"), [
    ("hello", "no events"), ('[{"type": "done", "process": 1}]', "no known type"), ("[1 2]", "not JSON"),
    ("[1, 2]", "no map"), ('{"type": "ok"}\n{"type"', "not JSON"),
    ("{:type :invoke :process 1 :f :read} {:type :invoke :process 1 :f :read}", "former invocation"),
])  # fmt: skip
def test_what_is_no_history_is_refused(text: str, message: str) -> None:
    with pytest.raises(Invalid, match=message):
        parse_history(text)


def test_files_that_cannot_be_read(tmp_path) -> None:
    with pytest.raises(NotFound):
        read_history(tmp_path / "none.edn")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(Invalid, match="UTF-8"):
        read_history(tmp_path / "bytes")


def test_completions_without_invocation_and_without_process_are_operations_in_turn() -> None:
    first, second = parse_history("{:type :ok :value [[:r :x 1]]} {:type :ok :value [[:w :x 2]]}").operations
    assert first.completed < second.invoked
    assert str(second) == "#1 txn [[w x 2]]"


def test_events_without_process_that_overlap_are_paired_by_what_was_asked() -> None:
    text = "{:type :invoke :f :read} {:type :invoke :f :write :value 1} {:type :ok :f :write :value 1} {:type :ok :f :read :value #{1}}"
    read, write = parse_history(text).operations
    assert (read.f, read.output, write.f) == ("read", frozenset({1}), "write")
    assert read.invoked < write.invoked < write.completed < read.completed


READ = {"process": 0, "type": "ok", "f": "read", "value": "a\u2028b"}


@pytest.mark.parametrize("text", [
    "\n".join([json.dumps(READ, ensure_ascii=False)] * 2), json.dumps(READ) + " " + json.dumps(READ),
    "\n".join([json.dumps(READ, indent=1)] * 2),
])  # fmt: skip
def test_documents_follow_each_other_whatever_ends_a_line(text: str) -> None:
    assert [op.output for op in parse_history(text).operations] == ["a\u2028b"] * 2


@pytest.mark.parametrize("before", ["[2020-01-01] ", "{main} ", "# the log\n[INFO] "])
def test_a_logger_may_begin_its_lines_as_it_likes(before: str) -> None:
    lines = ["3\t:invoke\t:read\tnil", '3\t:ok\t:read\t"a\u2028b"']
    [op] = parse_history(before + "\n[2020-01-01] ".join(lines)).operations
    assert (op.process, op.output) == (3, "a\u2028b")


@pytest.mark.parametrize("depth", [100, 480, 3_000])
def test_what_is_nested_too_deeply_is_refused(depth: int) -> None:
    nested = "[" * depth + "]" * depth
    for text in (nested, f'[{{"process":0,"type":"ok","f":"read","value":{nested}}}]', f"[{{:type :ok, :value {nested}}}]"):
        with pytest.raises(Invalid):
            parse_history(text)


def test_halves_of_a_character_are_one() -> None:
    assert list(read_all(r'"\ud83d\ude00" "\ud83d"')) == ["\U0001f600", "\ud83d"]
