"""The search for a linearization: Wing and Gong's, with Lowe's memory of the configurations seen.

J. Wing, C. Gong: Testing and verifying concurrent objects (1993). G. Lowe: Testing for linearizability
(2017). Operations with an answer are numbered by their returns. A configuration is (the first return whose
operation is not linearized, which later ones are, the state); operations with unknown outcome stand beside
it, since they never have to be linearized. What keeps the search small:

- An operation that changes no state is linearized as soon as it fits, without an alternative.
- Of equal operations the one that returns first is used first, and one with unknown outcome last.
- A write that looks at no state is linearized early only if something that is pending can then go on.
  Else it waits for its return, where it takes effect, or is taken to have stood just before a write that
  was linearized after it was invoked, and to be overwritten: it is *covered*.
- A configuration that used more unknown operations than another, else equal, one, or of which less is
  covered, can do no more than it.
- What lets the operation go on that returns next is tried first.
- States that no read to come can see, or see what was appended to them, are one (unless a `cas` looks at them:
  it may change them, and one that was refused would fit the one state that stands for all).
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import msgspec

from onefold.testing.checkers.history import NEVER, Operation
from onefold.testing.checkers.models import ANY, ILLEGAL, LOST, Bound, Model

CONFIGURATIONS_MAX = 4_000_000  # About 300 bytes each.
STATES_SHOWN_MAX = 8
_CHECK_STEPS = 256  # How often the clock is read.


class Found(msgspec.Struct):
    """What the search found."""

    valid: bool | None
    """None: the deadline or `CONFIGURATIONS_MAX` came first."""
    configurations: int
    blocked: Operation | None = None
    """The operation at whose return no linearization was left: the end of the shortest prefix without one."""
    states: list[Any] = []
    """Some of the states that were possible before it, or a last one of a right history."""
    shortest: bool | None = None
    """Whether every prefix that ends before `blocked` is known to have a linearization; None: not looked for."""


class _Configuration(NamedTuple):
    first: int
    """The operations before this one have returned and are linearized; this one is not."""
    ahead: int
    """Bit n: operation `first + n` is linearized too."""
    covered: int
    """Bit n: operation `first + n` may have taken effect already, and been overwritten."""
    state: Any
    used: int
    """Bit n: unknown operation n has taken effect."""


def search(operations: Sequence[Operation], model: Model, deadline_s: float) -> Found:
    """Look for a linearization of operations (by invocation) until `deadline_s` (monotonic)."""
    return _Search(operations, model).run(deadline_s)


class _Search:
    def __init__(self, operations: Sequence[Operation], model: Model) -> None:
        self.initial: Any = model.initial
        self.ops = sorted((op for op in operations if op.type != "info"), key=lambda op: op.completed)
        self.bound = [model.bind(op) for op in self.ops]
        self.same = [(op.f, op.input, op.output, op.key) for op in self.ops]
        self.pending = _pending(self.ops)
        self.blind = _among(self.pending, [one.blind for one in self.bound])
        self.total = _among(self.pending, [one.blind or one.total for one in self.bound])
        self.replacing = _among(self.pending, [_replaces(one) for one in self.bound])
        self.goals = [n for n, one in enumerate(self.bound) if one.toward is not None]
        unknown = [(op, one) for op in operations if op.type == "info" and not (one := model.bind(op)).pure]
        classes: dict[Any, list[tuple[int, int]]] = {}
        effects: dict[Any, Bound] = {}
        for number, (op, one) in enumerate(unknown):
            classes.setdefault((op.f, op.input, op.key), []).append((number, op.invoked))
            effects[op.f, op.input, op.key] = one
        self.classes = [(effects[what], members) for what, members in classes.items()]
        self.useful = self.which_are_useful([(op, one) for op, one in unknown if not one.blind])
        self.forgets = all(one.blind or one.total or _tells(one) for one in [*self.bound, *(one for _, one in unknown)])
        self.sights = [(n, one.toward or partial(_fits, one)) for n, one in enumerate(self.bound) if one.pure][::-1]
        self.visible: dict[Any, int] = {}  # By state, the last operation that may still see it.
        self.seen: dict[tuple[int, int, Any], list[tuple[int, int]]] = {}
        self.kept = 0
        self.furthest = -1
        self.states: list[Any] = []

    def which_are_useful(self, unknown: Sequence[tuple[Operation, Bound]]) -> list[bool]:
        """Of each blind operation, whether anything can go on from the state that it leaves at its return.

        That is what is pending then, or begins before something overwrites that state for certain.
        """
        calls = sorted((op.invoked, n) for n, op in enumerate(self.ops))
        ends: list[int] = []  # By call: the first return of something blind that is called then or later.
        for _, n in reversed(calls):
            ends.append(min(ends[-1] if ends else NEVER, self.ops[n].completed if self.bound[n].blind else NEVER))
        ends = [*ends[::-1], NEVER]
        found = [not one.blind for one in self.bound]
        for n, one in enumerate(self.bound):
            if not one.blind:
                continue
            state, place = one.step(self.initial), bisect_left(calls, (self.ops[n].completed, 0))
            until = ends[place]
            steps = [self.bound[n + k].step for k in _bits(self.pending[n] & ~self.blind[n])]
            while place < len(calls) and calls[place][0] < until:
                if not self.bound[calls[place][1]].blind:
                    steps.append(self.bound[calls[place][1]].step)
                place += 1
            steps += [later.step for op, later in unknown if op.invoked < until]
            found[n] = _helps(state, steps)
        return found

    def run(self, deadline_s: float) -> Found:
        """Depth first, with a stack of what is left to try."""
        start = self.settled(0, 0, 0, self.initial, 0)
        stack = [self.moves(start)] if start.first < len(self.ops) else []
        count = 0
        while stack:
            count += 1
            if not count % _CHECK_STEPS and (time.monotonic() > deadline_s or self.kept > CONFIGURATIONS_MAX):
                return Found(None, self.kept)
            for then in stack[-1]:
                if then.first == len(self.ops):
                    return Found(True, self.kept, states=[then.state])
                if self.unseen(then):
                    stack.append(self.moves(then))
                    break
            else:
                stack.pop()
        if self.furthest < 0:
            return Found(True, self.kept, states=[start.state])
        return Found(False, self.kept, self.ops[self.furthest], self.states)

    def unseen(self, at: _Configuration) -> bool:
        """Whether a configuration can do more than those seen; it is remembered then."""
        known = self.seen.setdefault((at.first, at.ahead, at.state), [])
        for covered, used in known:
            if covered & at.covered == at.covered and used & at.used == used:
                return False
        left = [one for one in known if one[0] & at.covered != one[0] or one[1] & at.used != at.used]
        self.kept += 1 + len(left) - len(known)
        known[:] = [*left, (at.covered, at.used)]
        return True

    def settled(self, first: int, ahead: int, covered: int, state: Any, used: int) -> _Configuration:
        """Linearize what fits and changes nothing, and pass the returns of what is linearized."""
        bound, pending, count = self.bound, self.pending, len(self.ops)
        looked = 0
        while first < count:
            left = pending[first] & ~ahead & ~looked
            looked |= left
            while left:
                low = left & -left
                left ^= low
                one = bound[first + low.bit_length() - 1]
                if one.pure and one.step(state) is not ILLEGAL:
                    ahead |= low
            passed = (~ahead & (ahead + 1)).bit_length() - 1
            if not passed:
                break
            first, ahead, covered, looked = first + passed, ahead >> passed, covered >> passed, looked >> passed
        if self.forgets and self.seen_until(state) < first:
            state = LOST
        return _Configuration(first, ahead, covered & ~ahead, state, used)

    def seen_until(self, state: Any) -> int:
        """The last operation that a state fits, or that it can grow to fit; -1 if there is none."""
        if (known := self.visible.get(state)) is None:
            known = self.visible[state] = next((n for n, fits in self.sights if fits(state)), -1)
        return known

    def moves(self, at: _Configuration) -> Iterator[_Configuration]:
        """The configurations that come next, the most promising first."""
        self.reached(at)
        first, ahead, covered, state, used = at
        toward, certain = self.goal(first, ahead, used)
        if certain and not toward(state):
            return
        left, due = self.pending[first] & ~ahead, self.bound[first]
        if covered & 1:
            yield self.settled(first, ahead | 1, covered, state, used)
            if not self.useful[first]:
                return
        overwritten = covered | self.total[first] & left
        soon: list[_Configuration] = []
        later: list[_Configuration] = []
        for n, number, one in self.choices(at, left):
            new = one.step(state)
            if new is ILLEGAL or (number >= 0 and new == state) or (certain and not toward(new)):
                continue
            then = _Configuration(
                first, ahead | 1 << n if n >= 0 else ahead, overwritten if one.blind else covered, new,
                used | 1 << number if number >= 0 else used,
            )  # fmt: skip
            if n == 0 or (not due.blind and due.step(new) is not ILLEGAL):
                yield self.settled(*then)
            else:
                (soon if toward(new) else later).append(then)
        for then in (*soon, *later):
            yield self.settled(*then)

    def choices(self, at: _Configuration, left: int) -> Iterator[tuple[int, int, Bound]]:
        """What may be linearized next: (its number from `at.first` on, -1) with an answer, (-1, its number) without."""
        bound, first, state = self.bound, at.first, at.state
        unknown = self.reachable(first, at.used)
        waiting = [bound[first + n].step for n in _bits(left & ~self.blind[first])]
        waiting += [one.step for _, one in unknown if not one.blind]
        tried: set[Any] = set()
        for n in _bits(left):
            one, same = bound[first + n], self.same[first + n]
            if not one.pure and same not in tried:
                tried.add(same)
                if n == 0 or not one.blind or _helps(one.step(state), waiting):
                    yield n, -1, one
                if n == 0 and not self.useful[first] and not _helps(state, waiting):
                    return  # Nothing looks at what it overwrites, or leaves: what else is pending can as well follow.
        for number, one in unknown:
            if not one.blind or _helps(one.step(state), waiting):
                yield -1, number, one

    def goal(self, first: int, ahead: int, used: int) -> tuple[Callable[[Any], bool], bool]:
        """What the next operation that has a say thinks of a state, and whether nothing can replace one before it."""
        place = bisect_left(self.goals, first)
        while place < len(self.goals) and ahead >> (self.goals[place] - first) & 1:
            place += 1
        if place == len(self.goals):
            return _anything, False
        goal = self.goals[place]
        until = self.ops[goal].completed
        certain = not any(
            _replaces(one) and any(invoked < until and not used >> number & 1 for number, invoked in members)
            for one, members in self.classes
        ) and not any(
            self.replacing[n] & 1 and not ahead >> (n - first) & 1 for n in range(first, goal)
        ) and not self.replacing[goal] & ~(ahead >> (goal - first))  # fmt: skip
        toward = self.bound[goal].toward
        assert toward is not None
        return toward, certain

    def reachable(self, first: int, used: int) -> list[tuple[int, Bound]]:
        """Of each class of equal unknown operations the first that is unused, if it was invoked by then."""
        until = self.ops[first].completed
        found: list[tuple[int, Bound]] = []
        for one, members in self.classes:
            for number, invoked in members:
                if not used >> number & 1:
                    if invoked < until:
                        found.append((number, one))
                    break
        return found

    def reached(self, at: _Configuration) -> None:
        """Remember how far a linearization came, and in which states."""
        if at.first > self.furthest:
            self.furthest, self.states = at.first, []
        if at.first == self.furthest and len(self.states) < STATES_SHOWN_MAX and at.state not in (LOST, *self.states):
            self.states.append(at.state)


def _pending(ops: Sequence[Operation]) -> list[int]:
    """For each operation, which ones were invoked before it returned and return with or after it; bit 0 is itself."""
    calls = sorted(range(len(ops)), key=lambda n: ops[n].invoked)
    found: list[int] = []
    mask, place = 0, 0
    for n, op in enumerate(ops):
        while place < len(calls) and ops[calls[place]].invoked <= op.completed:
            mask |= 1 << (calls[place] - n)
            place += 1
        found.append(mask)
        mask >>= 1
    return found


def _among(pending: Sequence[int], which: Sequence[bool]) -> list[int]:
    """Of each mask of `_pending` the part of those that are `which`."""
    every = sum(1 << n for n, one in enumerate(which) if one)
    return [mask & every >> n for n, mask in enumerate(pending)]


def _helps(state: Any, waiting: Sequence[Callable[[Any], Any]]) -> bool:
    """Whether something that waits can go on from a state."""
    return any(step(state) is not ILLEGAL for step in waiting)


def _tells(one: Bound) -> bool:
    """Whether it is a read that only one state fits, or those that grow into one."""
    return one.pure and (one.sees is not ANY or one.toward is not None)


def _replaces(one: Bound) -> bool:
    """Whether it leaves another state than one that grew out of the one before: a write, a compare-and-set."""
    return not one.pure and not one.total


def _fits(one: Bound, state: Any) -> bool:
    return one.step(state) is not ILLEGAL


def _anything(_: Any) -> bool:
    return False


def _bits(mask: int) -> Iterator[int]:
    while mask:
        low = mask & -mask
        mask ^= low
        yield low.bit_length() - 1
