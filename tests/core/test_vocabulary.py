"""Errors, time, ids, money, pages, payloads."""

from __future__ import annotations

import pickle
import subprocess
import sys
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onefold import Conflict, Invalid, Money, Retry
from onefold.core import codec
from onefold.core.clock import FakeClock, SystemClock
from onefold.core.ids import made_at_ms, make_id
from onefold.core.money import MINOR_MAX
from onefold.core.page import LIMIT_MAX, checked_limit, page_of


def test_an_error_has_constant_text_and_facts() -> None:
    error = Conflict("Another owner holds it.", code="held", name="a", owner="b")
    assert str(error) == "Another owner holds it. (name='a', owner='b')"
    assert (error.text, error.code, error.kind) == ("Another owner holds it.", "held", "conflict")
    assert Invalid("No.").code == "invalid"


def test_errors_survive_pickling() -> None:
    error = pickle.loads(pickle.dumps(Retry("Later.", code="busy", retry_after_ms=7, who="x")))
    assert (error.code, error.facts, error.retry_after_ms) == ("busy", {"who": "x"}, 7)


def test_the_clock_never_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SystemClock()
    first = clock.now_ms()
    monkeypatch.setattr(time, "time_ns", lambda: (first - 3_600_000) * 1_000_000)
    assert clock.now_ms() == first
    monkeypatch.setattr(time, "time_ns", lambda: (first + 5) * 1_000_000)
    assert clock.now_ms() == first + 5


def test_a_fake_clock_moves_by_hand() -> None:
    clock = FakeClock(1_000)
    clock.advance(500)
    assert clock.now_ms() == 1_500


@given(now=st.integers(0, 2**47), count=st.integers(0, 65_534), seed=st.integers(0, 2**64 - 1))
def test_ids_sort_by_time_then_count(now: int, count: int, seed: int) -> None:
    earlier = make_id("job", now_ms=now, count=count, seed=seed)
    assert earlier < make_id("job", now_ms=now, count=count + 1, seed=0)
    assert earlier < make_id("job", now_ms=now + 1, count=0, seed=0)
    assert made_at_ms(earlier) == now
    assert len(earlier) == len("job_") + 32


def test_money_is_whole_and_of_one_currency() -> None:
    assert Money(1250, "EUR") + Money(1, "EUR") == Money(1251, "EUR")
    assert Money(1250, "EUR") - Money(1251, "EUR") == Money(-1, "EUR")
    assert Money(3, "EUR") * 4 == Money(12, "EUR")
    with pytest.raises(Invalid):
        Money(1, "EUR") + Money(1, "USD")
    for minor, currency in ((1.5, "EUR"), (True, "EUR"), (MINOR_MAX + 1, "EUR"), (1, "eur"), (1, "EURO"), (1, "ÄÖÜ")):
        with pytest.raises(Invalid):
            Money(minor, currency)


@pytest.mark.parametrize(
    ("money", "text"),
    [(Money(1250, "EUR"), "12.50 EUR"), (Money(-5, "EUR"), "-0.05 EUR"), (Money(1250, "JPY"), "1250 JPY"), (Money(1250, "KWD"), "1.250 KWD")],
)  # fmt: skip
def test_money_reads_as_people_write_it(money: Money, text: str) -> None:
    assert str(money) == text


def test_a_page_says_where_the_next_one_starts() -> None:
    assert page_of(["a", "b"], 2, str).after is None
    page = page_of(["a", "b", "c"], 2, str)
    assert (page.items, page.after) == (["a", "b"], "b")
    for limit in (0, -1, LIMIT_MAX + 1):
        with pytest.raises(Invalid):
            checked_limit(limit)


class Point(msgspec.Struct, frozen=True):
    x: int
    y: int = 0


def test_payloads_come_back_as_they_went() -> None:
    assert codec.decode(codec.encode(Point(1, 2)), Point) == Point(1, 2)
    assert codec.decode('{"x":1}', Point) == Point(1)
    with pytest.raises(Invalid):
        codec.decode('{"x":"one"}', Point)
    with pytest.raises(Invalid):
        codec.decode("[" * 100_000, list)
    with pytest.raises(Invalid):
        codec.encode("x" * 70_000)
    with pytest.raises(Invalid):
        codec.encode(object())


def test_equal_values_have_equal_fingerprints() -> None:
    assert codec.fingerprint({"a": 1, "b": [2]}) == codec.fingerprint({"b": [2], "a": 1})
    assert codec.fingerprint({"a": 1}) != codec.fingerprint({"a": 2})


FIRST_USE = """
import sys, threading, msgspec
from onefold.core.codec import decode
sys.setswitchinterval(1e-6)
classes = '''
class Inner(msgspec.Struct):
    a: int
    b: "str | None" = None
class Outer(msgspec.Struct):
    x: Inner
    y: "dict[str, Inner]" = {}
'''
for _ in range(60):
    exec(classes)
    gate = threading.Barrier(8)
    def first():
        gate.wait()
        decode('{"x":{"a":1},"y":{"k":{"a":2}}}', Outer)
    threads = [threading.Thread(target=first) for _ in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
print("alive")
"""


def test_threads_that_use_a_type_first_at_once_live_on() -> None:
    done = subprocess.run([sys.executable, "-c", FIRST_USE], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr
