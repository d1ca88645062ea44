"""`Tx`: what a block sees of the database, and nothing more.

A function over `tx` may run several times; only its last run counts. So it reads time, ids
and randomness from `tx`, does no I/O, waits for nothing, and keeps its hands off the world:
`emit`, `wake` and `on_commit` take effect after the COMMIT, once, or never.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, ClassVar, Concatenate, LiteralString, ParamSpec, TypeVar

import xxhash

from onefold.core.errors import Doomed, Invalid
from onefold.core.ids import PREFIX_LENGTH_MAX, make_id
from onefold.engine.sql import Dialect
from onefold.engine.values import check_name

P = ParamSpec("P")
R = TypeVar("R")
Row = tuple[Any, ...]

COUNTER_KEY_LENGTH_MAX = 200
HINTS_MAX = 10_000  # Facts, wakes and callbacks of one transaction, each.
TOPIC_LENGTH_MAX = 10_000
# How `add` is written: on SQLite there is one writer at a time and no hot row to avoid; see `Tx.add`.
ADD_SQLITE = """INSERT INTO onefold.counter_totals (space, key, total) VALUES (:space, :key, :delta)
                ON CONFLICT (space, key) DO UPDATE SET total = onefold.counter_totals.total + :delta"""
ADD_POSTGRES = "INSERT INTO onefold.counter_deltas (space, key, delta) VALUES (:space, :key, :delta)"
OVER = Doomed("The function has returned; its tx is over.", code="over")


class Hints:
    """What takes effect after the COMMIT, or never."""

    __slots__ = ("callbacks", "facts", "topics")

    def __init__(self) -> None:
        self.facts: list[tuple[str, dict[str, Any]]] = []
        self.topics: list[str] = []
        self.callbacks: list[Callable[[], object]] = []

    def marks(self) -> tuple[int, int, int]:
        """How many there are of each kind."""
        return len(self.facts), len(self.topics), len(self.callbacks)

    def cut(self, marks: tuple[int, int, int]) -> None:
        """Forget what came after `marks` were taken."""
        facts, topics, callbacks = marks
        del self.facts[facts:], self.topics[topics:], self.callbacks[callbacks:]


class Tx:
    """One attempt at one transaction in one space. Dead after the function returned."""

    #: Where one SQL text is impossible, two stand side by side and this picks.
    dialect: ClassVar[Dialect] = "postgres"

    __slots__ = (
        "_depth", "_doom", "_hints", "_ids", "_random", "_seed", "now_ms", "space", "space_name",
    )  # fmt: skip

    def __init__(self, *, space: int, space_name: str, now_ms: int, seed: int) -> None:
        #: First column of every key; bound as `:space` by the engine.
        self.space = space
        self.space_name = space_name
        #: Milliseconds since 1970, the same during the whole attempt; bound as `:now_ms`.
        self.now_ms = now_ms
        self._seed = seed
        self._ids = 0
        self._random: random.Random | None = None
        self._doom: BaseException | None = None
        self._depth = 0
        self._hints: Hints | None = None  # Most transactions have none.

    # -- statements; each engine has its own way to run them ---------------------------

    def one(self, sql: LiteralString, /, **parameters: Any) -> Row | None:
        """Run a statement and answer its only row, or None when there is none.

        Raises:
            Invalid: it gave more than one row, or a parameter has no place in a column.
            Conflict: a unique key or reference refused it.
        """
        rows = self._rows(sql, parameters)
        if len(rows) > 1:
            error = Invalid("The statement gave more than one row; use all.", code="many_rows")
            self.doom(error)
            raise error
        return rows[0] if rows else None

    def all(self, sql: LiteralString, /, **parameters: Any) -> list[Row]:
        """Run a statement and answer all its rows. Put a LIMIT in the text."""
        return self._rows(sql, parameters)

    def _rows(self, sql: str, parameters: dict[str, Any]) -> list[Row]:
        raise NotImplementedError

    def run(self, sql: LiteralString, /, **parameters: Any) -> None:
        """Run a statement for its effect. It may be sent together with later ones.

        When you need to know what it touched, use RETURNING with `one` or `all`. Its error may
        come at a later statement or at the commit.
        """
        raise NotImplementedError

    def many(self, sql: LiteralString, rows: Iterable[Mapping[str, Any]], /) -> None:
        """Like `run`, once for every row, for less than the price of single calls."""
        raise NotImplementedError

    def _savepoint_begin(self, depth: int) -> None:
        raise NotImplementedError

    def _savepoint_settle(self) -> None:
        """Have the errors of what was sent late, before the savepoint is kept."""

    def _savepoint_end(self, depth: int, *, keep: bool) -> None:
        raise NotImplementedError

    # -- time, ids, randomness ----------------------------------------------------------

    def new_id(self, prefix: str) -> str:
        """A new sortable id such as "job_0190…"; an attempt that is run again gives others.

        Raises:
            Invalid: the prefix is not 1 to 16 letters, or the transaction has made 65,536 ids.
        """
        if not (prefix.isalpha() and len(prefix) <= PREFIX_LENGTH_MAX):
            raise Invalid("An id's prefix is 1 to 16 letters.", prefix=prefix)
        identifier = make_id(prefix, now_ms=self.now_ms, count=self._ids, seed=self._seed)
        self._ids += 1
        return identifier

    @property
    def random(self) -> random.Random:
        """A generator seeded per attempt, from one seed per call that replays them all. Not for secrets.

        After a conflict the next attempt draws anew: who chose the same as others then chooses something
        else now.
        """
        if self._random is None:
            self._random = random.Random(self._seed)  # noqa: S311  Not for secrets, as said.
        return self._random

    # -- what happens after the commit ----------------------------------------------------

    def emit(self, fact: LiteralString, /, **facts: Any) -> None:
        """Tell subscribers in this process that something happened, once it is committed."""
        _add(self._made_hints().facts, (fact, facts))

    def wake(self, topic: str, /) -> None:
        """Wake whoever waits for `topic`, in every process, after the commit.

        A hint only: it may be lost or come late, so every waiter polls as well.
        """
        if type(topic) is not str or not 1 <= len(topic) <= TOPIC_LENGTH_MAX:
            raise Invalid("A topic is a text of 1 to 10,000 characters.", code="topic")
        topics = self._made_hints().topics
        if topic not in topics:
            _add(topics, topic)

    def on_commit(self, callback: Callable[[], object], /) -> None:
        """Call back after the commit, in commit order, on a thread of the engine's.

        At most once, and lost when the process dies: for hints, never for effects.
        """
        if not callable(callback):
            raise Invalid("on_commit takes something to call.", code="callback", type=type(callback).__name__)
        _add(self._made_hints().callbacks, callback)

    def _made_hints(self) -> Hints:
        self._check_alive()
        hints = self._hints
        if hints is None:
            hints = self._hints = Hints()
        return hints

    # -- parts that may fail --------------------------------------------------------------

    def savepoint(self) -> Savepoint:
        """`with tx.savepoint():` makes the block all-or-nothing inside the transaction.

        An error that leaves the block undoes it, and the transaction lives on.
        """
        return Savepoint(self)

    def doom(self, error: BaseException) -> None:
        """Refuse everything but the end: after an error outside a savepoint only rollback is safe."""
        if self._doom is None:
            self._doom = error

    # -- names claimed until the end of the transaction -----------------------------------

    def try_claim(self, name: str, /) -> bool:
        """Claim `name` in this space until the transaction ends; False when another one has it.

        Never waits. For duplicates in flight; the outcome must still rest on a unique key.

        Raises:
            Invalid: `name` is no text, or holds NUL or a lone surrogate.
        """
        check_name(name)
        number = xxhash.xxh3_64_intdigest(f"{self.space}/{name}".encode()) - (1 << 63)
        [(claimed,)] = self.all("SELECT pg_try_advisory_xact_lock(:number) -- :space is in the number", number=number)
        return bool(claimed)

    # -- counters without hot rows --------------------------------------------------------

    def add(self, key: str, delta: int, /) -> None:
        """Add `delta` to the counter `key` without locking it; read it with `total`.

        Adds commute: thousands of transactions may add to one key at once. Where a limit must
        hold, lock the row that carries the amount instead.
        """
        if type(key) is not str or not 1 <= len(key) <= COUNTER_KEY_LENGTH_MAX:
            raise Invalid("A counter's key has 1 to 200 characters.", code="key")
        if type(delta) is not int:
            raise Invalid("A counter counts whole numbers.", code="type", type=type(delta).__name__)
        self._add(key, delta)

    def _add(self, key: str, delta: int) -> None:
        raise NotImplementedError

    def total(self, key: str, /) -> int:
        """What was ever added to the counter `key`, exactly; 0 for one never used."""
        [(total,)] = self.all(
            """SELECT coalesce((SELECT total FROM onefold.counter_totals
                                WHERE space = :space AND key = :key), 0)
                    + coalesce((SELECT sum(delta) FROM onefold.counter_deltas
                                WHERE space = :space AND key = :key), 0)""",
            key=key,
        )
        return int(total)

    def driver_connection(self) -> Any:
        """The driver's own connection, for bridges such as `onefold.sqlalchemy.session`. Never end its transaction."""
        raise NotImplementedError

    def _check_alive(self) -> None:
        if self._doom is not None:
            raise Doomed(
                "The transaction had an error and can only roll back; use tx.savepoint() or try_ forms."
            ) from self._doom


