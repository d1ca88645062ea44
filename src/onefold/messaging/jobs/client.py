"""The worker: takes jobs, runs their handlers, and drains when it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from onefold.core.errors import Invalid
from onefold.core.loop import Loop
from onefold.engine.database import Database
from onefold.messaging.jobs.leases import rescue
from onefold.messaging.jobs.service import Service
from onefold.messaging.jobs.settings import Settings
from onefold.messaging.jobs.upkeep import promote_all, sweep

_log = logging.getLogger("onefold.jobs")

# A worker promotes and rescues by itself; these serve jobs while no worker is there to do so.
LOOPS = [
    Loop("jobs.promote", promote_all, every_ms=1_000, topic="jobs/scheduled"),
    Loop("jobs.rescue", rescue, every_ms=10_000),
    Loop("jobs.sweep", sweep, every_ms=60_000),
]


class Worker:
    """Runs jobs of the kinds that it has handlers for.

        async with jobs.Worker(db, io={SendReceipt: send_receipt}):
            await serve_http()

        jobs.Worker(db, tx={PostInvoice: post_invoice}).start()     # in a thread of its own
        asyncio.run(worker.run_until_stopped())                     # a process of its own

    Args:
        db: where the jobs are.
        io: for each kind, a handler that works outside of transactions: `async def f(job: Run[K])`,
            or `def f(job: ThreadRun[K])`, which gets a thread. It may end with `job.finish(fn, ...)`;
            else the job is finished when it returns.
        tx: for each kind, a function `f(tx, args)` that runs inside the completing transaction.
        queues: served in turn.
        concurrency: how many jobs run at once, 1 to 1,000. Each plain `io` handler takes a thread.
        space: the only space to serve; None serves all.
        lease_ms: after this long without a heartbeat (three per lease) others take the jobs over.
            More: later rescue after a crash. Less: a stall costs attempts. 1 s to 1 h.
        poll_ms: how long a lost wake-up can go unnoticed, 10 to 60,000.
        drain_ms: how long `stop` lets running jobs end before it cancels them and hands them back, 0 to
            3,600,000. 20 s later it has returned, also when a handler swallows its cancellation or the
            database is away: what still runs is left alone and others take its job over.

    Raises:
        Invalid: a setting is out of range, or a class is no kind.
    """

    def __init__(
        self,
        db: Database,
        *,
        io: Mapping[type[Any], Callable[..., Any]] | None = None,
        tx: Mapping[type[Any], Callable[..., Any]] | None = None,
        queues: Sequence[str] = ("default",),
        concurrency: int = 10,
        space: str | None = None,
        lease_ms: int = 30_000,
        poll_ms: int = 1_000,
        drain_ms: int = 30_000,
    ) -> None:
        self._db = db
        self._settings = Settings(
            io=io or {}, tx=tx or {}, queues=queues, concurrency=concurrency, space=space, lease_ms=lease_ms,
            poll_ms=poll_ms, drain_ms=drain_ms,
        )  # fmt: skip
        self._service: Service | None = None
        self._thread: threading.Thread | None = None
        self._stop_asked = threading.Event()
        self._wake_stop: Callable[[], object] | None = None

    # -- in the program's own event loop -----------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Start in the running event loop."""
        self._fresh()
        service = Service(self._db, self._settings)
        await service.start()
        self._service = service
        return self

    async def __aexit__(self, *_: object) -> None:
        """Drain and stop."""
        service, self._service = self._service, None
        if service is not None:
            await service.stop(drain_ms=self._settings.drain_ms)

    # -- a process of its own ----------------------------------------------------------------------

    async def run_until_stopped(self) -> None:
        """Run until SIGTERM, SIGINT or `request_stop`, then drain. A second signal hands back at once."""
        loop = asyncio.get_running_loop()
        asked = asyncio.Event()
        self._wake_stop = lambda: loop.call_soon_threadsafe(asked.set)
        handled: list[signal.Signals] = []
        # Signals reach the main thread only; elsewhere `request_stop` is the way.
        with contextlib.suppress(ValueError, RuntimeError, NotImplementedError):
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, asked.set)
                handled.append(number)
        try:
            self._fresh()
            service = Service(self._db, self._settings)
            await service.start()
            self._service = service
            if self._stop_asked.is_set():
                asked.set()
            await asked.wait()
            asked.clear()
            self._service = None
            await _first_of(service.stop(drain_ms=self._settings.drain_ms), asked.wait(), service.hurry)
        finally:
            self._wake_stop = None
            self._stop_asked.clear()
            for number in handled:
                loop.remove_signal_handler(number)

    def request_stop(self) -> None:
        """Ask `run_until_stopped` or the thread to drain and end; from any thread. Does not wait."""
        self._stop_asked.set()
        if (wake := self._wake_stop) is not None:
            with contextlib.suppress(RuntimeError):  # The loop has ended by itself.
                wake()

    # -- in a thread of its own ---------------------------------------------------------------------

    def start(self) -> Self:
        """Start in a new thread; answer once jobs are being claimed.

        Raises:
            Whatever starting raised.
        """
        if self._thread is not None and self._thread.is_alive():
            raise Invalid("The worker runs already.", code="running")
        started = threading.Event()
        failed: list[BaseException] = []

        async def serve() -> None:
            runs = asyncio.ensure_future(self.run_until_stopped())
            while self._service is None and not runs.done():
                await asyncio.wait({runs}, timeout=0.001)
            started.set()
            await runs

        def run() -> None:
            try:
                asyncio.run(serve())
            except BaseException as error:
                failed.append(error)
            finally:
                started.set()

        self._thread = threading.Thread(target=run, name="onefold-jobs", daemon=True)
        self._thread.start()
        started.wait()
        if failed:
            self._thread = None
            raise failed[0]
        return self

    def stop(self) -> None:
        """Drain, stop, and wait for the thread that `start` began.

        It waits for 20 s past `drain_ms` at most. A thread that a handler blocks longer is left
        alone, with its lease given back; the worker can be started again once that thread has ended.
        """
        thread, service = self._thread, self._service
        if thread is None:
            return
        self.request_stop()
        thread.join(Service.stop_within_s(self._settings.drain_ms))
        if thread.is_alive():
            _log.error("a handler blocks the worker's thread, which is left alone")
            if service is not None:
                service.leave()
        else:
            self._thread = None

    def __enter__(self) -> Self:
        """`start`."""
        return self.start()

    def __exit__(self, *_: object) -> None:
        """`stop`."""
        self.stop()

    def numbers(self) -> dict[str, float]:
        """What the worker does and did since its start; empty while it is stopped."""
        return self._service.numbers() if self._service is not None else {}

    def _fresh(self) -> None:
        if self._service is not None:
            raise Invalid("The worker runs already.", code="running")


async def _first_of(stop: Any, asked: Any, hurry: Callable[[], object]) -> None:
    """Await `stop`; when `asked` comes first, hurry it."""
    stopping, asking = asyncio.ensure_future(stop), asyncio.ensure_future(asked)
    await asyncio.wait({stopping, asking}, return_when=asyncio.FIRST_COMPLETED)
    if not stopping.done():
        hurry()
    asking.cancel()
    await stopping
