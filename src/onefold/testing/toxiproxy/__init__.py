"""A TCP proxy that fails as told, with the HTTP API of toxiproxy 2 (Shopify): put it between any two parties."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Generator
from typing import Any, Self

from onefold.core.errors import NotFound
from onefold.testing.toxiproxy.api import Api, ApiServer, runner
from onefold.testing.toxiproxy.proxies import Proxies
from onefold.testing.toxiproxy.toxics import TYPES, toxic_of

__all__ = ["TYPES", "Toxiproxy"]


class Toxiproxy:
    """Runs proxies on a thread of its own until the end of the block.

        with Toxiproxy() as toxiproxy:
            port = toxiproxy.create("database", upstream="127.0.0.1:5432")
            with toxiproxy.toxic("database", "latency", latency=100):
                ...

    Args:
        port: of the HTTP API, on loopback; 0 takes a free one. Afterwards `url` says where it is.
        seed: of the dice for `toxicity`, `jitter` and `size_variation`.
    """

    def __init__(self, *, port: int = 0, seed: int = 0) -> None:
        self._port = port
        self._loop = asyncio.new_event_loop()
        self._run = runner(self._loop)
        self._proxies = Proxies(seed)
        self._thread = threading.Thread(target=self._loop.run_forever, name="toxiproxy", daemon=True)
        self._server: ApiServer | None = None
        self._downs = Counter[str]()  # Blocks of `down` that each proxy is in.
        self.url = ""

    def __enter__(self) -> Self:
        """Start; OSError when the port is taken."""
        self._server = ApiServer(self._port, Api(self._proxies), self._run)
        self._thread.start()
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="toxiproxy-api", daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        """Cut everybody off."""
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()
        self._run(self._proxies.stop())
        self._run(_end_tasks())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def create(self, name: str, *, upstream: str, listen: str = "127.0.0.1:0") -> int:
        """A proxy to `upstream` ("HOST:PORT", or "unix:PATH"); answers the port it listens on."""
        proxy = self._run(self._proxies.create({"name": name, "upstream": upstream, "listen": listen}))
        return int(proxy.listen.rpartition(":")[2])

    def lead(self, name: str, upstream: str) -> None:
        """Another upstream for the proxy, on the same port; whoever is in is cut off."""
        self._run(self._proxies.update(name, {"upstream": upstream}))

    def remove(self, name: str) -> None:
        """No more of the proxy; whoever is in is cut off. NotFound when there is none."""
        self._run(self._proxies.remove(name))

    @contextlib.contextmanager
    def toxic(
        self, proxy: str, type: str, *, stream: str = "downstream", toxicity: float = 1.0, **attributes: int
    ) -> Generator[None]:
        """This toxic for the time of the block; see `TYPES` for their attributes."""
        made = toxic_of({"type": type, "stream": stream, "toxicity": toxicity, "attributes": attributes})
        found = self._proxies.get(proxy)
        self._run(_called(found.add, made))
        try:
            yield
        finally:
            with contextlib.suppress(NotFound):  # Somebody reset it.
                self._run(_called(found.remove, made.name))

    @contextlib.contextmanager
    def down(self, proxy: str) -> Generator[None]:
        """The proxy is down for the time of the block: nobody gets in, and whoever is in is cut off.

        Within another such block it stays so until the outer one ends.
        """
        self._run(self._proxies.update(proxy, {"enabled": False}))
        self._downs[proxy] += 1
        try:
            yield
        finally:
            self._downs[proxy] -= 1
            if not self._downs[proxy]:
                with contextlib.suppress(NotFound):  # Somebody removed it.
                    self._run(self._proxies.update(proxy, {"enabled": True}))


async def _called(fn: Any, *args: Any) -> Any:
    return fn(*args)


async def _end_tasks() -> None:
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0)  # Transports that were given up close in the loop's next round.
