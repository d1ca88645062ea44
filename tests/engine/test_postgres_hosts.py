"""Servers as they are met outside: over TLS with an authority of one's own, several hosts, the oldest version."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
from engine_words import INSERT, WAIT_S, get

import onefold
from onefold import Database, Invalid, Money, Retry, Tx, events, idempotency, jobs, ledger, locks
from onefold.engine.postgres import engine as engine_module
from onefold.engine.postgres.clock import ServerClock
from onefold.engine.postgres.pool import Pool, conninfo_of, hosts_of
from onefold.testing.postgres import DEBIANS, Cluster

OLDEST = 15
MANY = 20_000


# -- several hosts --------------------------------------------------------------------------------


def test_each_host_is_asked_alone_with_what_is_said_of_all() -> None:
    three = [host.decode() for host in hosts_of(conninfo_of("postgresql://u@a:1,b,c:3/x?target_session_attrs=read-write"))]
    assert [(f"host={h} " in text, f"port={p}" in text) for h, p, text in zip("abc", ("1", "''", "3"), three, strict=True)] == (
        [(True, True)] * 3
    ), three
    assert all("target_session_attrs=read-write" in text for text in three)
    two = [host.decode() for host in hosts_of(conninfo_of("postgresql://a,b/x?port=7"))]
    assert all(f"host={h} " in text and "port=7" in text for h, text in zip("ab", two, strict=True)), two
    assert len(hosts_of(conninfo_of("postgresql:///x"))) == 1


@pytest.mark.parametrize(
    "url",
    ["a,b/x?port=1,2,3", "a:1,b:2,c:3/x?hostaddr=127.0.0.1,127.0.0.2", "a/x?port=1,2", "a,b:x/x", "/x?hostaddr=127.0.0.1&port=1,2"],
)
@pytest.mark.parametrize("door", [onefold.connect, onefold.migrate])
def test_hosts_and_ports_that_do_not_fit_are_no_url(door: Callable[[str], object], url: str) -> None:
    with pytest.raises(Invalid) as refused:
        door(f"postgresql://{url}")
    assert refused.value.code == "url"


def test_hosts_are_asked_in_the_order_in_which_they_are_named(threads: ThreadPoolExecutor) -> None:
    asked: list[int] = []

    def turn_away(server: socket.socket) -> None:
        connection, _ = server.accept()
        asked.append(server.getsockname()[1])
        connection.close()

    with ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        for server in servers:
            server.settimeout(WAIT_S)
        ports = [server.getsockname()[1] for server in servers]
        asking = [threads.submit(turn_away, server) for server in servers]
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        pool = Pool(conninfo_of(f"postgresql://{hosts}/x?sslmode=disable&gssencmode=disable"), 3, ServerClock())
        with pytest.raises(Retry):
            pool.connect(time.monotonic_ns() + 60_000_000_000)
        for one in asking:
            one.result()
    assert asked == ports


def test_a_host_that_says_nothing_keeps_nobody_from_the_next(
    postgres_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "CONNECT_NS", 1_000_000_000)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        there = f"127.0.0.1:{postgres_cluster.port}"
        hosts = postgres_cluster.dsn("onefold_template", tcp=True).replace(there, f"127.0.0.1:{silent.getsockname()[1]},{there}")
        with onefold.connect(hosts) as db:
            started = time.monotonic()
            again = [db.options(deadline_ms=400).arun(get, "a") for _ in range(4)]

            async def crowd() -> list[int | None]:
                return await asyncio.gather(*again)

            assert asyncio.run(crowd()) == [None] * 4
            assert time.monotonic() - started < 5, "the host that took us last is asked first"


# -- TLS ------------------------------------------------------------------------------------------


def openssl(where: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=where, check=True, capture_output=True)  # noqa: S607


def authority(where: Path, name: str) -> None:
    openssl(
        where, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.crt", "-days", "2",
        "-subj", f"/CN={name}", "-addext", "basicConstraints=critical,CA:TRUE",
    )  # fmt: skip


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two authorities, and what the first one signed for a server called localhost."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl here to make certificates with")
    where = tmp_path_factory.mktemp("papers")
    authority(where, "ours")
    authority(where, "others")
    openssl(where, "req", "-newkey", "rsa:2048", "-nodes", "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost")
    (where / "names").write_text("subjectAltName=DNS:localhost\n")
    openssl(
        where, "x509", "-req", "-in", "server.csr", "-CA", "ours.crt", "-CAkey", "ours.key", "-CAcreateserial",
        "-out", "server.crt", "-days", "2", "-extfile", "names",
    )  # fmt: skip
    return where


@pytest.fixture(scope="module")
def debians() -> Iterator[Cluster]:
    """The oldest server that is promised; unlike the wheel's it can be made to speak TLS."""
    if not (Path(DEBIANS.format(OLDEST)) / "postgres").exists():
        pytest.skip(f"PostgreSQL {OLDEST} is not installed here (Debian 12: apt-get install postgresql-{OLDEST})")
    with Cluster(version=OLDEST, tcp=True) as cluster:
        onefold.migrate(cluster.create_database("oldest"))
        yield cluster


