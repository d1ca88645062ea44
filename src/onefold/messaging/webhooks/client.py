"""The dispatcher: delivers what transactions sent, and drains when it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING, Any, Self

from onefold.core.errors import Invalid
from onefold.core.loop import Loop
from onefold.engine.database import Database
from onefold.messaging.webhooks.keys import Keys
from onefold.messaging.webhooks.tidy import sweep

if TYPE_CHECKING:
    from onefold.host.outgoing import Policy
    from onefold.messaging.webhooks.service import Service

LOOPS = (Loop("webhooks.sweep", sweep, every_ms=60_000),)


class Dispatcher:
    """Delivers messages of all spaces to their endpoints. Needs the extra `onefold[webhooks]`.

        async with webhooks.Dispatcher(db, keys):
            await serve_http()

        asyncio.run(webhooks.Dispatcher(db, keys).run_until_stopped())     # a process of its own

    Several may run, in one process or many: an endpoint has one of them at a time.

    Args:
        db: where the messages are.
        keys: what requests are signed with.
        policy: where requests may go; None is the open internet over TLS. See `host.outgoing.Policy`.
        timeout_ms: of one request as a whole. More: patience with slow receivers; less: slots come free
            sooner. 100 to 60,000.
        concurrency: requests at once over all endpoints, 1 to 1,000; each endpoint has a limit of its own.
        lease_ms: after this long without a renewal (three per lease) others take the endpoints over. More:
            later after a crash; less: a stall makes deliveries double. 1 s to 10 min.
        poll_ms: how long a lost wake-up can go unnoticed, 10 to 60,000.
        drain_ms: how long stopping lets requests end, up to 10 min; others are made again by the next one.
        resolver: an `aiohttp.abc.AbstractResolver` in place of the system's; what it answers is judged too.

    Raises:
        Invalid: a setting is out of range.
    """

    def __init__(
        self,
        db: Database,
        keys: Keys,
        *,
        policy: Policy | None = None,
        timeout_ms: int = 15_000,
        concurrency: int = 256,
        lease_ms: int = 30_000,
        poll_ms: int = 1_000,
        drain_ms: int = 15_000,
        resolver: Any = None,
    ) -> None:
        # Late: programs that only send need no HTTP client.
        from onefold.host.outgoing import Policy
        from onefold.messaging.webhooks.settings import Settings

        self._db = db
        self._keys = keys
        self._settings = Settings(
            policy=policy or Policy(), timeout_ms=timeout_ms, concurrency=concurrency, lease_ms=lease_ms,
            poll_ms=poll_ms, drain_ms=drain_ms, resolver=resolver,
        )  # fmt: skip
        self._service: Service | None = None

    async def __aenter__(self) -> Self:
        """Start in the running event loop."""
        from onefold.messaging.webhooks.service import Service

        if self._service is not None:
            raise Invalid("The dispatcher runs already.", code="running")
        service = Service(self._db, self._keys, self._settings)
        await service.start()
        self._service = service
        return self

    async def __aexit__(self, *_: object) -> None:
        """Drain and stop."""
        service, self._service = self._service, None
        if service is not None:
            await service.stop()

    async def run_until_stopped(self) -> None:
        """Run until SIGTERM or SIGINT, then drain. In the main thread only."""
        loop = asyncio.get_running_loop()
        asked = asyncio.Event()
        handled = (signal.SIGTERM, signal.SIGINT)
        for number in handled:
            loop.add_signal_handler(number, asked.set)
        try:
            async with self:
                await asked.wait()
        finally:
            for number in handled:
                with contextlib.suppress(ValueError):
                    loop.remove_signal_handler(number)

    def numbers(self) -> dict[str, float]:
        """What it does and did since its start; empty while it is stopped."""
        return self._service.numbers() if self._service is not None else {}
