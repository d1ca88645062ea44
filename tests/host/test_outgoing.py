"""Attacks by whoever may choose a URL: each is refused, and nothing reaches the inside."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from onefold import Denied, Invalid
from onefold.host.addresses import checked_url, is_public
from onefold.host.outgoing import RESPONSE_BYTES_MAX, Answer, Outgoing, Policy, Unreached

ANYWHERE = Policy(http=True, ports=None)
LOOPBACK = Policy(allow=("127.0.0.1/32",), http=True, ports=None)

PRIVATE = [
    "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.1", "100.64.0.1", "169.254.169.254", "172.16.0.1", "172.31.255.255",
    "192.168.1.1", "192.0.0.192", "198.18.0.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255",
    "168.63.129.16", "192.0.2.1", "203.0.113.9",
    "::", "::1", "fe80::1", "fe80::1%1", "fc00::1", "fd00:ec2::254", "ff02::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8",
    "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::1", "2002:7f00:1::", "2001::1", "2001:db8::1", "100::1", "fec0::1",
]  # fmt: skip
PUBLIC = ["8.8.8.8", "1.1.1.1", "172.15.0.1", "172.32.0.1", "100.128.0.1", "2606:4700:4700::1111", "2a00:1450::1"]

BAD_URLS = [
    "", "example.com", "//example.com", "ftp://example.com/", "file:///etc/passwd", "gopher://example.com/",
    "HTTPS://example.com/", "https:///x", "https://user@example.com/", "https://user:word@example.com/",
    "https://example.com@127.0.0.1/", "https://example.com\\@127.0.0.1/", "https://example.com#@127.0.0.1/",
    "https://example.com/\r\nHost: inside", "https://example.com/\x00", "https://exa mple.com/", "https://example.com/ x",
    "https://2130706433/", "https://0x7f000001/", "https://0x7f.1/", "https://017700000001/", "https://127.1/",
    "https://0177.0.0.1/", "https://127.0.0.01/", "https://127.0.0.1./", "https://256.1.1.1/", "https://[::1/",
    "https://[::1%25eth0]/", "https://[fe80::1%1]/", "https://[1]/", "https://ⓔxample.com/", "https://example。com/",
    "https://example.com:0/", "https://example.com:65536/", "https://example.com:443x/", "https://example.com:/",
    "https://-x.com/", "https://x..com/", "https://example.com/%zz", "https://example.com/%", "https://example.com/\n",
    "https://" + "a" * 64 + ".com/", "https://" + ".".join(["a" * 60] * 5) + ".com/", "https://example.com/" + "x" * 2_000,
    "https://example.com/\u0100", "https://example.com/x#y", " https://example.com/", "https://example.com/\t",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_an_inner_address_is_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_an_outer_address_is_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("url", BAD_URLS)
def test_a_url_with_two_readings_is_none(url: str) -> None:
    with pytest.raises(Invalid) as refused:
        checked_url(url)
    assert refused.value.code in {"url", "url_host"}


@pytest.mark.parametrize(("url", "host", "port"), [
    ("https://example.com", "example.com", 443), ("http://example.com:8080/a/b?c=d&e=%20f", "example.com", 8080),
    ("https://xn--bcher-kva.example/", "xn--bcher-kva.example", 443), ("https://[2606:4700::1]:8443/x", "2606:4700::1", 8443),
    ("https://8.8.8.8/", "8.8.8.8", 443), ("https://localhost?x=1", "localhost", 443), ("https://a_b.example/", "a_b.example", 443),
])  # fmt: skip
def test_a_url_is_taken_apart(url: str, host: str, port: int) -> None:
    assert checked_url(url)[2:] == (host, port)


class Server:
    """Listens on an address; answers every connection with what it was given, and counts them."""

    def __init__(self, answer: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") -> None:
        self.answer = answer
        self.connections = 0
        self.received = b""
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0] or 0)
                self.received += head + await reader.readexactly(length)
                writer.write(self.answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass

    async def close(self) -> None:
        for writer in self.writers:
            writer.transport.abort()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)

    async def listen(self, host: str = "127.0.0.1", port: int = 0) -> tuple[asyncio.Server, int]:
        server = await asyncio.start_server(self.serve, host, port)
        return server, server.sockets[0].getsockname()[1]


class Fickle(AbstractResolver):
    """A name server that answers something else each time, as one that rebinds does."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_INET) -> list[ResolveResult]:
        answer = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        return [
            ResolveResult(hostname=host, host=one, port=port, family=socket.AF_INET6 if ":" in one else socket.AF_INET, proto=0, flags=0)
            for one in answer.split(",")
        ]

    async def close(self) -> None:
        """Nothing to close."""


def against(
    server: Server, policy: Policy, scenario: Callable[[Outgoing, int], Awaitable[None]],
    resolver: AbstractResolver | None = None, timeout_ms: int = 5_000,
) -> None:  # fmt: skip
    async def run() -> None:
        listening, port = await server.listen()
        out = Outgoing(policy, timeout_ms=timeout_ms, resolver=resolver)
        try:
            await scenario(out, port)
        finally:
            await out.close()
            listening.close()
            await server.close()

    asyncio.run(run())


