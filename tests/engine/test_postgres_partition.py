"""PostgreSQL behind a network that goes silent: calls end in the time that the engine's README states, honestly."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, Literal

import psycopg
import pytest

import onefold
from onefold import Database, OnefoldError, Retry, Tx, Unknown
from onefold.engine.postgres import asking, pool, unknown, wire
from onefold.engine.postgres.errors import Lost, Overdue
from onefold.testing.partition import Network
from onefold.testing.postgres import Cluster

DEADLINE_MS = 400
DEADLINE_S = DEADLINE_MS / 1_000
CANCEL_S = wire.CANCEL_NS_MAX / 1e9
LOOK_UP_S = unknown.RESOLVE_NS_MIN / 1e9
BUSY_S = 3.0  # For a machine that runs other tests beside; each bound is far below what it was without.
KEYS = "SELECT key, count(*) FROM onefold.counter_deltas WHERE space = :space GROUP BY key"


@pytest.fixture
def far_url(network: Network, postgres_cluster: Cluster, postgres_url: str) -> str:
    """The database, with the network between."""
    name = psycopg.conninfo.conninfo_to_dict(postgres_url)["dbname"]
    port = network.relay(str(name), f"unix:{postgres_cluster.socket_path}")
    return f"postgresql://postgres@{network.address}:{port}/{name}?sslmode=disable&gssencmode=disable"


@pytest.fixture
def far(far_url: str) -> Iterator[Database]:
    with onefold.connect(far_url) as db:
        yield db


class Caught:
    """A call that is inside its function while the network is cut, and then goes on."""

    def __init__(self, db: Database, key: str, then: Callable[[Tx], object] = lambda _tx: None) -> None:
        self.key = key
        self.inside, self.go = threading.Event(), threading.Event()
        self._then = then
        self._db = db.options(deadline_ms=DEADLINE_MS)

    def __call__(self) -> Any:
        return self._db.run(self._work)

    def _work(self, tx: Tx) -> str:
        tx.one("SELECT 1")
        tx.add(self.key, 1)
        self.inside.set()
        self.go.wait(10)
        self._then(tx)
        return self.key


def timed(call: Callable[[], object]) -> tuple[object, float]:
    """What came of it, and after how many seconds."""
    started = time.monotonic()
    try:
        answer = call()
    except OnefoldError as error:
        answer = error
    return answer, time.monotonic() - started


def put(tx: Tx, key: str) -> None:
    tx.add(key, 1)


@pytest.mark.parametrize("lost", ["requests", "answers"])
def test_calls_into_a_partition_end_in_time_and_say_what_is_so(
    network: Network, far: Database, lost: Literal["requests", "answers"], monkeypatch: pytest.MonkeyPatch
) -> None:
    if lost == "requests":  # Once in its full length is enough.
        monkeypatch.setattr(unknown, "RESOLVE_NS_MIN", DEADLINE_MS * 1_000_000)
    at_commit = Caught(far, "at commit")
    before = Caught(far, "before", lambda tx: tx.one("SELECT 2"))
    hasty = far.options(deadline_ms=DEADLINE_MS)
    with ThreadPoolExecutor(8) as threads:
        caught: list[Future[tuple[object, float]]] = []
        for one in (at_commit, before):
            caught.append(threads.submit(timed, one))
            assert one.inside.wait(10)
        with network.partition(lost):
            at_commit.go.set()
            before.go.set()
            (answer, took_s), (other, other_s) = (call.result(30) for call in caught)
            later = [threads.submit(timed, lambda: hasty.run(put, "later")) for _ in range(3)]
            later.append(threads.submit(timed, lambda: hasty.reader().run(lambda tx: tx.total("later"))))
            late = [call.result(30) for call in later]
    assert isinstance(answer, Unknown), answer
    assert took_s < DEADLINE_S + CANCEL_S + LOOK_UP_S + BUSY_S
    assert isinstance(other, Retry), other  # It never came to its COMMIT.
    assert other_s < DEADLINE_S + CANCEL_S + BUSY_S
    for refusal, refused_s in late:
        assert isinstance(refusal, Retry), refusal
        assert refused_s < DEADLINE_S + CANCEL_S + BUSY_S
    far.run(put, "healed")
    found = dict(far.run(lambda tx: tx.all(KEYS)))
    assert found.pop("healed") == 1
    assert found == ({"at commit": 1} if lost == "answers" else {})


def test_a_call_that_outlives_a_short_partition_is_told_and_done_once(
    network: Network, far: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unknown, "RESOLVE_NS_MIN", 10_000_000_000)
    caught = Caught(far, "short")
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(timed, caught)
        assert caught.inside.wait(10)
        with network.partition("answers"):
            caught.go.set()
            with pytest.raises(
                TimeoutError
            ):  # Its deadline comes and the cancel is on its way: cut short of the look-up.
                call.result(DEADLINE_S + CANCEL_S)
        answer, _ = call.result(30)
    assert answer == "short"
    assert dict(far.run(lambda tx: tx.all(KEYS))) == {"short": 1}


class Old:
    """libpq before 17: its cancel waits as long as the kernel lets it."""

    def __init__(self, pg: Any) -> None:
        self._pg = pg

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pg, name)

    def cancel_conn(self) -> None:
        raise psycopg.NotSupportedError


def test_a_libpq_that_cancels_blindly_ends_a_statement_at_its_deadline_as_well(plain: Database) -> None:
    connections = plain._engine._open().pool  # type: ignore[attr-defined]
    one = connections.take(time.monotonic_ns() + DEADLINE_MS * 1_000_000 // 4)
    one._pg = Old(one._pg)
    one.command(b"SELECT pg_sleep(30)")
    with pytest.raises(Overdue):
        one.sync()
    one._pg = one._pg._pg
    connections.give(one)


def test_a_libpq_that_cancels_blindly_holds_nobody(network: Network, far_url: str) -> None:
    one = wire.open_wire(pool.conninfo_of(far_url), deadline_ns=time.monotonic_ns() + 10**10)
    try:
        one._pg = Old(one._pg)  # type: ignore[assignment]
        one.deadline_ns = time.monotonic_ns() + DEADLINE_MS * 1_000_000
        one.command(b"SELECT 1")
        with network.partition():
            answer, took_s = timed(one.sync)
            assert isinstance(answer, Lost), answer
            assert took_s < DEADLINE_S + CANCEL_S + BUSY_S
    finally:
        one.close()


def test_who_connects_in_the_last_millisecond_waits_for_no_more_than_that() -> None:
    silent, other = os.pipe()
    starting: Any = SimpleNamespace(socket=silent)
    assert not wire._drive(starting, lambda: psycopg.pq.PollingStatus.READING, time.monotonic_ns() + 900_000)
    for descriptor in (silent, other):
        os.close(descriptor)


def test_a_server_that_reads_no_more_holds_nobody_beyond_the_deadline(plain: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "CANCEL_GRACE_NS", 50_000_000)
    stopped: list[int] = []

    def stuck(tx: Tx) -> None:
        stopped.extend(tx.one("SELECT pg_backend_pid()") or ())
        os.kill(stopped[-1], signal.SIGSTOP)
        tx.one("SELECT length(:wide)", wide="x" * 8_000_000)  # More than the socket takes.

    began = time.monotonic()
    try:
        with pytest.raises(Retry) as late:
            plain.options(deadline_ms=100).run(stuck)
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    assert (late.value.code, len(stopped)) == ("unavailable", 1)
    assert time.monotonic() - began < 4


def test_a_host_that_refuses_is_there_to_be_asked_for_a_cancel() -> None:
    assert [wire._reachable(SimpleNamespace(hostaddr=host, port=b"1")) for host in (b"127.0.0.1", b"")] == [True] * 2  # type: ignore[arg-type]


def test_whoever_connects_or_asks_without_a_deadline_is_not_held_for_minutes(
    network: Network, far_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"connect_timeout": "2", "tcp_user_timeout": "1000"}.items():
        assert int(pool.DEFAULTS[name]) > int(value)
        monkeypatch.setitem(pool.DEFAULTS, name, value)
    monkeypatch.setattr(asking, "CONNECT_S", 2)

    def ask() -> None:
        with asking.asking(far_url, name="late"):
            raise AssertionError("it came through")

    def ask_more() -> None:
        with asking.asking(far_url, name="early") as connection:
            connected.set()
            assert cut.wait(10)
            connection.execute("SELECT 1")

    connected, cut = threading.Event(), threading.Event()
    with ThreadPoolExecutor(3) as threads:
        early = threads.submit(timed, ask_more)
        assert connected.wait(10)
        with network.partition():
            cut.set()
            calls = [early, threads.submit(timed, ask), threads.submit(timed, lambda: onefold.migrate(far_url))]
            for answer, took_s in [call.result(60) for call in calls]:
                assert isinstance(answer, Retry), answer
                assert answer.code == "unavailable"
                assert took_s < 2 * 2 + BUSY_S