class Savepoint:
    """See `Tx.savepoint`."""

    __slots__ = ("_ids", "_marks", "_tx")

    def __init__(self, tx: Tx) -> None:
        self._tx = tx

    def __enter__(self) -> Tx:
        """Mark the place to come back to."""
        tx = self._tx
        tx._check_alive()
        tx._savepoint_begin(tx._depth + 1)
        tx._depth += 1
        self._marks = tx._hints.marks() if tx._hints else (0, 0, 0)
        return tx

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Keep the block, or undo it when an error leaves it or was swallowed inside it."""
        tx = self._tx
        if tx._doom is OVER:  # A generator that was collected late; the connection is somebody else's now.
            return
        late: BaseException | None = None
        if error is None and tx._doom is None:
            try:
                tx._savepoint_settle()
            except Exception as found:
                late = found
        doom, tx._doom = tx._doom, None
        keep = error is None and doom is None and late is None
        depth, tx._depth = tx._depth, tx._depth - 1
        try:
            tx._savepoint_end(depth, keep=keep)
        except BaseException as lost:
            tx.doom(lost)
            raise
        if keep:
            return
        if tx._hints:
            tx._hints.cut(self._marks)
        if late is not None:
            raise late
        if error is None:
            raise Doomed("An error was swallowed inside the savepoint; it was undone.") from doom


def operation(fn: Callable[Concatenate[Tx, P], R]) -> Callable[Concatenate[Tx, P], R]:
    """Mark a block's public function: whatever leaves it as an error dooms the transaction.

    So a caller that swallows the error cannot commit the half that was done before it.
    """

    @functools.wraps(fn)
    def call(tx: Tx, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return fn(tx, *args, **kwargs)
        except BaseException as error:
            tx.doom(error)
            raise

    return call


def _add(hints: list[Any], hint: Any) -> None:
    if len(hints) >= HINTS_MAX:
        raise Invalid("A transaction gives at most 10,000 hints of a kind.", most=HINTS_MAX)
    hints.append(hint)
