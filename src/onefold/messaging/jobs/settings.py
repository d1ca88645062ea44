"""What a worker is told: which jobs it runs with which handlers, and how."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from onefold.core.errors import Invalid
from onefold.messaging.jobs.kinds import Kind, checked_name, kind_of
from onefold.messaging.jobs.leases import LEASE_MS_MAX, LEASE_MS_MIN

CONCURRENCY_MAX = 1_000
QUEUES_MAX = 20
POLL_MS_MAX = 60_000
DRAIN_MS_MAX = 3_600_000

Handlers = Mapping[type[Any], Callable[..., Any]]


class Settings:
    """Checked arguments of `Worker`, which explains them."""

    def __init__(
        self, *, io: Handlers, tx: Handlers, queues: Sequence[str], concurrency: int, space: str | None,
        lease_ms: int, poll_ms: int, drain_ms: int,
    ) -> None:  # fmt: skip
        both = set(io) & set(tx)
        if both or not (io or tx):
            raise Invalid("Each kind has one handler, in io= or in tx=.", both=sorted(cls.__name__ for cls in both))
        if not 1 <= len(queues) <= QUEUES_MAX or isinstance(queues, str):
            raise Invalid("A worker serves 1 to 20 queues.", count=len(queues))
        for value, least, most, what in (
            (concurrency, 1, CONCURRENCY_MAX, "concurrency"), (lease_ms, LEASE_MS_MIN, LEASE_MS_MAX, "lease_ms"),
            (poll_ms, 10, POLL_MS_MAX, "poll_ms"), (drain_ms, 0, DRAIN_MS_MAX, "drain_ms"),
        ):  # fmt: skip
            if not least <= value <= most:
                raise Invalid("A worker's setting is out of range.", what=what, value=value, least=least, most=most)
        self.kinds: list[Kind] = [kind_of(cls) for cls in (*io, *tx)]
        if len({kind.name for kind in self.kinds}) < len(self.kinds):
            raise Invalid("Two classes have the same kind.", kinds=sorted(kind.name for kind in self.kinds))
        for handler in tx.values():
            if _is_async(handler):
                raise Invalid("A handler in tx= is a plain function over tx.", handler=repr(handler))
        self.io = dict(io)
        self.tx = dict(tx)
        self.threaded = {cls for cls, handler in io.items() if not _is_async(handler)}
        self.queues = tuple(checked_name(queue) for queue in queues)
        self.concurrency = concurrency
        self.space = space
        self.lease_ms = lease_ms
        self.poll_ms = poll_ms
        self.drain_ms = drain_ms


def _is_async(handler: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(
        getattr(handler, "__call__", None)  # noqa: B004  An object whose call is a coroutine function.
    )
