"""Sequential models: what a register, a mutex or a queue answers when nothing is concurrent.

`Model.bind` makes of an operation a function from the state before it to the state after it, or to
`ILLEGAL` when it cannot answer what it answered. Of an operation with unknown outcome only the input
is known: its function says what it does if it takes effect.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import msgspec

from onefold.core.errors import Invalid
from onefold.testing.checkers.history import Operation

State = Hashable
Step = Callable[[Any], State]
ILLEGAL: Any = object()
ANY: Any = object()
LOST: Any = (object(),)  # A state that nobody will see.
_READS, _WRITES = frozenset({"read", "r"}), frozenset({"write", "w"})
_SOME = "some"  # A token that nobody saw.


class Bound(msgspec.Struct, frozen=True):
    """An operation as the search uses it."""

    step: Step
    pure: bool = False
    """It changes no state, whichever it is: a read."""
    blind: bool = False
    """It looks at no state: a write. Every state is as good to it, and it makes the same of each."""
    total: bool = False
    """Every state fits it."""
    sees: Any = ANY
    """The one state that it fits; `ANY` if it fits others too."""
    leaves: Any = ANY
    """The state that it leaves, whichever it fitted; `ANY` if that depends on the one before."""
    toward: Callable[[Any], bool] | None = None
    """Whether a state can still grow into the one that it answers, unless something blind comes between."""


class Model(msgspec.Struct, frozen=True):
    """A sequential specification; the functions of this module make them."""

    name: str
    initial: State
    bind: Callable[[Operation], Bound]
    part: Callable[[Operation], Hashable] | None = None
    """Of which independent object an operation is (P-compositionality); None when there is only one."""
    starts: tuple[State, ...] = ()
    """Other states in which an object can have begun, since nobody said in which it did."""


def register(initial: State = None) -> Model:
    """Operations `read` and `write`. A read that answers nil saw a register that holds nil.

    Args:
        initial: what it holds at first; None: nil, or else 0 if only so the history is right.
    """
    return Model("register", initial, lambda op: _register(op, "register"), starts=_starts(initial))


def cas_register(initial: State = None) -> Model:
    """A register (see there) with `cas`, whose input is [expected new].

    A `cas` that was refused saw another value than the expected one; one that failed with an error did not happen.
    """

    def bind(op: Operation) -> Bound:
        return _cas(op, *_pair(op, "cas-register")) if op.f == "cas" else _register(op, "cas-register")

    return Model("cas-register", initial, bind, starts=_starts(initial))


def multi_register(initial: State = None) -> Model:
    """Several registers; the value of an operation is a list of [`read` key value] and [`write` key value] (`r`, `w`).

    Args:
        initial: what they hold at first: a map, frozen, or the same for all; None as of `register`.
    """

    def bind(op: Operation) -> Bound:
        micros = op.input if op.type == "info" or op.output is None else op.output
        if not isinstance(micros, tuple) or not all(_is_micro(micro) for micro in micros):
            raise _unknown(op, "multi-register")
        reads = op.type == "ok"

        def step(state: tuple[State, frozenset[tuple[Any, Any]]]) -> State:
            rest, pairs = state
            held = dict(pairs)
            for f, key, value in micros:
                if f in _WRITES:
                    held[key] = value
                elif reads and held.get(key, rest) != value:
                    return ILLEGAL
            return (rest, frozenset(held.items()))

        return Bound(step, pure=all(f not in _WRITES for f, _, _ in micros))

    whole = initial if isinstance(initial, frozenset) else None
    first = (None, whole) if whole is not None else (initial, frozenset[Any]())
    starts = () if whole is not None else tuple((one, frozenset[Any]()) for one in _starts(initial))
    return Model("multi-register", first, bind, starts=starts)


def mutex() -> Model:
    """Operations `acquire` and `release`; who releases is not looked at."""

    def bind(op: Operation) -> Bound:
        if op.f in {"acquire", "lock"}:
            return Bound(lambda held: ILLEGAL if held else True)
        if op.f in {"release", "unlock"}:
            return Bound(lambda held: False if held else ILLEGAL)
        raise _unknown(op, "mutex")

    return Model("mutex", False, bind)


def fenced_mutex() -> Model:
    """A mutex whose `acquire` answers a token, higher than each before (also as a map with `fence` or `token`).

    A `release` with a token as input releases that one only.
    """

    def bind(op: Operation) -> Bound:
        if op.f in {"acquire", "lock"}:
            if op.type != "ok":  # Its token was above the last: one above is the least that it can have been.
                return Bound(lambda s: ILLEGAL if s[0] is not None else (_SOME, s[1] + 1))
            token = _token(op.output)
            if token is None:
                raise Invalid("An acquire of a fenced mutex answers no token.", code="not_a_history", operation=str(op))
            return Bound(lambda s: (token, token) if s[0] is None and token > s[1] else ILLEGAL)
        if op.f in {"release", "unlock"}:
            given = _token(op.input)
            return Bound(lambda s: _released(s, given))
        raise _unknown(op, "fenced-mutex")

    return Model("fenced-mutex", (None, -1), bind)


def semaphore(permits: int = 1) -> Model:
    """Operations `acquire` and `release` of as many permits as their input says (1)."""

    def bind(op: Operation) -> Bound:
        count = _number(op, "semaphore")
        if op.f == "acquire":
            return Bound(lambda free: free - count if free >= count else ILLEGAL)
        if op.f == "release":
            return Bound(lambda free: free + count if free + count <= permits else ILLEGAL)
        raise _unknown(op, "semaphore")

    return Model("semaphore", permits, bind)


def queue() -> Model:
    """First in, first out: `enqueue` and `dequeue`. A `dequeue` that answers nil found the queue empty."""

    def bind(op: Operation) -> Bound:
        value = op.input if op.f == "enqueue" else op.output
        if op.f == "enqueue":
            return Bound(lambda items: (*items, value))
        if op.f != "dequeue":
            raise _unknown(op, "queue")
        if op.type != "ok":
            return Bound(lambda items: items[1:] if items else ILLEGAL)
        if value is None:
            return Bound(lambda items: ILLEGAL if items else items, pure=True)
        return Bound(lambda items: items[1:] if items and items[0] == value else ILLEGAL)

    return Model("queue", (), bind)


def unordered_queue() -> Model:
    """`enqueue` and `dequeue` in any order; each value is an object of its own, and can be there several times.

    A `dequeue` that answers nil took nothing and says nothing; one of unknown outcome, that nothing answers,
    can only have taken away what others could have got: it need not have happened.
    """

    def bind(op: Operation) -> Bound:
        if op.f == "enqueue":
            return Bound(lambda count: count + 1)
        if op.f != "dequeue":
            raise _unknown(op, "unordered-queue")
        if op.output is None:
            return Bound(lambda count: count, pure=True)
        return Bound(lambda count: count - 1 if count else ILLEGAL)

    return Model("unordered-queue", 0, bind, part=lambda op: op.input if op.f == "enqueue" else op.output)


def set_model() -> Model:
    """Operations `add`, `remove`, `contains` (answers true or false) and `read` (answers all elements)."""

    def bind(op: Operation) -> Bound:
        value = op.input
        if op.f == "add":
            return Bound(lambda held: held | {value})
        if op.f == "remove":
            return Bound(lambda held: held - {value})
        if op.f == "contains":
            if op.type == "ok" and not isinstance(op.output, bool):
                raise _unknown(op, "set")
            return Bound(lambda held: held if (value in held) is op.output else ILLEGAL, pure=True)
        if op.f == "read":
            if op.output is not None and not isinstance(op.output, (tuple, frozenset)):
                raise _unknown(op, "set")
            seen = tuple(op.output or ())
            elements = frozenset(seen) if len(frozenset(seen)) == len(seen) else None  # Twice is in no set.
            return Bound(lambda held: held if held == elements else ILLEGAL, pure=True)
        raise _unknown(op, "set")

    return Model("set", frozenset(), bind)


def counter(initial: int = 0) -> Model:
    """Operations `add` (`inc`, `increment`), `subtract` (`dec`, `decrement`) of their input (1), and `read`."""

    def bind(op: Operation) -> Bound:
        if op.f == "read":
            seen = op.output
            return Bound(lambda total: total if total == seen else ILLEGAL, pure=True)
        by = _number(op, "counter")
        if op.f in {"add", "inc", "increment"}:
            return Bound(lambda total: total + by)
        if op.f in {"subtract", "dec", "decrement"}:
            return Bound(lambda total: total - by)
        raise _unknown(op, "counter")

    return Model("counter", initial, bind)


def key_value() -> Model:
    """A register for each key: `get` (`read`), `put` (`write`), `cas`, `delete`, and `append` to a string or list.

    The key is a field of the event, or stands first in its value: [key value]. A key that is not there
    reads as nil or "".
    """

    def bind(op: Operation) -> Bound:
        _, value = _keyed(op)
        if op.f in {"get", "read"}:
            seen = op.output if op.key is not None else _keyed_output(op)
            return Bound(
                lambda s: s if s == seen or (s is None and seen in {"", ()}) else ILLEGAL, pure=True,
                sees=ANY if seen in {"", ()} else seen,
                toward=_toward(seen),
            )  # fmt: skip
        if op.f in {"put", "write"}:
            return Bound(lambda _: value, blind=True, leaves=value)
        if op.f == "cas" and isinstance(value, tuple) and len(value) == 2:
            cas = _cas(op, *value)  # One that expects what it leaves is like a read.
            return msgspec.structs.replace(cas, toward=None if op.refused or not cas.pure else _toward(value[0]))
        if op.f == "delete":
            return Bound(lambda _: None, blind=True, leaves=None)
        if op.f == "append":
            piece: Any = value if isinstance(value, str) else (value,)
            return Bound(lambda s: piece if s is None else _appended(s, piece), total=True)
        raise _unknown(op, "key-value")

    return Model("key-value", None, bind, part=lambda op: _keyed(op)[0])


MODELS: dict[str, Callable[..., Model]] = {
    "register": register, "cas-register": cas_register, "multi-register": multi_register, "mutex": mutex,
    "fenced-mutex": fenced_mutex, "semaphore": semaphore, "queue": queue,
    "unordered-queue": unordered_queue, "set": set_model, "counter": counter, "key-value": key_value,
}  # fmt: skip


def _register(op: Operation, model: str) -> Bound:
    value = op.input if op.f == "write" else op.output
    if op.f == "write":
        return Bound(lambda _: value, blind=True, leaves=value)
    if op.f == "read":
        return Bound(lambda state: state if state == value else ILLEGAL, pure=True, sees=value)
    raise _unknown(op, model)


def _cas(op: Operation, expected: State, new: State) -> Bound:
    if op.refused:
        return Bound(lambda state: ILLEGAL if state == expected else state, pure=True)
    return Bound(
        lambda state: new if state == expected else ILLEGAL, pure=expected == new, sees=expected, leaves=new
    )


def _starts(initial: State) -> tuple[State, ...]:
    return (0,) if initial is None else ()


def _is_micro(micro: Any) -> bool:
    return isinstance(micro, tuple) and len(micro) == 3 and micro[0] in _WRITES | _READS


def _pair(op: Operation, model: str) -> tuple[Any, Any]:
    if not isinstance(op.input, tuple) or len(op.input) != 2:
        raise _unknown(op, model)
    return op.input


def _keyed(op: Operation) -> tuple[Any, Any]:
    if op.key is not None:
        return op.key, op.input
    if not isinstance(op.input, tuple) or not op.input:
        raise _unknown(op, "key-value")
    return op.input[0], op.input[1] if len(op.input) > 1 else None


def _keyed_output(op: Operation) -> Any:
    return op.output[1] if isinstance(op.output, tuple) and len(op.output) == 2 else op.output


def _token(value: Any) -> int | None:
    if isinstance(value, frozenset):  # A map; a set has other members.
        fields = dict(one for one in value if isinstance(one, tuple) and len(one) == 2)
        value = fields.get("fence", fields.get("token"))
    return value if type(value) is int else None


def _toward(seen: Any) -> Callable[[Any], bool] | None:
    """Whether a state can grow into one that was seen; None if nothing grows into it."""
    return partial(_begins, seen) if isinstance(seen, (str, tuple)) else None


def _begins(whole: Any, state: Any) -> bool:
    return state is None or (type(state) is type(whole) and state == whole[: len(state)])


def _appended(held: Any, piece: Any) -> Any:
    return held + piece if type(held) is type(piece) else (held, piece)  # Which nobody can have read.


def _released(state: tuple[Any, int], given: int | None) -> State:
    held, last = state
    if held is None:
        return ILLEGAL
    if given is None or given == held:
        return (None, last)
    return (None, given) if held is _SOME and given >= last else ILLEGAL  # Now it is known what nobody saw.


def _number(op: Operation, model: str) -> Any:
    """By how much; 1 where nothing is said."""
    if op.input is None:
        return 1
    if type(op.input) not in {int, float}:
        raise _unknown(op, model)
    return op.input


def _unknown(op: Operation, model: str) -> Invalid:
    return Invalid("The model does not know this operation.", code="not_of_the_model", model=model, operation=str(op))
