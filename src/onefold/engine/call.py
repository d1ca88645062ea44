"""One submitted function: its arguments, its options, and where its outcome goes."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import inspect
import logging
import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import AsyncGeneratorType, GeneratorType
from typing import Any, Literal, get_args

import xxhash

from onefold.core.errors import Invalid, OnefoldError, Retry

Durability = Literal["always", "everysec"]
Isolation = Literal["serializable", "repeatable_read", "read_committed"]

_log = logging.getLogger("onefold.call")

DEADLINE_MS_DEFAULT = 10_000
DEADLINE_MS_MAX = 600_000
SPACE_NAME_LENGTH_MAX = 200
HOT_KEY_LENGTH_MAX = 200
NEVER_NS = 1 << 62  # A deadline that does not come.

_COROUTINE_OR_GENERATOR = (
    inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR | inspect.CO_GENERATOR | inspect.CO_ITERABLE_COROUTINE
)

# Seeds make ids unique, not secret; the operating system's source costs ten times as much.
_seeds = random.Random()  # noqa: S311
os.register_at_fork(after_in_child=_seeds.seed)


def new_seed() -> int:
    """64 random bits for the ids of one transaction; not secret."""
    return _seeds.getrandbits(64)


#: `running.fn` is the function that this thread is running inside a transaction, or None.
running = threading.local()


@dataclass(frozen=True, slots=True)
class Options:
    """What stands off the call: `db.at(...)`, `db.options(...)`, `db.reader()`.

    Attributes:
        space_name: the space of the transaction, at once the tenant and the unit of sharding.
        deadline_ms: from submission to the start of the COMMIT; past it the call is undone. The answer may come
            later: see "When the answer comes" in the engine's README.
        durability: None takes the database's own.
        isolation: only engine loops go below "serializable", with statements safe there.
        read_only: a snapshot; writes are refused.
        hot: a key for which callers queue before taking a connection.
    """

    space_name: str = ""
    deadline_ms: int = DEADLINE_MS_DEFAULT
    durability: Durability | None = None
    isolation: Isolation = "serializable"
    read_only: bool = False
    hot: str | None = None

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        if type(self.deadline_ms) is not int or not 1 <= self.deadline_ms <= DEADLINE_MS_MAX:
            raise Invalid("deadline_ms is out of range.", deadline_ms=self.deadline_ms, most=DEADLINE_MS_MAX)
        name = self.space_name
        if type(name) is not str or len(name) > SPACE_NAME_LENGTH_MAX or "\0" in name or not _is_unicode(name):
            raise Invalid("A space's name is a text of at most 200 characters without NUL.", code="space_name")
        if self.durability not in {None, *get_args(Durability)}:
            raise Invalid("durability is always or everysec.", code="durability", given=self.durability)
        if self.isolation not in get_args(Isolation):
            raise Invalid(
                "isolation is serializable, repeatable_read or read_committed.", code="isolation", given=self.isolation
            )
        if self.hot is not None and (type(self.hot) is not str or not 1 <= len(self.hot) <= HOT_KEY_LENGTH_MAX):
            raise Invalid("A hot key is a text of 1 to 200 characters.", code="hot")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def space_of(name: str) -> int:
    """The number of a space: 63 bits of XXH3-64 over its name. The top 12 bits are its bucket."""
    return xxhash.xxh3_64_intdigest(name.encode()) >> 1


def name_of(fn: Callable[..., Any]) -> str:
    """How a function is called in metrics and warnings: "module.qualified_name", an object by its class.

    Never by the arguments that a partial would show: they are new for each call, and may be secrets.
    """
    fn = without_arguments(fn)
    named: Any = fn if hasattr(fn, "__qualname__") else type(fn)
    return f"{getattr(named, '__module__', '?')}.{named.__qualname__}"  # Methods of C have no module.


def without_arguments(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The function of a `functools.partial`, and of one of that; else itself."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    return fn


def code_of(error: BaseException) -> str:
    """How an error is called in metrics: our code, or the type. What others keep in `code` may be anything."""
    return error.code if isinstance(error, OnefoldError) else type(error).__name__


class Call:
    """A function on its way through an engine. Exactly one taker wins `take()`."""

    __slots__ = (
        "_ticket", "args", "bell", "deadline_ns", "error", "fn", "future", "kwargs",
        "options", "result", "seed", "space", "submitted_ns", "tried",
    )  # fmt: skip

    def __init__(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: Options, space: int
    ) -> None:
        code = getattr(fn, "__code__", None)
        if (code.co_flags & _COROUTINE_OR_GENERATOR) if code else inspect.iscoroutinefunction(fn):
            raise Invalid("run takes a plain function over tx; this one is a coroutine or generator.", fn=name_of(fn))
        self.fn = fn
        self.args = args
        self.kwargs = kwargs
        self.options = options
        self.space = space
        self.seed = new_seed()
        self.submitted_ns = now_ns = time.monotonic_ns()
        self.deadline_ns = now_ns + options.deadline_ms * 1_000_000
        self.result: Any = None
        self.error: BaseException | None = None
        self.tried = False
        self.future: asyncio.Future[Any] | None = None
        self.bell: threading.Lock | None = None
        self._ticket = [None]

    def draw_anew(self) -> None:
        """Other ids and dice for the next attempt, derived from this one's: the first seed replays them all.

        A herd that met because all drew the same would else meet again.
        """
        self.seed = xxhash.xxh3_64_intdigest(self.seed.to_bytes(8, "big"))

    def take(self) -> bool:
        """Win the right to decide this call's fate; False when somebody already did."""
        try:
            self._ticket.pop()  # Atomic: of two threads exactly one gets it.
        except IndexError:
            return False
        return True

    @property
    def open(self) -> bool:
        """Whether nobody has taken it yet."""
        return bool(self._ticket)

    def expected(self) -> asyncio.Future[Any]:
        """What the running task awaits for the outcome; to be asked for before the call is submitted.

        A task that is cancelled meanwhile awaits `abandoned` before it goes.
        """
        self.future = future = asyncio.get_running_loop().create_future()
        return future

    async def abandoned(self, future: asyncio.Future[Any]) -> None:
        """The task that awaited `future` was cancelled: withdraw the call, or wait until its outcome is known.

        It is withdrawn if nobody took it up yet. Else the work may be committed in the end.
        """
        if not future.cancelled():
            future.exception()  # Looked at, or asyncio complains that nobody did.
        elif not self.take():
            while self.future is not None:
                self.future = future.get_loop().create_future()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await self.future

    def outcome(self) -> Any:
        """The result, or the error raised."""
        if self.error is not None:
            raise self.error
        return self.result

    def settle_future(self) -> None:
        """Hand the outcome to the awaiting task; on its loop's thread only."""
        future, self.future = self.future, None
        if future is None or future.done():
            return
        error = self.error
        if error is None:
            future.set_result(self.result)
        elif isinstance(error, StopIteration):  # A future takes none, as a coroutine raises none (PEP 479).
            future.set_exception(_caused("The function raised StopIteration.", error))
        else:
            future.set_exception(error)


