"""`connect` and `run`: the whole facade. No block has another way in, in either colour."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from logging import DEBUG
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, Self, TypeVar

from onefold.core.errors import Invalid
from onefold.engine.call import Call, Durability, Isolation, Options, name_of, running, space_of
from onefold.engine.metrics import Metrics
from onefold.engine.told import told, transactions
from onefold.engine.tx import Tx
from onefold.engine.wake import Hub, Waiter

P = ParamSpec("P")
R = TypeVar("R")


class Engine(Protocol):
    """What stands behind a `Database`: one class per engine, chosen by the URL."""

    dialect: Literal["sqlite", "postgres"]
    hub: Hub
    metrics: Metrics

    def run(self, call: Call) -> Any:
        """Run the call to its committed end in the caller's thread or another; answer its result."""
        ...

    async def arun(self, call: Call) -> Any:
        """The same from a task, without blocking its loop."""
        ...

    def refresh_gauges(self) -> None:
        """Bring `metrics.gauges` up to date (WAL size, oldest snapshot, connections)."""
        ...

    def close(self) -> None:
        """Finish what was admitted, then give back all files, connections and threads."""
        ...


class Handle:
    """A database with options fixed: `db.at("tenant/7")`, `db.options(deadline_ms=500)`."""

    def __init__(self, engine: Engine, options: Options) -> None:
        self._engine = engine
        self._options = options
        self._space = space_of(options.space_name)

    def run(self, fn: Callable[Concatenate[Tx, P], R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run `fn(tx, *args, **kwargs)` in one transaction; answer its result once committed.

        `fn` may run several times; see `Tx` for what it must not do.

        Raises:
            Whatever `fn` raised; nothing was written then.
            Retry: the deadline passed, or conflicts did not end; nothing was written.
            Unknown: the connection broke at COMMIT and the outcome cannot be told.
        """
        call = self._call(fn, args, kwargs)
        if transactions.isEnabledFor(DEBUG):
            with told(call):
                return self._engine.run(call)
        return self._engine.run(call)

    async def arun(self, fn: Callable[Concatenate[Tx, P], R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """`run` for tasks. A cancelled task withdraws the call or waits for its outcome."""
        call = self._call(fn, args, kwargs)
        if transactions.isEnabledFor(DEBUG):
            with told(call):
                return await self._engine.arun(call)
        return await self._engine.arun(call)

    def at(self, space_name: str) -> Handle:
        """The same in another space: other rows, other locks, other counters."""
        return Handle(self._engine, dataclasses.replace(self._options, space_name=space_name))

    def options(
        self,
        *,
        deadline_ms: int | None = None,
        durability: Durability | None = None,
        isolation: Isolation | None = None,
        hot: str | None = None,
    ) -> Handle:
        """The same with other options; see `Options` for each."""
        given = {"deadline_ms": deadline_ms, "durability": durability, "isolation": isolation, "hot": hot}
        changes: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
        return Handle(self._engine, dataclasses.replace(self._options, **changes))

    def reader(self) -> Handle:
        """The same on a snapshot: does not wait for writers, and refuses to write."""
        return Handle(self._engine, dataclasses.replace(self._options, read_only=True))

    @property
    def space_name(self) -> str:
        """The space that transactions of this handle run in."""
        return self._options.space_name

    def waiter(self, topic: str) -> Waiter:
        """Something to wait on until a transaction that woke `topic` has committed, anywhere."""
        return self._engine.hub.waiter(topic)

    def _call(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        if (outer := getattr(running, "fn", None)) is not None:
            raise Invalid(
                "run was called inside a function that already has a tx; pass that tx on.",
                outer=name_of(outer), inner=name_of(fn),
            )
        return Call(fn, args, kwargs, self._options, self._space)


class Database(Handle):
    """What `connect` answers. Use it from any thread or task; close it at the end."""

    def __init__(self, engine: Engine, *, url: str) -> None:
        super().__init__(engine, Options())
        self.url = url
        #: Functions that give more numbers for `metrics`, such as the loops' lag.
        self.gauge_sources: list[Callable[[], dict[str, float]]] = []

    @property
    def dialect(self) -> Literal["sqlite", "postgres"]:
        """Which engine is behind it."""
        return self._engine.dialect

    def subscribe(self, prefix: str, callback: Callable[[str, dict[str, Any]], object]) -> Callable[[], None]:
        """Call `callback(fact, facts)` after commits that emitted facts under `prefix`.

        In this process only, at most once, on one thread in commit order. Answers a function
        that ends the subscription.
        """
        return self._engine.hub.subscribe(prefix, callback)

    def metrics(self) -> dict[str, Any]:
        """Numbers about the engine itself, as plain data."""
        self._engine.refresh_gauges()
        numbers = self._engine.metrics.snapshot()
        for source in tuple(self.gauge_sources):
            numbers.update(source())
        return numbers

    def close(self) -> None:
        """Finish what was admitted, then give back all files, connections and threads.

        Raises:
            Invalid: inside a function over tx, which it would wait for.
        """
        if getattr(running, "fn", None) is not None:
            raise Invalid("close was called inside a function over tx.", code="inside")
        self._engine.close()

    def __enter__(self) -> Self:
        """The database itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()
