"""Registers: what each read can have read, and what follows from it.

P. Gibbons, E. Korach: Testing shared memories (1997). A write *reigns* from when it takes effect until another
one does, and nothing else is read meanwhile. A read can be of a write that left the value it saw, was called
before the read returned, and was not overwritten for certain before the read was called. The operations of a
reign have a first return and a last call. If that call came after that return, the reign *spans* the time between
them; if not, all of them ran together at some time, where the whole reign has room.

Once every read has its write, there is a linearization exactly if no two spans overlap, and no span holds the whole
common time of another reign. So of reads and writes alone only reads that can be of several writes have to be tried,
which is little if there are many values, however many clients were busy. With other operations (a compare-and-set)
what is certain of the reads that can be of one write only, or of none, is certain still; the rest is left to the
search.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import Any, NamedTuple

from onefold.testing.checkers.history import NEVER, Operation
from onefold.testing.checkers.models import ANY, Bound, Model

_BEFORE = -1  # When the initial value was written.
TRIED_MAX = 20_000  # Where values are few, most reads can be of several writes, and the search is quicker.
Edge = tuple[int, Operation | None]


def plain(operations: Sequence[Operation], model: Model) -> bool:
    """Whether all operations are reads of one value and writes that look at none, so that `linearizable` decides."""
    bound = [model.bind(op) for op in operations]
    return all(one.sees is not ANY if one.pure else one.blind and one.leaves is not ANY for one in bound)


def linearizable(operations: Sequence[Operation], model: Model) -> tuple[bool | None, int]:
    """Whether plain operations have a linearization (None: not known after `TRIED_MAX`), and how much was tried."""
    reigns = _reigns(operations, model)
    if reigns is None or reigns.lost or reigns.clashes():
        return False, 0
    return reigns.settle()


def contradiction(operations: Sequence[Operation], model: Model) -> list[Operation]:
    """Operations by whose answers it is certain that there is no linearization, by their returns.

    Of what is found those that had returned first. Answers none when there may be a linearization, and always for
    models that make a new state out of the old one.
    """
    reigns = _reigns(operations, model)
    if reigns is None:
        return []
    found = [[op] for op in reigns.lost]
    found += [sorted(ops, key=lambda op: op.completed) for ops in reigns.clashes()]
    return min(found, key=lambda ops: ops[-1].completed, default=[])


def _reigns(operations: Sequence[Operation], model: Model) -> _Reigns | None:
    bound = [(op, model.bind(op)) for op in operations]
    if any(one.leaves is ANY and not one.pure for _, one in bound):
        return None
    reigns = _Reigns(model.initial, [(op, one) for op, one in bound if not one.pure])
    for op, one in bound:
        if one.sees is not ANY and op.type == "ok":
            reigns.take(op, one.sees)
    return reigns


class _Choice(NamedTuple):
    """A read that can be of several writes, given to one of them."""

    left: list[int]
    """What else can be tried."""
    blamed: set[int]
    """By number, the earlier choices that were in the way of what was tried."""
    write: int
    first: Edge
    last: Edge
    """The edges that the reign of the write had before."""
    grew: bool


class _Reigns:
    """The writes of a register by number, and their reigns; 0 is the one that left the initial value."""

    def __init__(self, initial: Any, writes: Sequence[tuple[Operation, Bound]]) -> None:
        writes = sorted(writes, key=lambda write: write[0].invoked)
        self.calls = [_BEFORE, *(op.invoked for op, _ in writes)]
        self.returns = [_BEFORE, *(op.completed for op, _ in writes)]
        # Of each reign its first return and its last call, and whose they are. One without return has not begun.
        self.first: list[Edge] = [(_BEFORE, None), *((op.completed, op) for op, _ in writes)]
        self.last: list[Edge] = [(_BEFORE, None), *((op.invoked, op) for op, _ in writes)]
        self.several: list[tuple[Operation, list[int]]] = []  # Reads that can be of several writes.
        self.lost: list[Operation] = []  # Reads that can be of none.
        self.known: dict[Any, list[int]] = {initial: [0]}  # By value, writes with an answer, by their calls.
        self.unknown: dict[Any, list[int]] = {}
        for n, (op, one) in enumerate(writes, 1):
            (self.unknown if op.type == "info" else self.known).setdefault(one.leaves, []).append(n)
        certain = sorted((end, call) for end, call in zip(self.returns, self.calls, strict=True) if end != NEVER)
        self.ends = [end for end, _ in certain]
        self.latest = [call for _, call in certain]  # Of those that returned up to here, the latest call.
        self.earliest = [call for _, call in certain]  # Of those that return from here on, the earliest call.
        for n in range(1, len(certain)):
            self.latest[n] = max(self.latest[n], self.latest[n - 1])
            self.earliest[-1 - n] = min(self.earliest[-1 - n], self.earliest[-n])
        self.spans: list[tuple[int, int]] = []  # (first return, write) of those that span a time; no two overlap.
        self.points: list[tuple[int, int]] = []  # (last call, write) of the others.
        self.grew: dict[int, set[int]] = {}  # By write, the choices that made its reign grow.

    def take(self, op: Operation, value: Any) -> None:
        """Find the writes that a read can be of, and if it is one, take the read into its reign."""
        sources = self.sources(op, value)
        if not sources:
            self.lost.append(op)
        elif len(sources) > 1:
            self.several.append((op, sources))
        else:
            self.first[sources[0]], self.last[sources[0]] = self.grown(sources[0], op)

    def sources(self, op: Operation, value: Any) -> list[int]:
        unknown = self.unknown.get(value, [])
        found = unknown[: bisect_left(unknown, op.completed, key=self.calls.__getitem__)]
        place = bisect_left(self.ends, op.invoked)
        overwriting = self.latest[place - 1] if place else _BEFORE  # What returned before it did not last.
        place = bisect_left(self.ends, overwriting)
        earliest = self.earliest[place] if place < len(self.ends) else NEVER
        known = self.known.get(value, [])
        for n in range(bisect_left(known, op.completed, key=self.calls.__getitem__) - 1, -1, -1):
            if self.calls[known[n]] < earliest:
                break
            if self.returns[known[n]] >= overwriting:
                found.append(known[n])
        return found

    def grown(self, write: int, op: Operation) -> tuple[Edge, Edge]:
        """The edges of a reign with one read more."""
        first, last = self.first[write], self.last[write]
        first = (op.completed, op) if op.completed < first[0] else first
        return first, (op.invoked, op) if op.invoked > last[0] else last

    def clashes(self) -> list[list[Operation]]:
        """The operations at the edges of reigns that cannot both be."""
        found: list[list[Operation]] = []
        for n in range(len(self.first)):
            if self.first[n][0] != NEVER:
                self.put(n)
        longest = self.spans[0][1] if self.spans else 0
        for begin, n in self.spans[1:]:
            if begin < self.last[longest][0]:
                found.append(self.at_edges(n, longest))
            if self.last[n][0] > self.last[longest][0]:
                longest = n
        for _, n in self.points:
            place = bisect_left(self.spans, (self.last[n][0], 0)) - 1
            if place >= 0 and self.first[n][0] < self.last[self.spans[place][1]][0]:
                found.append(self.at_edges(n, self.spans[place][1]))
        return found

    def at_edges(self, *writes: int) -> list[Operation]:
        ops = [op for n in writes for _, op in (self.first[n], self.last[n])]
        return [op for op in ops if op is not None and op.completed != NEVER]

    def settle(self) -> tuple[bool | None, int]:
        """Give each read that can be of several writes to one of them, by their returns; and how often one was.

        Where none is left, it goes back to the latest choice that was in the way (P. Prosser: Hybrid algorithms for
        the constraint satisfaction problem, 1993), not to the one before.
        """
        reads = sorted(self.several, key=lambda read: read[0].completed)
        trail: list[_Choice] = []
        left: list[int] | None = None
        blamed: set[int] = set()
        tried = 0
        while len(trail) < len(reads):
            op, sources = reads[len(trail)]
            if left is None:
                left, blamed = self.choices(op, sources), set()
            if not left:
                if not blamed:
                    return False, tried
                back = max(blamed)
                while len(trail) > back:
                    undone = self.undo(trail)
                    left, blamed = undone.left, blamed | undone.blamed if len(trail) == back else blamed
                blamed.discard(back)
                continue
            tried += 1
            if tried > TRIED_MAX + len(reads):
                return None, tried
            write = left.pop()
            clash = self.choose(trail, _Choice(left, blamed, write, self.first[write], self.last[write], True), op)
            if clash is None:
                left = None
            else:
                blamed |= self.grew.get(write, set()) | self.grew.get(clash, set())
        return True, tried

    def choose(self, trail: list[_Choice], choice: _Choice, op: Operation) -> int | None:
        """Take a read into a reign, unless it then clashes with the one that is answered."""
        first, last = self.grown(choice.write, op)
        if first == choice.first and last == choice.last:
            trail.append(choice._replace(grew=False))
            return None
        clash = self.moved(choice.write, first, last)
        if clash is None:
            self.grew.setdefault(choice.write, set()).add(len(trail))
            trail.append(choice)
        else:
            self.back(choice)
        return clash

    def undo(self, trail: list[_Choice]) -> _Choice:
        choice = trail.pop()
        if choice.grew:
            self.grew[choice.write].discard(len(trail))
            self.back(choice)
        return choice

    def back(self, choice: _Choice) -> None:
        self.drop(choice.write)
        self.first[choice.write], self.last[choice.write] = choice.first, choice.last
        if choice.first[0] != NEVER:
            self.put(choice.write)

    def choices(self, op: Operation, sources: list[int]) -> list[int]:
        """The writes that a read can be given to, the one whose reign grows least last.

        Where none grows, nothing else need be tried. Of writes without answer and reign the one that was called
        first can do all that the others can.
        """
        begun = [n for n in sources if self.first[n][0] != NEVER]
        fresh = [n for n in sources if self.first[n][0] == NEVER][:1]
        growth = {n: self.growth(n, op) for n in begun}
        least = min(begun, key=growth.__getitem__, default=None)
        if least is not None and not growth[least]:
            return [least]
        return [*fresh, *sorted(begun, key=growth.__getitem__, reverse=True)]

    def growth(self, write: int, op: Operation) -> int:
        return max(0, self.first[write][0] - op.completed) + max(0, op.invoked - self.last[write][0])

    def moved(self, write: int, first: Edge, last: Edge) -> int | None:
        """Give a reign other edges; answers a reign that it then clashes with."""
        self.drop(write)
        self.first[write], self.last[write] = first, last
        self.put(write)
        begin, end = first[0], last[0]
        if begin >= end:  # Its common time must not lie within a span.
            place = bisect_left(self.spans, (end, 0))
            other = self.spans[place - 1][1] if place else write
            return other if place and begin < self.last[other][0] else None
        place = bisect_left(self.spans, (begin, write))
        if place and begin < self.last[self.spans[place - 1][1]][0]:
            return self.spans[place - 1][1]
        if place + 1 < len(self.spans) and self.spans[place + 1][0] < end:
            return self.spans[place + 1][1]
        within = self.points[bisect_left(self.points, (begin + 1, 0)) : bisect_left(self.points, (end, 0))]
        return next((other for _, other in within if self.first[other][0] < end), None)

    def put(self, write: int) -> None:
        first, last = self.first[write][0], self.last[write][0]
        insort(self.spans if first < last else self.points, (min(first, last), write))

    def drop(self, write: int) -> None:
        first, last = self.first[write][0], self.last[write][0]
        if first == NEVER:
            return
        among = self.spans if first < last else self.points
        del among[bisect_left(among, (min(first, last), write))]
