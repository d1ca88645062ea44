"""The proxy that fails as told: each toxic, how proxies come and go, its HTTP API, and what it refuses."""

from __future__ import annotations

import asyncio
import gc
import http.client
import json
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import psycopg.conninfo
import pytest

import onefold
from onefold import Invalid, NotFound
from onefold.testing.postgres import Cluster
from onefold.testing.toxiproxy import TYPES, Toxiproxy
from onefold.testing.toxiproxy.proxies import Proxy
from onefold.testing.toxiproxy.toxics import toxic_of


@pytest.fixture(scope="module")
def echo() -> Iterator[str]:
    """Sends back what it gets, and ends when its client does."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(peer: socket.socket) -> None:
        with peer:
            try:
                while data := peer.recv(1 << 16):
                    peer.sendall(data)
            except OSError:
                return

    def accept() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(peer,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.fixture
def toxiproxy() -> Iterator[Toxiproxy]:
    with Toxiproxy() as found:
        yield found


@pytest.fixture
def port(toxiproxy: Toxiproxy, echo: str) -> int:
    return toxiproxy.create("echo", upstream=echo)


def dial(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def everything(peer: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count and (data := peer.recv(1 << 16)):
        found += data
    return found


def call(toxiproxy: Toxiproxy, verb: str, path: str, value: Any = None, **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(toxiproxy.url.removeprefix("http://"), timeout=20)
    body = value if isinstance(value, bytes) else b"" if value is None else json.dumps(value).encode()
    connection.request(verb, path, body, headers)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, json.loads(text) if text else None


def test_without_toxics_all_bytes_pass_both_ways_and_ends_are_told(port: int) -> None:
    sent = bytes(range(256)) * 4_096
    with dial(port) as peer:
        threading.Thread(target=lambda: (peer.sendall(sent), peer.shutdown(socket.SHUT_WR)), daemon=True).start()
        assert everything(peer, len(sent)) == sent
        assert peer.recv(1) == b""


def test_latency_delays_and_does_not_add_up(toxiproxy: Toxiproxy, port: int) -> None:
    with dial(port) as peer, toxiproxy.toxic("echo", "latency", latency=150):
        started = time.monotonic()
        for part in (b"a", b"b", b"c"):
            peer.sendall(part)
        assert everything(peer, 3) == b"abc"
        assert 0.15 <= time.monotonic() - started < 10


def test_bandwidth_limits_the_rate(toxiproxy: Toxiproxy, port: int) -> None:
    with dial(port) as peer, toxiproxy.toxic("echo", "bandwidth", rate=100):
        started = time.monotonic()
        peer.sendall(b"x" * 20_000)
        assert len(everything(peer, 20_000)) == 20_000
        assert time.monotonic() - started >= 0.19


def test_no_bandwidth_holds_everything_until_the_toxic_is_gone(toxiproxy: Toxiproxy, port: int) -> None:
    with dial(port) as peer:
        with toxiproxy.toxic("echo", "bandwidth", rate=0):
            peer.sendall(b"kept")
            peer.settimeout(0.2)
            with pytest.raises(TimeoutError):
                peer.recv(1)
        peer.settimeout(20)
        assert everything(peer, 4) == b"kept"


def test_slow_close_delays_the_end(toxiproxy: Toxiproxy, port: int) -> None:
    with dial(port) as peer, toxiproxy.toxic("echo", "slow_close", delay=200):
        peer.sendall(b"x")
        assert peer.recv(1) == b"x"
        started = time.monotonic()
        peer.shutdown(socket.SHUT_WR)
        assert peer.recv(1) == b""
        assert time.monotonic() - started >= 0.19


def test_a_timeout_drops_and_closes(toxiproxy: Toxiproxy, port: int) -> None:
    with dial(port) as peer, toxiproxy.toxic("echo", "timeout", timeout=100, stream="upstream"):
        peer.sendall(b"lost")
        try:
            assert peer.recv(10) == b""
        except ConnectionError:
            pass


def test_a_timeout_of_nothing_drops_until_it_is_gone(toxiproxy: Toxiproxy, port: int) -> None:
    with dial(port) as peer:
        with toxiproxy.toxic("echo", "timeout", timeout=0):
            peer.sendall(b"lost")
            peer.settimeout(0.2)
            with pytest.raises(TimeoutError):
                peer.recv(1)
        peer.settimeout(20)
        peer.sendall(b"next")
        assert everything(peer, 4) == b"next"


@pytest.mark.parametrize("timeout", [0, 50])
def test_a_reset_is_one(toxiproxy: Toxiproxy, port: int, timeout: int) -> None:
    with dial(port) as peer:
        peer.sendall(b"x")
        assert peer.recv(1) == b"x"
        with toxiproxy.toxic("echo", "reset_peer", timeout=timeout), pytest.raises(ConnectionResetError):
            while peer.recv(1):
                pass


def test_a_slicer_cuts_small(toxiproxy: Toxiproxy, echo: str, port: int) -> None:
    with dial(port) as peer, toxiproxy.toxic("echo", "slicer", average_size=10, size_variation=5, delay=2_000):
        peer.sendall(b"x" * 100)
        first = peer.recv(100)
        assert 1 <= len(first) < 100
        assert len(first) + len(everything(peer, 100 - len(first))) == 100


def test_a_limit_closes_after_as_many_bytes(toxiproxy: Toxiproxy, port: int) -> None:
    with dial(port) as peer, toxiproxy.toxic("echo", "limit_data", bytes=7):
        peer.sendall(b"0123456789")
        assert everything(peer, 10) == b"0123456"
        try:
            assert peer.recv(1) == b""
        except ConnectionError:
            pass


def test_toxicity_is_a_share_of_connections_that_a_seed_repeats(echo: str) -> None:
    def hit() -> list[bool]:
        found: list[bool] = []
        with Toxiproxy(seed=7) as toxiproxy:
            port = toxiproxy.create("echo", upstream=echo)
            with toxiproxy.toxic("echo", "limit_data", toxicity=0.5, bytes=1):
                for _ in range(20):
                    with dial(port) as peer:
                        peer.sendall(b"ab")
                        found.append(everything(peer, 2) == b"a")
        return found

    first = hit()
    assert 3 <= sum(first) <= 17
    assert hit() == first


def test_a_toxic_that_is_added_again_is_drawn_and_counts_anew(toxiproxy: Toxiproxy, port: int) -> None:
    def closed_after(count: int) -> None:
        peer.sendall(b"z" * (count + 1))
        assert everything(peer, count + 1) == b"z" * count

    with dial(port) as peer:
        with toxiproxy.toxic("echo", "limit_data", toxicity=0.0, bytes=1):
            peer.sendall(b"abcdef")
            assert everything(peer, 6) == b"abcdef"
        with toxiproxy.toxic("echo", "limit_data", bytes=5):
            closed_after(5)
    with dial(port) as peer:
        limit = {"type": "limit_data", "name": "limit", "toxicity": 0, "attributes": {"bytes": 3}}
        assert call(toxiproxy, "POST", "/proxies/echo/toxics", limit)[0] == 200
        peer.sendall(b"abcdef")
        assert everything(peer, 6) == b"abcdef"
        assert call(toxiproxy, "PATCH", "/proxies/echo/toxics/limit", {"toxicity": 1})[0] == 200
        closed_after(3)


def test_proxies_are_all_made_or_none_and_enabled_is_a_truth(toxiproxy: Toxiproxy) -> None:
    one = {"name": "a", "upstream": "127.0.0.1:1"}
    for wrong in ({"name": "b"}, {**one, "name": "b", "enabled": "no"}, {**one, "name": "b/c"}):
        assert call(toxiproxy, "POST", "/populate", [one, wrong])[0] == 400
    assert call(toxiproxy, "GET", "/proxies") == (200, {})
    assert call(toxiproxy, "POST", "/proxies", {**one, "enabled": None})[1]["enabled"] is True
    assert call(toxiproxy, "PATCH", "/proxies/a", {"enabled": "false"})[0] == 400
    assert call(toxiproxy, "GET", "/proxies/a")[1]["enabled"] is True


def test_down_cuts_off_and_lets_nobody_in(toxiproxy: Toxiproxy, port: int) -> None:
    with dial(port) as peer:
        peer.sendall(b"x")
        assert peer.recv(1) == b"x"
        with toxiproxy.down("echo"):
            try:
                assert peer.recv(1) == b""
            except ConnectionError:
                pass
            with toxiproxy.down("echo"):
                pass
            with pytest.raises(ConnectionError):
                dial(port)
    with dial(port) as peer:
        peer.sendall(b"y")
        assert peer.recv(1) == b"y"


def test_an_upstream_that_is_away_is_a_connection_that_ends(toxiproxy: Toxiproxy) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        away = free.getsockname()[1]
    port = toxiproxy.create("away", upstream=f"127.0.0.1:{away}")
    with dial(port) as peer:
        try:
            assert peer.recv(1) == b""
        except ConnectionError:
            pass


def test_the_http_api_is_the_one_that_clients_know(toxiproxy: Toxiproxy, echo: str) -> None:
    status, made = call(toxiproxy, "POST", "/proxies", {"name": "a", "listen": "127.0.0.1:0", "upstream": echo})
    assert status == 201
    assert made == {"name": "a", "listen": made["listen"], "upstream": echo, "enabled": True, "toxics": []}
    status, toxic = call(toxiproxy, "POST", "/proxies/a/toxics", {"type": "latency", "attributes": {"latency": 5}})
    expected = {
        "name": "latency_downstream", "type": "latency", "stream": "downstream", "toxicity": 1.0,
        "attributes": {"latency": 5, "jitter": 0},
    }  # fmt: skip
    assert (status, toxic) == (200, expected)
    assert call(toxiproxy, "POST", "/proxies/a/toxics", {"type": "latency"})[0] == 409
    changed = {**expected, "attributes": {"latency": 5, "jitter": 3}}
    assert call(toxiproxy, "PATCH", "/proxies/a/toxics/latency_downstream", {"attributes": {"jitter": 3}}) == (200, changed)
    assert call(toxiproxy, "GET", "/proxies/a/toxics/latency_downstream") == (200, changed)
    assert call(toxiproxy, "GET", "/proxies/a/toxics") == (200, [changed])
    assert call(toxiproxy, "GET", "/proxies")[1]["a"]["toxics"] == [changed]
    assert call(toxiproxy, "POST", "/proxies/a", {"enabled": False})[1]["enabled"] is False
    assert call(toxiproxy, "POST", "/reset") == (204, None)
    assert call(toxiproxy, "GET", "/proxies/a")[1] == {**made}
    populated = call(toxiproxy, "POST", "/populate", [{"name": "a", "listen": made["listen"], "upstream": echo}, {"name": "b", "upstream": echo}])
    assert populated[0] == 201
    assert [proxy["name"] for proxy in populated[1]["proxies"]] == ["a", "b"]
    assert call(toxiproxy, "DELETE", "/proxies/a/toxics/none")[0] == 404
    assert call(toxiproxy, "DELETE", "/proxies/a") == (204, None)
    status, answer = call(toxiproxy, "GET", "/proxies/a")
    assert (status, answer["status"], answer["error"]) == (404, 404, "proxy not found")
    assert call(toxiproxy, "GET", "/version")[0] == 200


@pytest.mark.parametrize("body", [
    b"", b"[]", b"{", b"[" * 10_000, b"x" * 70_000, {"name": "a"}, {"name": "", "upstream": "h:1"}, {"name": "a", "upstream": 1},
    {"name": "a/b", "upstream": "127.0.0.1:1"}, {"name": "a", "upstream": "127.0.0.1:1", "listen": "nowhere"},
    {"name": "a" * 201, "upstream": "127.0.0.1:1"}, {"name": "a", "upstream": "127.0.0.1:1", "listen": "127.0.0.1:99999"},
])  # fmt: skip
def test_a_proxy_that_cannot_be_is_refused(toxiproxy: Toxiproxy, body: Any) -> None:
    status, answer = call(toxiproxy, "POST", "/proxies", body)
    assert status in {400, 413}, answer
    assert answer["error"]
    assert call(toxiproxy, "GET", "/proxies") == (200, {})


@pytest.mark.parametrize("given", [
    {}, {"type": "fire"}, {"type": "latency", "stream": "sideways"}, {"type": "latency", "toxicity": 2}, {"type": "latency", "toxicity": "1"},
    {"type": "latency", "attributes": []}, {"type": "latency", "attributes": {"latency": -1}}, {"type": "latency", "attributes": {"latency": 1e9}},
    {"type": "latency", "attributes": {"rate": 1}}, {"type": "slicer"}, {"type": "slicer", "attributes": {"average_size": 5, "size_variation": 5}},
    {"type": "latency", "name": "a/b"}, {"type": "latency", "name": 5}, {"type": ["latency"]}, {"type": "latency", "stream": ["upstream"]}, {"type": "limit_data", "attributes": {"bytes": 1 << 50}},
])  # fmt: skip
def test_a_toxic_that_cannot_be_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        toxic_of(given)


def test_each_type_has_its_attributes() -> None:
    assert {name: set(msgspec.structs.asdict(kind())) for name, kind in TYPES.items()} == {
        "latency": {"latency", "jitter"}, "bandwidth": {"rate"}, "slow_close": {"delay"}, "timeout": {"timeout"},
        "reset_peer": {"timeout"}, "slicer": {"average_size", "size_variation", "delay"}, "limit_data": {"bytes"},
    }  # fmt: skip


def test_no_page_in_a_browser_steers_it(toxiproxy: Toxiproxy) -> None:
    assert call(toxiproxy, "POST", "/reset", **{"User-Agent": "Mozilla/5.0"})[0] == 403


def test_a_block_over_a_proxy_that_is_not_there_says_so(toxiproxy: Toxiproxy) -> None:
    with pytest.raises(NotFound), toxiproxy.toxic("none", "latency", latency=1):
        pass


def test_it_is_a_program_too() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "onefold.testing.toxiproxy", "--port", "0"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=20)
        connection.request("GET", "/version")
        assert connection.getresponse().status == 200
        connection.close()
        process.terminate()
        assert process.wait(20) == 0


def test_a_database_behind_it_is_lost_and_found_again(toxiproxy: Toxiproxy, postgres_cluster: Cluster, postgres_url: str) -> None:
    name = psycopg.conninfo.conninfo_to_dict(postgres_url)["dbname"]
    port = toxiproxy.create("postgres", upstream=f"unix:{postgres_cluster.socket_path}")
    with onefold.connect(f"postgresql://postgres@127.0.0.1:{port}/{name}?sslmode=disable&gssencmode=disable") as db:
        db.run(lambda tx: tx.add("a", 1))
        with toxiproxy.toxic("postgres", "reset_peer"):
            toxiproxy.create("other", upstream="127.0.0.1:1")  # The loop has been round.
        db.run(lambda tx: tx.add("a", 1))
        with toxiproxy.toxic("postgres", "slicer", average_size=3, size_variation=2):
            db.run(lambda tx: tx.add("a", 1))
        assert db.run(lambda tx: tx.total("a")) == 3


@pytest.mark.parametrize("rounds", range(5))
def test_who_comes_while_the_proxy_goes_down_is_cut_off_too(rounds: int) -> None:
    """Accepted, and not yet made, when the listener is closed: asyncio would leave it open, to nobody."""

    async def race() -> bytes:
        proxy = Proxy("p", listen="127.0.0.1:0", upstream="127.0.0.1:1", dice=random.Random(1))
        await proxy.start()
        with socket.create_connection(("127.0.0.1", int(proxy.listen.rpartition(":")[2]))) as client:
            for _ in range(rounds):
                await asyncio.sleep(0)
            await proxy.stop()
            client.setblocking(False)
            try:
                return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 1), 10)
            except ConnectionResetError:
                return b""

    assert asyncio.run(race()) == b""
    gc.collect()  # What was left open would say so now.
