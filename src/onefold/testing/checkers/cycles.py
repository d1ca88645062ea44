"""Find cycles among dependencies and name them.

K. Kingsbury, P. Alvaro: Elle: Inferring isolation anomalies from experimental observations (VLDB 2020).
Each kind of cycle is sought three times: among dependencies alone, with the order of each process, and
with real time. Kinds, from the worst:

- G0: only ww. G1c: ww and wr, at least one wr.
- G-single: exactly one rw. G-nonadjacent: several rw, no two of them next to each other.
- G2: two rw next to each other. ("-item": none of them is about a predicate.)

A cycle of a worse kind rules out all models that one of a milder kind does; so where one was found,
milder ones of the same component may stay unnamed.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from itertools import pairwise

from onefold.testing.checkers.graph import (
    KINDS,
    PROCESS,
    REALTIME,
    RW,
    THEN,
    WR,
    WW,
    Graph,
    Step,
    components,
    path,
)  # fmt: skip

LEVELS = (0, PROCESS, PROCESS | REALTIME)
STARTS_MAX = 16  # From so many nodes a shortest cycle is sought.
Cycle = list[Step]


def find_cycles(graph: Graph, deadline_s: float) -> tuple[list[tuple[str, Cycle]], bool]:
    """Named cycles, at most one of each kind for each component, and whether the search was cut by the deadline."""
    found: list[tuple[str, Cycle]] = []
    cut = False
    for whole in components(range(len(graph.out)), lambda node: graph.out[node]):
        for level in LEVELS:
            every = WW | WR | RW | level
            edges = graph.within(whole, every)
            for component in components(edges, edges.__getitem__):
                cycles, late = _of_component(graph, component, level, deadline_s)
                cut |= late
                found += [(name(cycle), cycle) for cycle in cycles if _level(cycle) == level]
    return found, cut


def _level(cycle: Cycle) -> int:
    """The level at which a cycle is told: what is found at a later one too was told already, or worse."""
    kinds = {kind for _, kind, _ in cycle}
    return LEVELS[2] if REALTIME in kinds else LEVELS[1] if PROCESS in kinds else LEVELS[0]


def name(cycle: Cycle) -> str:
    """The kind of a cycle."""
    kinds = [kind for _, kind, _ in cycle]
    several = kinds.count(RW)
    order = "-realtime" if REALTIME in kinds else "-process" if PROCESS in kinds else ""
    if several == 0:
        return ("G1c" if WR in kinds else "G0") + order
    if several == 1:
        return "G-single-item" + order
    adjacent = any(a == b == RW for a, b in pairwise([*kinds, kinds[0]]))
    return ("G2-item" if adjacent else "G-nonadjacent-item") + order


def _of_component(graph: Graph, nodes: list[int], level: int, deadline_s: float) -> tuple[list[Cycle], bool]:
    found = [*_write_cycles(graph, nodes, level), *_information_cycles(graph, nodes, level)]
    single, late = _nonadjacent_cycles(graph, nodes, level, deadline_s)
    found += single
    if not found or not single:
        found += _any_cycle(graph, nodes, level)
    return found, late


def _write_cycles(graph: Graph, nodes: list[int], level: int) -> Iterable[Cycle]:
    edges = graph.within(nodes, WW | level)
    for part in components(edges, edges.__getitem__):
        among = graph.within(part, WW | level)
        ways = [way for node in sorted(part)[:STARTS_MAX] if (way := path(node, node, among))]
        if ways:
            yield _cycle(graph, min(ways, key=len), WW | level)


def _information_cycles(graph: Graph, nodes: list[int], level: int) -> Iterable[Cycle]:
    edges = graph.within(nodes, WW | WR | level)
    for part in components(edges, edges.__getitem__):
        among = graph.within(part, WW | WR | level)
        if ways := _through(graph, among, WR, among, STARTS_MAX):
            yield _cycle(graph, min(ways, key=len), WW | WR | level, WR)


def _any_cycle(graph: Graph, nodes: list[int], level: int) -> Iterable[Cycle]:
    """A short cycle with an rw, whichever it is."""
    edges = graph.within(nodes, WW | WR | RW | level)
    ways = _through(graph, edges, RW, edges, STARTS_MAX)
    if ways:
        yield _cycle(graph, min(ways, key=len), WW | WR | RW | level, RW)


def _through(
    graph: Graph, edges: dict[int, list[int]], kind: int, back: dict[int, list[int]], ways_max: int
) -> list[list[int]]:
    """Cycles that begin with an edge of a kind and come back by the edges `back`; the first nodes first."""
    ways: list[list[int]] = []
    for a in sorted(edges):
        for b in edges[a]:
            if graph.out[a][b] & kind and (way := path(b, a, back) if b != a else None):
                ways.append([a, *way])
                if len(ways) >= ways_max:
                    return ways
    return ways


def _nonadjacent_cycles(graph: Graph, nodes: list[int], level: int, deadline_s: float) -> tuple[list[Cycle], bool]:
    """Cycles with rw edges of which no two are adjacent: one with a single rw if there is any, else the shortest.

    The graph is doubled: node 2n is transaction n reached by another edge than rw, 2n + 1 by rw, from
    where no rw leads on. A component of it with an odd node has such a cycle, and without it there is none.
    """
    edges = graph.within(nodes, WW | WR | RW | level)
    doubled: dict[int, list[int]] = {}
    for a, following in edges.items():
        even, odd = doubled.setdefault(2 * a, []), doubled.setdefault(2 * a + 1, [])
        for b in following:
            kinds = graph.out[a][b]
            if kinds & (WW | WR | level):
                even.append(2 * b)
                odd.append(2 * b)
            if kinds & RW:
                even.append(2 * b + 1)
            if kinds & THEN:
                even.append(2 * b)
                odd.append(2 * b + 1)
    found: list[Cycle] = []
    late = False
    for part in components(doubled, doubled.__getitem__):
        if not any(node & 1 for node in part):
            continue
        among = set(part)
        plain = graph.within({node >> 1 for node in part}, WW | WR | level)
        single: list[int] | None = None
        for a, b in ((n >> 1, m >> 1) for n in part if not n & 1 for m in doubled[n] if m & 1 and m in among):
            if (late := time.monotonic() > deadline_s) or (single := _single(a, b, plain)):
                break
        if single:
            found.append(_cycle(graph, single, WW | WR | level, RW))
            continue
        inner = {node: [other for other in doubled[node] if other in among] for node in part}
        odd = sorted(node for node in part if node & 1)[:STARTS_MAX]
        ways = [way for node in odd if (way := path(node, node, inner))]
        found.append(_doubled_cycle(graph, min(ways, key=len), level))
    return found, late


def _single(a: int, b: int, plain: dict[int, list[int]]) -> list[int] | None:
    way = path(b, a, plain)
    return [a, *way] if way else None


def _cycle(graph: Graph, way: list[int], mask: int, first: int = 0) -> Cycle:
    """The steps of a closed way (its last node is its first); the first step is of kind `first`, if given."""
    kinds = [first or _kind(graph, way[0], way[1], mask)]
    kinds += [_kind(graph, a, b, mask) for a, b in pairwise(way[1:])]
    return _steps(graph, list(pairwise(way)), kinds)


def _doubled_cycle(graph: Graph, way: list[int], level: int) -> Cycle:
    pairs = [(a >> 1, b >> 1) for a, b in pairwise(way)]
    kinds: list[int] = []
    for (a, b), node in zip(pairs, way[1:], strict=True):
        through = graph.out[a][b] & THEN and a >= graph.count
        kinds.append(THEN if through else RW if node & 1 else _kind(graph, a, b, WW | WR | level))
    return _steps(graph, pairs, kinds)


def _kind(graph: Graph, a: int, b: int, mask: int) -> int:
    """The kind of an edge that says least against the history."""
    kinds = graph.out[a][b]
    return next((kind for kind in KINDS if kinds & mask & kind), THEN)


def _steps(graph: Graph, pairs: list[tuple[int, int]], kinds: list[int]) -> Cycle:
    """Steps between transactions: those through moments are one, of the kind by which they began."""
    edges = [(a, kind, b) for (a, b), kind in zip(pairs, kinds, strict=True)]
    while edges[0][0] >= graph.count:
        edges.append(edges.pop(0))
    steps: Cycle = []
    for a, kind, b in edges:
        if a >= graph.count:
            steps[-1] = (steps[-1][0], steps[-1][1], b)
        else:
            steps.append((a, kind, b))
    return steps
