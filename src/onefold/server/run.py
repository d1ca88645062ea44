"""One server process: uvicorn around the app, and an end in good order.

SIGTERM: /readyz says 503 for `lame_duck_ms`, so that whoever sends requests notices; then no
more connections are taken, event streams end, running requests finish within `drain_ms`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import signal
import socket
from collections.abc import Callable, Generator
from dataclasses import dataclass

import uvicorn

from onefold.core.errors import Invalid
from onefold.host.processes import allow_descriptors
from onefold.server.app import App
from onefold.server.protocol import BoundedProtocol, State

BACKLOG = 2_048
KEEP_ALIVE_S = 75  # Longer than common proxies keep theirs, so that they close first.
CONNECTIONS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Limits:
    """How a server process ends and what it takes on.

    Attributes:
        lame_duck_ms: from SIGTERM to the last connection taken; more lets slower load balancers
            notice /readyz, less ends sooner. Ctrl-C does not wait.
        drain_ms: for running requests after that; what is left then is cut off.
        connections_max: open connections, and at most three quarters of the files that the process may
            open: the database needs some too. One more takes the place of the one that has waited longest
            without a request; where all have had one it is answered 503.
    """

    lame_duck_ms: int = 500
    drain_ms: int = 20_000
    connections_max: int = CONNECTIONS_MAX


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Invalid when the address cannot be had."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise Invalid("The address cannot be used.", host=host, port=port, why=str(error)) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise Invalid("The address cannot be used.", host=host, port=port, why=error.strerror or str(error)) from error
    listener.setblocking(False)
    return listener


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def url_of(listener: socket.socket) -> str:
    """Where a listening socket is reached."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """uvicorn's server; signals and draining are ours."""

    def __init__(self, app: App, limits: Limits, *, ready: Callable[[], object] | None = None) -> None:
        connections_max = min(limits.connections_max, allow_descriptors(-(-limits.connections_max * 4 // 3)) * 3 // 4)
        super().__init__(
            uvicorn.Config(
                app,  # type: ignore[arg-type]  Ours says MutableMapping where uvicorn lists every message.
                http=BoundedProtocol, ws="none", lifespan="off", log_config=None, access_log=False,
                proxy_headers=False, server_header=False, limit_concurrency=max(1, connections_max),
                timeout_keep_alive=KEEP_ALIVE_S, timeout_graceful_shutdown=max(1, limits.drain_ms // 1_000),
                backlog=BACKLOG,
            )
        )
        self.server_state = State()
        self._app = app
        self._limits = limits
        self._ready = ready
        self._ending: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Signals are taken in `startup`: uvicorn's way dies of the signal after a graceful end."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Take connections, then tell whoever waits for it."""
        await super().startup(sockets)
        loop = self._loop = asyncio.get_running_loop()
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):  # Windows, or not the main thread.
            loop.add_signal_handler(signal.SIGTERM, self.end)
            loop.add_signal_handler(signal.SIGINT, self.end_now)
        if self._ready is not None:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the event streams first: they would never end by themselves."""
        await self._app.drain()
        await super().shutdown(sockets)

    def end(self) -> None:
        """Begin to end: not ready at once, closed after the lame-duck time. On the loop's thread."""
        if self._ending is None:
            self._ending = asyncio.get_running_loop().create_task(self._end())

    def end_from_thread(self) -> None:
        """`end`, from another thread."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # Over already.
                self._loop.call_soon_threadsafe(self.end)

    def end_now(self) -> None:
        """End without the lame-duck time; a second call does not wait for requests either."""
        if self.should_exit:
            self.force_exit = True
        self._app.draining = True
        self.should_exit = True

    async def _end(self) -> None:
        self._app.draining = True
        await asyncio.sleep(self._limits.lame_duck_ms / 1_000)
        self.should_exit = True


def run_server(server: Server, listener: socket.socket) -> None:
    """Serve until a signal ends it, on uvloop where there is one."""
    try:
        import uvloop

        factory = uvloop.new_event_loop
    except ImportError:
        factory = asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(server.serve(sockets=[listener]))