@pytest.mark.parametrize("host", ["127.0.0.1", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "localhost", "[::1]", "0.0.0.0", "[::]"])
def test_this_machine_is_not_reached_by_any_of_its_names(host: str) -> None:
    server = Server()

    async def scenario(out: Outgoing, port: int) -> None:
        with pytest.raises(Denied) as refused:
            await out.post(f"http://{host}:{port}/", b"x", {})
        assert refused.value.code == "destination"

    against(server, ANYWHERE, scenario)
    assert server.connections == 0


@pytest.mark.parametrize("answer", ["127.0.0.1", "8.8.8.8,127.0.0.1", "::1", "::ffff:127.0.0.1", "169.254.169.254"])
def test_a_name_that_leads_inside_is_refused_as_a_whole(answer: str) -> None:
    server = Server()

    async def scenario(out: Outgoing, port: int) -> None:
        with pytest.raises(Denied):
            await out.post(f"http://hooks.example:{port}/", b"x", {})

    against(server, ANYWHERE, scenario, Fickle(answer))
    assert server.connections == 0


def test_a_name_that_is_bound_anew_is_judged_at_every_connection() -> None:
    """The first answer is allowed and works; by the second request the name leads to a neighbour of it."""
    server = Server(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
    resolver = Fickle("127.0.0.1", "127.0.0.2")

    async def scenario(out: Outgoing, port: int) -> None:
        inside = Server()
        listening, _ = await inside.listen("127.0.0.2", port)
        assert (await out.post(f"http://hooks.example:{port}/", b"x", {})).status == 200
        with pytest.raises(Denied):
            await out.post(f"http://hooks.example:{port}/", b"x", {})
        assert inside.connections == 0
        listening.close()

    against(server, LOOPBACK, scenario, resolver)
    assert (server.connections, resolver.asked) == (1, 2), "asked once a connection, and connected to that answer"


def test_the_socket_is_judged_even_if_the_resolver_is_not() -> None:
    """The last line: without the look at the name's answers the address is refused where its socket is made."""
    server = Server()

    async def scenario(out: Outgoing, port: int) -> None:
        out._session.connector._resolver = Fickle("127.0.0.1")  # type: ignore[union-attr]
        with pytest.raises(Denied):
            await out.post(f"http://hooks.example:{port}/", b"x", {})

    against(server, ANYWHERE, scenario)
    assert server.connections == 0


def test_a_redirect_is_an_answer() -> None:
    server = Server(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n")

    async def scenario(out: Outgoing, port: int) -> None:
        assert (await out.post(f"http://127.0.0.1:{port}/", b"x", {})).status == 302

    against(server, LOOPBACK, scenario)
    assert server.received.count(b"POST ") == 1


def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    server = Server()

    async def scenario(out: Outgoing, port: int) -> None:
        assert (await out.post(f"http://127.0.0.1:{port}/", b"x", {})).body == b"ok"

    against(server, LOOPBACK, scenario)


@pytest.mark.parametrize("header", [{"X-A": "b\r\nHost: inside"}, {"X-A\r\nX-B": "c"}, {"X-A": "b\nX-C: d"}, {"X-A": "\0"}])
def test_a_header_stays_one_header(header: dict[str, str]) -> None:
    server = Server()

    async def scenario(out: Outgoing, port: int) -> None:
        with pytest.raises(Invalid):
            await out.post(f"http://127.0.0.1:{port}/", b"x", header)

    against(server, LOOPBACK, scenario)
    assert server.received == b""


def test_a_policy_closes_schemes_and_ports() -> None:
    async def scenario(out: Outgoing, _port: int) -> None:
        for url in ("http://example.com/", "https://example.com:22/", "https://example.com:6379/"):
            with pytest.raises(Denied):
                out.admitted(url)
        assert out.admitted("https://example.com:8443/").port == 8443

    against(Server(), Policy(), scenario)


def test_of_a_huge_body_the_beginning_is_read() -> None:
    huge = b"HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n" + b"x" * 4_000_000
    found: list[Answer] = []

    async def scenario(out: Outgoing, port: int) -> None:
        found.append(await out.post(f"http://127.0.0.1:{port}/", b"x", {}))

    against(Server(huge), LOOPBACK, scenario)
    assert found[0].status == 200
    assert len(found[0].body) == RESPONSE_BYTES_MAX


def test_a_compressed_body_is_left_as_it_is() -> None:
    bomb = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00"

    async def scenario(out: Outgoing, port: int) -> None:
        assert (await out.post(f"http://127.0.0.1:{port}/", b"x", {})).body == b"\x1f\x8b\x08\x00"

    against(Server(bomb), LOOPBACK, scenario)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nX-Y: ", b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000])
def test_no_head_in_time_is_no_answer(answer: bytes) -> None:
    async def scenario(out: Outgoing, port: int) -> None:
        with pytest.raises(Unreached):
            await out.post(f"http://127.0.0.1:{port}/", b"x", {})

    against(Server(answer), LOOPBACK, scenario, timeout_ms=300)


def test_a_body_that_stops_in_the_middle_does_not_hold_us() -> None:
    async def scenario(out: Outgoing, port: int) -> None:
        answer = await out.post(f"http://127.0.0.1:{port}/", b"x", {})
        assert (answer.status, answer.body) == (200, b"abc")

    against(Server(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"), LOOPBACK, scenario, timeout_ms=300)


def test_the_system_resolver_is_the_one_that_is_judged() -> None:
    async def scenario(out: Outgoing, _port: int) -> None:
        assert isinstance(out._session.connector._resolver._inner, ThreadedResolver)  # type: ignore[union-attr]

    against(Server(), Policy(), scenario)
