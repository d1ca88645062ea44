"""Graphs of transactions: typed edges, strongly connected components, shortest cycles.

A node below `count` is a transaction. Nodes above stand for moments: what leads into one leads to
everything behind it, so that a relation of many to many has few edges (`THEN` edges, which are no
steps of their own). R. Tarjan: Depth-first search and linear graph algorithms (1972).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence

WW, WR, RW, PROCESS, REALTIME, THEN = 1, 2, 4, 8, 16, 32
KINDS = (WW, WR, RW, PROCESS, REALTIME)
NAMES = {WW: "ww", WR: "wr", RW: "rw", PROCESS: "process", REALTIME: "realtime"}
Step = tuple[int, int, int]
"""From a transaction, by a kind of edge, to a transaction."""


class Graph:
    """Nodes from 0; `out[a][b]` has the kinds of the edges from a to b, as bits."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.out: list[dict[int, int]] = [{} for _ in range(count)]

    def link(self, a: int, b: int, kind: int) -> None:
        """Add an edge; none from a node to itself."""
        if a != b:
            out = self.out[a]
            out[b] = out.get(b, 0) | kind

    def moment(self) -> int:
        """A new node that is no transaction."""
        self.out.append({})
        return len(self.out) - 1

    def within(self, nodes: Iterable[int], mask: int) -> dict[int, list[int]]:
        """The part of the graph among `nodes`, with edges of the kinds in `mask`."""
        mask |= THEN
        among = set(nodes)
        return {a: [b for b, kinds in self.out[a].items() if kinds & mask and b in among] for a in among}


def components(nodes: Iterable[int], next: Callable[[int], Iterable[int]]) -> list[list[int]]:  # noqa: A002
    """The strongly connected components of more than one node."""
    number: dict[int, int] = {}
    low: dict[int, int] = {}
    on_stack: set[int] = set()
    stack: list[int] = []
    found: list[list[int]] = []
    for root in nodes:
        if root in number:
            continue
        number[root] = low[root] = len(number)
        stack.append(root)
        on_stack.add(root)
        work = [(root, iter(next(root)))]
        while work:
            node, following = work[-1]
            for other in following:
                if other not in number:
                    number[other] = low[other] = len(number)
                    stack.append(other)
                    on_stack.add(other)
                    work.append((other, iter(next(other))))
                    break
                if other in on_stack and number[other] < low[node]:
                    low[node] = number[other]
            else:
                work.pop()
                if work and low[node] < low[work[-1][0]]:
                    low[work[-1][0]] = low[node]
                if low[node] == number[node]:
                    component: list[int] = []
                    while True:
                        one = stack.pop()
                        on_stack.discard(one)
                        component.append(one)
                        if one == node:
                            break
                    if len(component) > 1:
                        found.append(component)
    return found


def path(start: int, goal: int, edges: dict[int, list[int]]) -> list[int] | None:
    """The nodes of a shortest way from `start` to `goal`, at least one edge long; None when there is none."""
    came: dict[int, int] = {}
    queue = deque([start])
    while queue:
        node = queue.popleft()
        for other in edges.get(node, ()):
            if other == goal:
                way = [goal, node]
                while node != start:
                    node = came[node]
                    way.append(node)
                return way[::-1]
            if other not in came and other != start:
                came[other] = node
                queue.append(other)
    return None


class Fan:
    """Many targets that are linked to as one, from many sources, with few edges; from a target to all others."""

    def __init__(self, graph: Graph, targets: Sequence[int]) -> None:
        self.graph = graph
        self.place = {target: place for place, target in enumerate(targets)}
        self.upto = self.chain(targets) if len(targets) > 1 else list(targets)
        self.from_end = self.chain(targets[::-1]) if len(targets) > 1 else list(targets)

    def chain(self, targets: Sequence[int]) -> list[int]:
        """Moments, of which number n leads to the first n + 1 targets."""
        moments: list[int] = []
        for target in targets:
            moment = self.graph.moment()
            self.graph.link(moment, target, THEN)
            if moments:
                self.graph.link(moment, moments[-1], THEN)
            moments.append(moment)
        return moments

    def link(self, source: int, kind: int) -> None:
        """Link a transaction to all targets but itself."""
        place = self.place.get(source)
        if place is None:
            if self.upto:
                self.graph.link(source, self.upto[-1], kind)
            return
        if place:
            self.graph.link(source, self.upto[place - 1], kind)
        if place + 1 < len(self.place):
            self.graph.link(source, self.from_end[len(self.place) - place - 2], kind)


def order_in_time(graph: Graph, spans: Sequence[tuple[int, int, bool]]) -> None:
    """Link what ended before something began: `spans` are (began, ended, whether it is known that it ended).

    Ends are gathered into moments, and what begins follows the latest moment: edges grow with the number
    of transactions, not with its square.
    """
    events = sorted(
        event for n, (began, ended, known) in enumerate(spans)
        for event in [(began, 0, n)] + ([(ended, 1, n)] if known else [])
    )  # fmt: skip
    latest: int | None = None
    ended_since: list[int] = []
    for _, is_end, n in events:
        if is_end:
            ended_since.append(n)
            continue
        if ended_since:
            moment = graph.moment()
            if latest is not None:
                graph.link(latest, moment, THEN)
            for one in ended_since:
                graph.link(one, moment, REALTIME)
            latest, ended_since = moment, []
        if latest is not None:
            graph.link(latest, n, THEN)
