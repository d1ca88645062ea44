"""A thread for a plain handler. Nothing can stop it, so it must not keep the process from ending either."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future


def in_thread(work: Callable[[], object]) -> Future[None]:
    """Call `work` in a new thread; answer what tells that it ended, and in which error.

    A daemon thread: the interpreter waits at its exit for those of a ThreadPoolExecutor, however long they take.
    Starting one costs less than a tenth of what a job's claim and finish cost.
    """
    future: Future[None] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            _guarded(work)
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(None)

    threading.Thread(target=run, name="onefold-job", daemon=True).start()
    return future


def _guarded(work: Callable[[], object]) -> None:
    try:
        work()
    except StopIteration as error:  # No asyncio future takes it, and who waits for one would wait for ever.
        raise RuntimeError("A handler raised StopIteration.") from error