@pytest.fixture(scope="module")
def secured(debians: Cluster, papers: Path) -> Cluster:
    """A server that speaks TLS."""
    kept = debians.socket_path.parent  # A folder that its account can read.
    owner = kept.stat()
    for name in ("server.crt", "server.key"):
        shutil.copy(papers / name, kept / name)
        os.chown(kept / name, owner.st_uid, owner.st_gid)
        (kept / name).chmod(0o600)
    debians.settings |= {"ssl": "on", "ssl_cert_file": f"{kept}/server.crt", "ssl_key_file": f"{kept}/server.key"}
    debians.restart()
    return debians


def over_tls(cluster: Cluster, root: Path, *, host: str = "localhost") -> str:
    url = cluster.dsn("oldest", tcp=True).replace("@127.0.0.1", f"@{host}")
    return f"{url}?sslmode=verify-full&sslrootcert={root}"


def test_everything_goes_over_tls(secured: Cluster, papers: Path) -> None:
    url = over_tls(secured, papers / "ours.crt")
    with onefold.connect(url) as db, onefold.connect(url) as other:
        patient = db.options(deadline_ms=60_000)
        assert db.run(lambda tx: tx.one("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")) == (True,)
        text = "x" * 5_000_000
        assert patient.run(lambda tx: tx.one("SELECT :text", text=text)) == (text,)
        # More than the socket takes: it is written and read at once.
        patient.run(lambda tx: tx.many(INSERT, ({"key": f"{n:0200}", "total": n} for n in range(MANY))))
        assert len(patient.run(lambda tx: tx.all("SELECT key, total FROM onefold.counter_totals WHERE space = :space"))) == MANY
        with pytest.raises(Retry) as late:
            db.options(deadline_ms=100).run(lambda tx: tx.one("SELECT count(*) FROM generate_series(1, 10000000000)"))
        assert late.value.code == "deadline"
        waiter = db.waiter("t")
        other.run(lambda tx: tx.wake("t"))
        assert waiter.wait(10)
        with secured.admin() as admin:
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'oldest'")
        assert db.run(get, f"{7:0200}") == 7


def test_a_server_without_tls_is_refused_at_once(postgres_cluster: Cluster) -> None:
    for door in (onefold.connect, onefold.migrate):
        with pytest.raises(Invalid) as refused:
            door(f"{postgres_cluster.dsn('onefold_template', tcp=True)}?sslmode=require")
        assert refused.value.code == "refused"


def test_a_server_that_cannot_prove_who_it_is_is_refused_at_once(secured: Cluster, papers: Path) -> None:
    for url in (
        over_tls(secured, papers / "others.crt"), over_tls(secured, papers / "missing.crt"),
        over_tls(secured, papers / "server.key"), over_tls(secured, papers / "ours.crt", host="127.0.0.1"),
    ):  # fmt: skip
        for door in (onefold.connect, onefold.migrate):
            with pytest.raises(Invalid) as refused:
                door(url)
            assert refused.value.code == "refused"
            assert secured.password not in f"{refused.value!r} {refused.value.facts}"


# -- the oldest version -----------------------------------------------------------------------------


@pytest.fixture
def oldest(debians: Cluster) -> Iterator[Database]:
    """A database there."""
    with onefold.connect(debians.dsn("oldest"), rehearse=True) as db:
        yield db


@events.kind("test.sold")
class Sold(msgspec.Struct, frozen=True):
    order: str


@jobs.kind("test.receipt")
class Receipt(msgspec.Struct, frozen=True):
    order: str


def opens(tx: Tx) -> None:
    for account in ("bank", "till"):
        ledger.open_account(tx, account, currency="EUR", kind="unlimited")
    ledger.open_account(tx, "ana", currency="EUR")
    ledger.transfer(tx, "gift", debit="bank", credit="ana", amount=Money(600, "EUR"))


def sells(tx: Tx, order: str) -> str:
    def sell() -> str:
        lock = locks.try_acquire(tx, f"order/{order}", owner="till", ttl_ms=1_000)
        assert lock is not None
        ledger.transfer(tx, order, debit="ana", credit="till", amount=Money(100, "EUR"))
        events.append(tx, f"order/{order}", Sold(order=order))
        jobs.put(tx, Receipt(order=order), unique=order)
        locks.check(tx, lock)
        return order

    return idempotency.once(tx, order, sell, scope="sell", request=order, kind=str).value


def test_the_oldest_postgres_does_what_the_newest_does(oldest: Database) -> None:
    oldest.run(opens)

    async def crowd() -> list[Any]:
        return await asyncio.gather(*(oldest.arun(sells, str(n % 8)) for n in range(16)), return_exceptions=True)

    answers = asyncio.run(crowd())
    assert len({answer for answer in answers if isinstance(answer, str)}) == 6  # As much as she had.
    assert oldest.run(ledger.balance, "ana").posted == Money(0, "EUR")
    while oldest.options(isolation="repeatable_read").run(events.sequence):
        pass
    told = [(event.position, event.stream, event.version) for event in oldest.run(events.read_all).items]
    sold = sorted({answer for answer in answers if isinstance(answer, str)})
    assert sorted(stream for _, stream, _ in told) == [f"order/{order}" for order in sold]
    assert [(position, version) for position, _, version in told] == [(n, 1) for n in range(1, 7)]
    waiting = oldest.run(jobs.list_jobs, state="ready").items
    assert {job.unique for job in waiting} == set(sold)