def seconds_left(deadline_ns: int) -> float:
    """Until a deadline; 0 when it is over."""
    return max(0, deadline_ns - time.monotonic_ns()) / 1e9


def own(error: BaseException) -> BaseException:
    """One of ours for one of several callers: each raises his, or all their stacks would hang on one error."""
    if not isinstance(error, OnefoldError):
        return error
    twin = copy.copy(error)
    twin.__cause__ = error.__cause__
    return twin


def late_in_queue() -> Retry:
    """The deadline came before the call's turn."""
    return Retry("The deadline passed in the queue; the call was not run.", code="deadline")


def late_while_running() -> Retry:
    """The deadline came while the function ran."""
    return Retry("The deadline passed; the call was undone.", code="deadline")


def refuse_awaitable(call: Call, result: Any) -> None:
    """Refuse a function that answered a coroutine or a generator: nothing of it ran inside the transaction."""
    if result is None:
        return
    kind = type(result)
    if hasattr(kind, "__await__") or kind is GeneratorType or kind is AsyncGeneratorType:
        if kind is GeneratorType or inspect.iscoroutine(result):
            result.close()
        raise Invalid(
            "run takes a plain function over tx; this one answered an awaitable or a generator.", fn=name_of(call.fn)
        )


def _caused(text: str, cause: BaseException) -> RuntimeError:
    error = RuntimeError(text)
    error.__cause__ = cause
    return error


def settle(calls: list[Call]) -> None:
    """Tell all callers their outcomes: one wake-up per event loop, one per waiting thread."""
    loops: dict[asyncio.AbstractEventLoop, list[Call]] = {}
    last: asyncio.AbstractEventLoop | None = None
    group: list[Call] = []
    for call in calls:
        future = call.future
        if future is not None:
            loop = future.get_loop()
            if loop is not last:
                last, group = loop, loops.setdefault(loop, [])
            group.append(call)
        elif call.bell is not None:
            call.bell.release()
    for loop, group in loops.items():
        try:
            loop.call_soon_threadsafe(_settle_futures, group)
        except RuntimeError:  # The loop was closed; nobody is left to tell.
            continue


def _settle_futures(calls: list[Call]) -> None:
    for call in calls:
        try:
            call.settle_future()
        except Exception:  # Whatever one call's error is, the others of its batch are told.
            _log.exception("the outcome of %s could not be handed over", name_of(call.fn))
