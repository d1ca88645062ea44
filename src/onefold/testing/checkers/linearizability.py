"""Is there an order of the operations that respects time, and in which each answer is right?"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable
from typing import Any

import msgspec

from onefold.core.errors import Invalid
from onefold.testing.checkers.history import NEVER, History, Operation, show
from onefold.testing.checkers.models import ANY, ILLEGAL, MODELS, Model, State
from onefold.testing.checkers.reads_from import contradiction, linearizable, plain
from onefold.testing.checkers.verdict import Anomaly, Verdict
from onefold.testing.checkers.wgl import Found, search

DEADLINE_S = 60.0
SHRINK_S = 2.0  # To make the counter-example smaller, at most.
WINDOW_MAX = 40  # Operations at the end of a counter-example.
CONTEXT_MAX = 16  # Others, which are drawn beside them.
_UNREFUSED = frozenset({"read", "write", "get", "put"})


def check_linearizable(
    history: History, model: Model | str, *, deadline_s: float = DEADLINE_S, independent: bool | None = None
) -> Verdict:
    """Check a history against a sequential model, until a deadline.

    Operations that failed did not happen (a `cas` that was refused saw another value); those with unknown
    outcome may have taken effect at any time after their invocation, or never. Models of several objects
    are checked object by object.

    Args:
        model: a model, or the name of one in `models.MODELS`.
        deadline_s: after that many seconds the verdict is unknown, unless a part was found invalid.
        independent: values are [key value] (jepsen.independent); every key is an object of its own. None: they
            are if each read asks for [key nil] and all else has such a pair, and the model has no keys itself.

    Raises:
        Invalid: the model is not known, or does not know an operation of the history.
    """
    if isinstance(model, str):
        if model not in MODELS:
            raise Invalid("There is no such model.", code="no_such_model", model=model, models=sorted(MODELS))
        model = MODELS[model]()
    until = time.monotonic() + deadline_s
    if independent is None:
        independent = model.part is None and model.name != "multi-register" and _pairs_of_keys(history)
    parts = _parts(history, _part_of(history, model, independent), independent=independent)
    found = {key: _judged(ops, model, until) for key, ops in sorted(parts.items(), key=lambda part: len(part[1]))}
    stats = {
        "operations": sum(len(ops) for ops in parts.values()),
        "unknown_outcomes": sum(op.type == "info" for ops in parts.values() for op in ops),
        "parts": len(parts),
        "configurations": sum(one.configurations for one, _ in found.values()),
    }
    notes = ["Each key of the values [key value] is an object of its own."] if independent else []
    broken = {key: one.blocked.completed for key, (one, _) in found.items() if one.blocked is not None}
    if broken:
        key = min(broken, key=lambda key: broken[key])
        first, began = found[key]
        anomaly, context = _counterexample(parts[key], began, first, key, until)
        if all(_only_refused(parts[key], found[key][1], until) for key in broken):
            notes.append("Only what was refused shows it. What failed for another reason needs an `error`.")
        counts = {anomaly.name: len(broken)}
        return Verdict(model.name, False, [anomaly], counts, notes=notes, stats=stats, context=context)
    if any(one.valid and began is not model for one, began in found.values()):
        notes.append("It held 0 at first: had it held nil, it would not be right.")
    if any(one.valid is None for one, _ in found.values()):
        reason = "The search came to its deadline, or to the most configurations that it keeps in memory."
        return Verdict(model.name, None, reason=reason, notes=notes, stats=stats)
    return Verdict(model.name, True, notes=notes, stats=stats)


def _judged(ops: list[Operation], model: Model, until: float) -> tuple[Found, Model]:
    """What was found, and from which initial state: the first that saves the history, or came furthest."""
    best = _decided(ops, model, until), model
    for state in model.starts:
        if best[0].valid is not False or not _matters(ops, model, state):
            break
        other = _from(model, state)
        found = _decided(ops, other, until)
        if found.valid is not False or _end(found) > _end(best[0]):
            best = found, other
    return best


def _decided(ops: list[Operation], model: Model, until: float) -> Found:
    """What the reads say by themselves, or else what the search finds."""
    if plain(ops, model):
        found = _settled(ops, model)
        return search(ops, model, until) if found.valid is None else found
    wrong = contradiction(ops, model)
    if not wrong:
        return search(ops, model, until)
    before = search(_before(ops, wrong[-1].completed), model, until)
    if before.valid is False:
        return before
    # Who wrote what was read can be certain only because of somebody's refusal, which may have come later.
    certain = contradiction(_before(ops, wrong[-1].completed + 1), model)
    shortest = before.valid is True if certain else None
    return Found(False, before.configurations, wrong[-1], before.states, shortest=shortest)


def _settled(ops: list[Operation], model: Model) -> Found:
    """The verdict on reads and writes alone; if it is invalid, with the end of the shortest prefix that is."""
    valid, tried = linearizable(ops, model)
    if valid is not False:
        return Found(valid, tried)
    while wrong := contradiction(ops, model):
        before = _before(ops, wrong[-1].completed)
        valid, _ = linearizable(before, model)
        if valid is not False:
            return Found(False, tried, wrong[-1], shortest=valid is True)
        ops = before
    ends = sorted((op for op in ops if op.type != "info"), key=lambda op: op.completed)
    low, high, certain = 0, len(ends) - 1, True
    while low < high:
        middle = (low + high) // 2
        valid, _ = linearizable(_before(ops, ends[middle].completed + 1), model)
        low, high = (low, middle) if valid is False else (middle + 1, high)
        certain &= valid is not None
    return Found(False, tried, ends[high], shortest=certain)


def _before(ops: list[Operation], place: int) -> list[Operation]:
    """What was known just before an event."""
    return [_cut(op, place - 1) for op in ops if op.invoked < place]


def _matters(ops: list[Operation], model: Model, state: State) -> bool:
    """Whether an operation that can see the initial state fits another one better: none that follows a write can."""
    bound = [(op, model.bind(op)) for op in ops]
    until = min((op.completed for op, one in bound if one.blind and op.type != "info"), default=NEVER)
    return until == NEVER or any(
        one.step(state) is not ILLEGAL and one.step(model.initial) is ILLEGAL for op, one in bound if op.invoked < until
    )


def _end(found: Found) -> int:
    return found.blocked.completed if found.blocked is not None else NEVER


def _only_refused(ops: list[Operation], model: Model, until: float) -> bool:
    kept = [op for op in ops if not op.refused]
    return len(kept) < len(ops) and _decided(kept, model, min(until, time.monotonic() + SHRINK_S)).valid is True


def _pairs_of_keys(history: History) -> bool:
    """Whether values are [key value]: each read asks for [key nil], and everything else is a pair as well."""
    reads = [op for op in history.operations if op.f == "read"]
    return bool(reads) and all(
        isinstance(op.input, tuple) and len(op.input) == 2 and (op.f != "read" or op.input[1] is None)
        and (op.f != "cas" or (isinstance(op.input[1], tuple) and len(op.input[1]) == 2))
        for op in history.operations
    )  # fmt: skip


def _part_of(history: History, model: Model, independent: bool) -> Callable[[Operation], Hashable]:  # noqa: FBT001
    if independent:
        return _first
    if model.part is not None:
        return model.part
    if model.name == "set" and not any(op.f == "read" for op in history.operations):
        return lambda op: op.input  # Without reads of the whole, elements are independent of each other.
    return lambda _: None


def _parts(
    history: History, part: Callable[[Operation], Hashable], *, independent: bool
) -> dict[Hashable, list[Operation]]:
    says = _saying(history)
    parts: dict[Hashable, list[Operation]] = {}
    for op in history.operations:
        if op.type != "fail" or says(op):
            parts.setdefault(part(op), []).append(_second(op) if independent else op)
    return parts


def _saying(history: History) -> Callable[[Operation], bool]:
    """Which failed operations say something of the state: a `cas` that was refused saw another value.

    But nothing refuses a read or a write: where they fail without an error too, that is no refusal. And a `cas` to
    the value that it expects changes nothing, which some systems answer like a refusal: it is one where another such
    succeeded.
    """
    if any(op.refused and op.f in _UNREFUSED for op in history.operations):
        return lambda _: False
    idle = any(op.f == "cas" and op.type == "ok" and _idle(op) for op in history.operations)
    return lambda op: op.refused and op.f == "cas" and (idle or not _idle(op))


def _idle(op: Operation) -> bool:
    pair = op.input[-1] if isinstance(op.input, tuple) and op.input and isinstance(op.input[-1], tuple) else op.input
    return isinstance(pair, tuple) and len(pair) == 2 and pair[0] == pair[1]


def _first(op: Operation) -> Hashable:
    if not isinstance(op.input, tuple) or len(op.input) != 2:
        raise Invalid("The value of an operation is no [key value].", code="not_of_the_model", operation=str(op))
    return op.input[0]


def _second(op: Operation) -> Operation:
    output = op.output[1] if isinstance(op.output, tuple) and len(op.output) == 2 else op.output
    return msgspec.structs.replace(op, key=op.input[0], input=op.input[1], output=output)


def _counterexample(
    ops: list[Operation], model: Model, found: Found, key: Hashable, until: float
) -> tuple[Anomaly, list[Operation]]:
    """The end of the shortest prefix that has no linearization, with few operations."""
    prefix, found = _shortest(ops, model, found, until)
    blocked = found.blocked
    assert blocked is not None
    claim = "The shortest prefix without one" if found.shortest else "A prefix without one"
    soon = min(until, time.monotonic() + SHRINK_S)
    kept = _without_beginning(_without_reads(prefix, blocked, model, soon), model, soon)
    whole = {op.invoked: op for op in ops}  # Shown with what was answered in the end.
    window = [whole[op.invoked] for op in _window(kept, blocked, WINDOW_MAX)]
    lines = [
        f"The history has no linearization from {blocked} on{'' if key is None else f' (key {show(key)})'}.",
        f"{claim} has {len(prefix):,} operations; these are the last that matter.",
    ]
    if found.states:
        lines.append(f"Before it the state can have been: {', '.join(show(state) for state in found.states)}.")
    context = [whole[op.invoked] for op in _window(prefix, blocked, CONTEXT_MAX)]
    return Anomaly("nonlinearizable", "\n".join(lines), window, last=whole[blocked.invoked]), context


def _shortest(ops: list[Operation], model: Model, found: Found, until: float) -> tuple[list[Operation], Found]:
    """The shortest prefix without linearization, and what the search said of it.

    It does not end before the return where the search over everything was stuck. It can end later: what
    was answered afterwards was known to that search, and ruled out more, as it did of other initial states.
    """
    blocked = found.blocked
    assert blocked is not None
    certain = True
    for end in sorted(op.completed for op in ops if op.type != "info" and op.completed >= blocked.completed):
        prefix = _before(ops, end + 1)
        again = found if found.shortest is not None and end == blocked.completed else _decided(prefix, model, until)
        started = _started(prefix, model) if again.valid is False else []
        others = {_decided(prefix, one, until).valid for one in started}
        if again.valid is False and others <= {False}:
            again.shortest = found.shortest if again is found else certain
            again.blocked = next(op for op in ops if op.completed == end)
            return prefix, again
        if again.valid is None:
            break
        certain &= None not in others
    found.shortest = False
    return ops, found


def _started(ops: list[Operation], model: Model) -> Iterable[Model]:
    """The model from the other initial states that can make a difference."""
    for state in model.starts:
        if _matters(ops, model, state):
            yield _from(model, state)


def _from(model: Model, state: State) -> Model:
    """The model from another one of its initial states."""
    others = tuple(one for one in (model.initial, *model.starts) if one != state)
    return msgspec.structs.replace(model, initial=state, starts=others)


def _cut(op: Operation, place: int) -> Operation:
    """An operation as it was known at an event: what was answered later was not known yet."""
    return op if op.completed <= place else msgspec.structs.replace(
        op, type="info", output=None, completed=NEVER, refused=False
    )


def _without_reads(prefix: list[Operation], blocked: Operation, model: Model, until: float) -> list[Operation]:
    """Fewer operations, still without linearization. Only reads may go: without them a right history stays right."""
    reads = [op for op in prefix if op is not blocked and model.bind(op).pure]
    others = {id(op) for op in prefix} - {id(op) for op in reads}
    if wrong := {id(op) for op in contradiction(prefix, model)}:
        reads = [op for op in reads if id(op) in wrong]
    size = len(reads)
    while size:
        for start in range(0, len(reads), size):
            fewer = reads[:start] + reads[start + size :]
            if _decided(_among(prefix, others, fewer), model, until).valid is False:
                reads = fewer
                break
            if time.monotonic() > until:
                return _among(prefix, others, reads)
        else:
            size //= 2
    return _among(prefix, others, reads)


def _without_beginning(kept: list[Operation], model: Model, until: float) -> list[Operation]:
    """What is left from the latest moment on at which nothing ran that was answered, and whose state saves nothing."""
    bound = [model.bind(op) for op in kept]
    if any(one.leaves is ANY for one in bound if not one.pure):
        return kept  # Nobody knows what it can have held at that moment.
    states = {model.initial, *(one.leaves for one in bound if not one.pure)}
    quiet: list[int] = []
    last = -1
    for op in (op for op in kept if op.type != "info"):
        if op.invoked > last:
            quiet.append(op.invoked)
        last = max(last, op.completed)

    def enough(place: int) -> bool:
        rest = [op for op in kept if op.type == "info" or op.invoked >= place]
        return time.monotonic() < until and all(
            _decided(rest, msgspec.structs.replace(model, initial=state), until).valid is False for state in states
        )

    step = 1
    while step < len(quiet) and not enough(quiet[-step]):
        step *= 2
    low, high = max(len(quiet) - step, 0), len(quiet) - step // 2  # Enough from `low` on (or all), and not from `high`.
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if enough(quiet[middle]) else (low, middle)
    return [op for op in kept if op.type == "info" or op.invoked >= quiet[low]]


def _among(prefix: list[Operation], others: set[int], reads: list[Operation]) -> list[Operation]:
    kept = others | {id(op) for op in reads}
    return [op for op in prefix if id(op) in kept]


def _window(ops: list[Operation], blocked: Operation, most: int) -> list[Operation]:
    """Those that ran beside the last operation, and the latest before it."""
    near: list[Any] = sorted(ops, key=lambda op: (op.completed < blocked.invoked, -op.completed))
    return sorted(near[:most], key=lambda op: op.invoked)
