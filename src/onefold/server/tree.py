"""Finds the route of a path: literal segments win over parameters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from onefold.core.errors import Invalid
from onefold.server.binding import Bound


class Tree:
    """Routes by segment; looking up costs the length of the path, however many routes there are."""

    def __init__(self, routes: Iterable[Bound]) -> None:
        self._root = _Node()
        for route in routes:
            node = self._root
            for segment in route.path.strip("/").split("/"):
                node = node.children.setdefault("{}" if segment.startswith("{") else segment, _Node())
            if route.verb in node.verbs:
                raise Invalid("Two routes have one verb and path.", route=route.where)
            node.verbs[route.verb] = route

    def find(self, segments: Sequence[str]) -> dict[str, Bound]:
        """The routes of this path by verb; empty when there is none."""
        node = self._root.find(segments, 0)
        return node.verbs if node else {}


class _Node:
    __slots__ = ("children", "verbs")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.verbs: dict[str, Bound] = {}

    def find(self, segments: Sequence[str], at: int) -> _Node | None:
        if at == len(segments):
            return self if self.verbs else None
        for name in (segments[at], "{}"):
            child = self.children.get(name)
            if child is not None and (found := child.find(segments, at + 1)) is not None:
                return found
        return None


def parameters_of(route: Bound, segments: Sequence[str]) -> dict[str, str]:
    """What stands in the path where the route has braces."""
    if not route.by_path:
        return {}
    template = route.path.strip("/").split("/")
    return {name[1:-1]: value for name, value in zip(template, segments, strict=True) if name.startswith("{")}
