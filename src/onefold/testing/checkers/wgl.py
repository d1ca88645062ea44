"""The search for a linearization: Wing and Gong's, with Lowe's memory of the configurations seen.

J. Wing, C. Gong: Testing and verifying concurrent objects (1993). G. Lowe: Testing for linearizability
(2017). A configuration is (what is linearized, the state). Operations with an answer stand in a linked
list of their calls and returns; those with unknown outcome stand beside it, since they never have to be
linearized. Three things keep the search small:

- An operation that changes no state is linearized as soon as it fits, without an alternative.
- Of equal operations with unknown outcome the earliest is used first.
- A configuration that used more unknown operations than another, else equal, one can do no more than it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec

from onefold.testing.checkers.history import Operation
from onefold.testing.checkers.models import ILLEGAL, Model

CONFIGURATIONS_MAX = 4_000_000  # About 300 bytes each.
STATES_SHOWN_MAX = 8
PATH_SHOWN_MAX = 64
_CHECK_STEPS = 1_024  # How often the clock is read.


class Found(msgspec.Struct):
    """What the search found."""

    valid: bool | None
    """None: the deadline or `CONFIGURATIONS_MAX` came first."""
    configurations: int
    blocked: Operation | None = None
    """The operation at whose return no linearization was left: the end of the shortest prefix without one."""
    states: list[Any] = []
    """Some of the states that were possible before it."""
    path: list[Operation] = []
    """The end of one longest linearization of what came before."""


def search(operations: Sequence[Operation], model: Model, deadline_s: float) -> Found:
    """Look for a linearization of operations (`ok` and `info`, by invocation) until `deadline_s` (monotonic)."""
    return _Search(operations, model).run(deadline_s)


class _Search:
    def __init__(self, operations: Sequence[Operation], model: Model) -> None:
        self.ops = [op for op in operations if op.type == "ok"]
        bound = [model.bind(op) for op in self.ops]
        self.steps = [one.step for one in bound]
        self.pure = [one.pure for one in bound]
        self.state: Any = model.initial
        self.link()
        unknown = [(op, model.bind(op)) for op in operations if op.type == "info"]
        self.unknown = [(op, one.step) for op, one in unknown if not one.pure]
        classes: dict[Any, list[int]] = {}
        for number, (op, _) in enumerate(self.unknown):
            classes.setdefault((op.f, op.input, op.key), []).append(number)
        self.classes = list(classes.values())
        self.seen: dict[Any, list[int]] = {}
        self.furthest = -1
        self.states: list[Any] = []
        self.path: list[Operation] = []

    def link(self) -> None:
        """Lay out calls and returns by time: node 0 is the head, an operation's call links to its return."""
        events = sorted(
            [(op.invoked, 0, n) for n, op in enumerate(self.ops)]
            + [(op.completed, 1, n) for n, op in enumerate(self.ops)]
        )
        self.place = [-1] + [place for place, _, _ in events]
        self.op_of = [-1] + [n for _, _, n in events]
        self.is_call = [True] + [not is_return for _, is_return, _ in events]
        self.next = [*range(1, len(events) + 1), 0]
        self.before = [len(events), *range(len(events))]
        self.return_of = [0] * len(self.ops)
        for node, (_, is_return, n) in enumerate(events, 1):
            if is_return:
                self.return_of[n] = node

    def lift(self, node: int) -> None:
        after, before = self.next, self.before
        for one in (node, self.return_of[self.op_of[node]]):
            after[before[one]] = after[one]
            before[after[one]] = before[one]

    def unlift(self, node: int) -> None:
        after, before = self.next, self.before
        for one in (self.return_of[self.op_of[node]], node):
            after[before[one]] = one
            before[after[one]] = one

    def unseen(self, key: Any, used: int) -> bool:
        """Whether a configuration is new, and remember it. One that used a part of `used` could do as much."""
        known = self.seen.get(key)
        if known is None:
            self.seen[key] = [used]
            return True
        for one in known:
            if one & used == one:
                return False
        known[:] = [one for one in known if one & used != used]
        known.append(used)
        return True

    def run(self, deadline_s: float) -> Found:
        """Depth first, with a stack of what was tried: (node or class, base, bits, state, used)."""
        after, op_of, is_call, steps, pure = self.next, self.op_of, self.is_call, self.steps, self.pure
        state, base, bits, used = self.state, 0, 0, 0
        stack: list[tuple[int, int, int, Any, int, int]] = []
        self.seen[0, 0, state] = [0]
        node, klass, count = after[0], 0, 0
        while after[0]:
            count += 1
            if not count % _CHECK_STEPS and (time.monotonic() > deadline_s or len(self.seen) > CONFIGURATIONS_MAX):
                return Found(None, len(self.seen))
            if is_call[node]:
                n = op_of[node]
                new = steps[n](state)
                if new is ILLEGAL:
                    node = after[node]
                    continue
                self.lift(node)
                first = op_of[after[0]] if after[0] else n + 1
                shifted = (bits | 1 << (n - base)) >> (first - base) if first >= base else bits
                if self.unseen((first, shifted, new), used):
                    stack.append((node, base, bits, state, used, -1))
                    state, base, bits, node, klass = new, first, shifted, after[0], 0
                    continue
                self.unlift(node)
                if not pure[n]:
                    node = after[node]
                    continue
            elif (move := self.unknown_move(node, klass, state, base, bits, used)) is not None:
                klass, new, more = move
                stack.append((node, base, bits, state, used, klass))
                state, used, node, klass = new, more, after[0], 0
                continue
            else:
                self.block(node, state, stack)
            while True:  # Back to the last choice that leaves another.
                if not stack:
                    return self.failed()
                node, base, bits, state, used, tried = stack.pop()
                if tried >= 0:
                    klass = tried + 1
                    break
                self.unlift(node)
                if not pure[op_of[node]]:
                    node, klass = after[node], 0
                    break
        return Found(True, len(self.seen))

    def unknown_move(
        self, node: int, klass: int, state: Any, base: int, bits: int, used: int
    ) -> tuple[int, Any, int] | None:
        """The next unknown operation, from class `klass` on, that may have taken effect before the return at `node`."""
        for number in range(klass, len(self.classes)):
            for one in self.classes[number]:
                if not used >> one & 1:
                    op, step = self.unknown[one]
                    if op.invoked < self.place[node]:
                        new = step(state)
                        if new is not ILLEGAL and new != state and self.unseen((base, bits, new), used | 1 << one):
                            return number, new, used | 1 << one
                    break
        return None

    def block(self, node: int, state: Any, stack: list[tuple[int, int, int, Any, int, int]]) -> None:
        """Remember how far a linearization came: every one that there is comes to an end at some return."""
        if node > self.furthest:
            self.furthest, self.states = node, []
            self.path = [
                self.ops[self.op_of[frame[0]]] if frame[5] < 0 else self.used_by(frame)
                for frame in stack[-PATH_SHOWN_MAX:]
            ]
        if node == self.furthest and len(self.states) < STATES_SHOWN_MAX and state not in self.states:
            self.states.append(state)

    def used_by(self, frame: tuple[int, int, int, Any, int, int]) -> Operation:
        """The unknown operation that a frame of the stack used: the first of its class that was unused."""
        return next(self.unknown[one][0] for one in self.classes[frame[5]] if not frame[4] >> one & 1)

    def failed(self) -> Found:
        return Found(False, len(self.seen), self.ops[self.op_of[self.furthest]], self.states, self.path)
