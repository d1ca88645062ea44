"""HTTP requests to URLs that somebody else chose: bounded, and only to where they may go.

The address is judged at the one place that no answer of a name server gets around: where the socket for
it is made, for the very address that is then connected, at every connection. Redirects are answers, not
orders; proxies of the environment, cookies and compressed bodies are not used.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from onefold.core.errors import Denied, Invalid
from onefold.host.addresses import Network, Url, checked_url, is_public

CONNECTIONS_MAX = 1_000
KEEP_ALIVE_S = 15.0
RESPONSE_BYTES_MAX = 16_384
TIMEOUT_MS_MAX = 60_000
HEADER_BYTES_MAX = 8_190  # Of one line of the answer's head.


@dataclass(frozen=True, slots=True)
class Policy:
    """Where requests may go. The default is the open internet over TLS.

    Attributes:
        allow: networks ("10.1.0.0/16") that are allowed although they are not public. More lets whoever
            writes URLs reach more of what is inside.
        http: whether requests without TLS are sent.
        ports: the only ports, or None for any. Less keeps other services from being talked to.
        ssl_context: whose certificates are believed; None is the system's choice.
    """

    allow: Sequence[str] = ()
    http: bool = False
    ports: frozenset[int] | None = frozenset({443, 8443})
    ssl_context: ssl.SSLContext | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: the status, the headers, and the beginning of the body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class AddressRefused(OSError):  # noqa: N818  Named as it is told.
    """A name led to an address that the policy does not allow."""


class Unreached(Exception):  # noqa: N818  Told apart from an answer, whatever the answer.
    """There was no answer: no connection, no end of it in time, or none that is HTTP."""


class Outgoing:
    """A client with connections of its own; make, use and close it in one event loop."""

    def __init__(self, policy: Policy, *, timeout_ms: int, resolver: AbstractResolver | None = None) -> None:
        """Prepare.

        Args:
            policy: where requests may go.
            timeout_ms: for a whole request, from the name's resolution to the last byte read; 1 to 60,000.
            resolver: asks for addresses in place of the system; what it answers is judged all the same.
        """
        if not 1 <= timeout_ms <= TIMEOUT_MS_MAX:
            raise Invalid("timeout_ms is out of range.", timeout_ms=timeout_ms, most=TIMEOUT_MS_MAX)
        self._policy = policy
        self._allowed: tuple[Network, ...] = tuple(ipaddress.ip_network(network) for network in policy.allow)
        connector = aiohttp.TCPConnector(
            resolver=_Judging(resolver or ThreadedResolver(), self._judge), use_dns_cache=False,
            socket_factory=self._socket, limit=CONNECTIONS_MAX, keepalive_timeout=KEEP_ALIVE_S,
            ssl=policy.ssl_context or True,
        )  # fmt: skip
        self._session = aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False, auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=timeout_ms / 1_000), skip_auto_headers=("User-Agent",),
            max_line_size=HEADER_BYTES_MAX, max_field_size=HEADER_BYTES_MAX,
        )  # fmt: skip

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Send `body`; answer whatever comes back, also a redirect or an error.

        Raises:
            Invalid: the URL has no single reading, or a header does not fit into HTTP.
            Denied: code "destination"; the policy does not let the request go there. Nothing was sent.
            Unreached: there was no complete head of an answer in time.
        """
        target = self.admitted(url)
        try:
            async with self._session.post(
                URL(target.text, encoded=True), data=body, allow_redirects=False,
                headers={"Accept-Encoding": "identity", **headers},
            ) as response:  # fmt: skip
                found, ended = await _beginning(response.content)
                if not ended:
                    response.close()  # Not to be used again: the rest would have to be read.
                return Answer(response.status, response.headers, found)
        except TimeoutError:
            raise Unreached("The time was over.") from None
        except aiohttp.ClientConnectorError as error:
            if isinstance(error.os_error, AddressRefused):
                raise _denied(target) from None
            raise Unreached(f"No connection: {error.os_error}") from None
        except aiohttp.ClientError as error:
            raise Unreached(f"{type(error).__name__}: {error}") from None
        except AddressRefused:
            raise _denied(target) from None
        except ValueError as error:  # aiohttp's word for a header that would not stay one.
            raise Invalid("The request does not fit into HTTP.", why=str(error)[:200]) from None

    def admitted(self, url: str) -> Url:
        """The parts of the URL, if its scheme and port are allowed. Where its name leads shows at the connection.

        Raises:
            Invalid: it has no single reading.
            Denied: code "destination".
        """
        target = checked_url(url)
        ports = self._policy.ports
        if (target.scheme == "http" and not self._policy.http) or (ports is not None and target.port not in ports):
            raise _denied(target)
        return target

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    def _judge(self, host: str) -> None:
        """Refuse the address in text form, unless it is public or allowed."""
        address = ipaddress.ip_address(host)
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped  # The kernel connects to this one.
        if not is_public(address) and not any(address in network for network in self._allowed):
            raise AddressRefused("The address is not allowed.")

    def _socket(self, address: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, where = address
        self._judge(where[0])
        return socket.socket(family, kind, protocol)


class _Judging(AbstractResolver):
    """Refuses a name as soon as one of its addresses is refused: such a name means no good."""

    def __init__(self, inner: AbstractResolver, judge: Any) -> None:
        self._inner = inner
        self._judge = judge

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        for one in found:
            self._judge(one["host"])
        return found

    async def close(self) -> None:
        await self._inner.close()


async def _beginning(content: aiohttp.StreamReader) -> tuple[bytes, bool]:
    """At most the first 16 KiB, and whether that was all. A body that breaks off has a beginning too."""
    found = bytearray()
    try:
        while len(found) <= RESPONSE_BYTES_MAX:
            piece = await content.read(RESPONSE_BYTES_MAX + 1 - len(found))
            if not piece:
                return bytes(found), True
            found += piece
    except (TimeoutError, aiohttp.ClientError):
        # The status has arrived, and decides; a receiver that dawdles over the rest is not asked again.
        if isinstance(task := asyncio.current_task(), asyncio.Task) and task.cancelling():
            raise
    return bytes(found[:RESPONSE_BYTES_MAX]), False


def _denied(target: Url) -> Denied:
    return Denied("Requests are not sent there.", code="destination", host=target.host, port=target.port)
