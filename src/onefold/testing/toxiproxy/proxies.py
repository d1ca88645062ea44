"""Proxies by name: each listens, connects to its upstream for whoever comes, and keeps its toxics."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Mapping
from typing import Any

import msgspec

from onefold.core.errors import Conflict, Invalid, NotFound
from onefold.testing.toxiproxy.link import Connection
from onefold.testing.toxiproxy.toxics import NAME_LENGTH_MAX, Toxic

PROXIES_MAX = 100
TOXICS_MAX = 100  # Of one proxy.
CONNECTIONS_MAX = 1_000  # Of one proxy; more are refused.
ADDRESS_LENGTH_MAX = 300
CONNECT_S = 10.0

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Proxy:
    """One party's way to another. All of it runs on one loop."""

    def __init__(self, name: str, *, listen: str, upstream: str, dice: random.Random) -> None:
        self.name = name
        self.listen = listen
        self.upstream = upstream
        self.toxics: dict[str, Toxic] = {}
        self._dice = dice
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()

    @property
    def enabled(self) -> bool:
        """Whether it listens."""
        return self._server is not None

    async def start(self) -> None:
        """Listen; Conflict where the address cannot be had. Afterwards `listen` has the real port."""
        if self._server is not None:
            return
        host, port = _host_and_port(self.listen)
        try:
            self._server = await asyncio.start_server(self._accept, host, port)
        except OSError as error:
            raise Conflict("The proxy cannot listen there.", code="listen", at=self.listen, why=str(error)) from None
        self.listen = f"{host}:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        """Be down: nobody gets in, and whoever is in is cut off."""
        server, self._server = self._server, None
        if server is not None:
            loop = asyncio.get_running_loop()
            for listener in server.sockets:
                loop.remove_reader(listener)
            await asyncio.sleep(0)  # Who was accepted a moment ago gets a transport; a closed server gives none.
            server.close()
        for connection in tuple(self._connections):
            connection.close()

    def add(self, toxic: Toxic) -> None:
        """From now on, for connections that are there too; Conflict when the name is taken."""
        if toxic.name in self.toxics:
            raise Conflict("toxic already exists", code="toxic_exists", toxic=toxic.name)
        if len(self.toxics) >= TOXICS_MAX:
            raise Invalid("A proxy has at most 100 toxics.", most=TOXICS_MAX)
        self.put(toxic)

    def put(self, toxic: Toxic) -> None:
        """The toxic, instead of the one of its name."""
        self.toxics[toxic.name] = toxic
        self._refresh()

    def remove(self, name: str) -> None:
        """No more of it; NotFound when there is none."""
        self.toxic(name)
        del self.toxics[name]
        self._refresh()

    def clear(self) -> None:
        """No toxics."""
        self.toxics.clear()
        self._refresh()

    def toxic(self, name: str) -> Toxic:
        """The toxic of this name; NotFound when there is none."""
        if name not in self.toxics:
            raise NotFound("toxic not found", code="toxic", toxic=name)
        return self.toxics[name]

    def described(self) -> dict[str, Any]:
        """As the API shows it."""
        toxics = [msgspec.to_builtins(toxic) for toxic in self.toxics.values()]
        addresses = {"listen": self.listen, "upstream": self.upstream}
        return {"name": self.name, **addresses, "enabled": self.enabled, "toxics": toxics}

    def _refresh(self) -> None:
        for connection in tuple(self._connections):
            connection.refresh()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server: Streams | None = None
        try:
            if len(self._connections) < CONNECTIONS_MAX:
                with contextlib.suppress(OSError, TimeoutError):
                    server = await asyncio.wait_for(_connect(self.upstream), CONNECT_S)
            if server is not None and self.enabled:
                await self._carry((reader, writer), server)
        except asyncio.CancelledError:
            pass  # The proxies end; Python 3.11 would print what becomes of a server's task.
        finally:
            for end in (writer, server[1] if server else writer):
                end.transport.abort()

    async def _carry(self, client: Streams, server: Streams) -> None:
        connection = Connection(client, server, lambda: tuple(self.toxics.values()), self._dice)
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)


class Proxies:
    """All of them."""

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)  # noqa: S311  So that a test can be run again.
        self._all: dict[str, Proxy] = {}

    def get(self, name: str) -> Proxy:
        """The proxy of this name; NotFound when there is none."""
        if name not in self._all:
            raise NotFound("proxy not found", code="proxy", proxy=name)
        return self._all[name]

    def every(self) -> list[Proxy]:
        """In the order of their making."""
        return list(self._all.values())

    async def create(self, given: Mapping[str, Any]) -> Proxy:
        """A new proxy, which listens unless `enabled` is false.

        Raises:
            Invalid: a field is missing or out of range.
            Conflict: the name is taken, or the address cannot be had.
        """
        name, listen, upstream, enabled = _asked(given)
        if name in self._all:
            raise Conflict("proxy already exists", code="proxy_exists", proxy=name)
        if len(self._all) >= PROXIES_MAX:
            raise Invalid("There are at most 100 proxies.", most=PROXIES_MAX)
        proxy = Proxy(name, listen=listen, upstream=upstream, dice=self._dice)
        if enabled:
            await proxy.start()
        self._all[name] = proxy
        return proxy

    async def update(self, name: str, given: Mapping[str, Any]) -> Proxy:
        """Another address cuts off whoever is in; `enabled` brings it down or up."""
        proxy = self.get(name)
        listen, upstream = given.get("listen") or proxy.listen, given.get("upstream") or proxy.upstream
        _host_and_port(listen)
        enabled = _flag(given, "enabled", proxy.enabled)
        if (listen, upstream) != (proxy.listen, proxy.upstream) or not enabled:
            await proxy.stop()
        proxy.listen, proxy.upstream = listen, upstream
        if enabled:
            await proxy.start()
        return proxy

    async def populate(self, given: list[Mapping[str, Any]]) -> list[Proxy]:
        """Make them, instead of those of their names that are otherwise.

        Raises:
            Invalid: a field of one of them is missing or out of range; none is made.
            Conflict: an address cannot be had; those before it are made.
        """
        made: list[Proxy] = []
        asked = [_asked(one) for one in given]
        for (name, _, _, enabled), one in zip(asked, given, strict=True):
            old = self._all.get(name)
            if old is not None and (old.upstream, old.listen) == (one.get("upstream"), one.get("listen")):
                made.append(await self.update(old.name, {"enabled": enabled}))
                continue
            if old is not None:
                await self.remove(old.name)
            made.append(await self.create(one))
        return made

    async def remove(self, name: str) -> None:
        """Bring it down and forget it."""
        await self.get(name).stop()
        del self._all[name]

    async def reset(self) -> None:
        """All are up, and without toxics."""
        for proxy in self.every():
            proxy.clear()
            await proxy.start()

    async def stop(self) -> None:
        """All are down."""
        for proxy in self.every():
            await proxy.stop()


async def _connect(upstream: str) -> Streams:
    if upstream.startswith("unix:"):
        return await asyncio.open_unix_connection(upstream.removeprefix("unix:"))
    return await asyncio.open_connection(*_host_and_port(upstream))


def _host_and_port(address: Any) -> tuple[str, int]:
    if type(address) is not str or len(address) > ADDRESS_LENGTH_MAX:
        raise Invalid("An address is HOST:PORT.", code="address")
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise Invalid("An address is HOST:PORT.", code="address", given=address)
    return host.removeprefix("[").removesuffix("]"), int(port)


def _asked(given: Mapping[str, Any]) -> tuple[str, str, str, bool]:
    """Name, where to listen, upstream and whether it does, of a proxy to be made."""
    name, upstream = _text(given, "name"), _text(given, "upstream")
    listen = given.get("listen") or "127.0.0.1:0"
    _host_and_port(listen)
    if len(name) > NAME_LENGTH_MAX or "/" in name:
        raise Invalid("A proxy's name has 1 to 200 characters and no slash.", code="proxy_name")
    return name, listen, upstream, _flag(given, "enabled", default=True)


def _flag(given: Mapping[str, Any], field: str, default: bool) -> bool:  # noqa: FBT001
    value = given.get(field)
    if value is None:
        return default
    if type(value) is not bool:
        raise Invalid("This field is true or false.", code="field", field=field)
    return value


def _text(given: Mapping[str, Any], field: str) -> str:
    value = given.get(field)
    if type(value) is not str or not value:
        raise Invalid("missing required field", code="field", field=field)
    return value
