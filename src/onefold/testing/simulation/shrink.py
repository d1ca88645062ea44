"""A smaller run that fails in the same way: fewer clients, rounds, faults and switches.

Decisions are made simpler, never left out: 0 is the simplest in every stream, and what a scenario may draw
it may also be given, so every attempt is a run that could have happened. Which zeros can be put in is found
by delta debugging (Zeller and Hildebrandt, 2002) over each stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from onefold.testing.simulation.choices import without_end

SEARCHES = 24  # Orders tried for a scenario that is smaller by one.
ORDER_TRIED, ACTORS_TRIED = 64, 9

Decisions = dict[str, list[int]]

_WHOLE = ("count of ", "rounds of ")
_MAGNITUDES = {"count of ", "rounds of ", "faults of "}  # Where less is simpler; elsewhere only 0 is.
_ORDER = (
    "count of ", "rounds of ", "faults of ", "pauses of ", "restarts of ", "wakes of ", "drift of ", "delays", "order",
)  # fmt: skip


def shrunk(
    made: Decisions, fails: Callable[[Decisions], Decisions | None], *, runs_max: int, enough: Callable[[], bool]
) -> tuple[Decisions, int]:
    """The simplest decisions found that still fail, and how many runs that took.

    Args:
        made: decisions that fail.
        fails: runs with the decisions given; answers the ones made when that fails in the same way, else None.
        runs_max: how many runs at most.
        enough: whether they took so long that no further one is begun.
    """
    best, runs = made, 0
    better = True
    while better and runs < runs_max and not enough():
        better = False
        for candidate in _simpler(lambda: best):  # noqa: B023  Whatever is best by then.
            runs += 1
            found = fails(candidate)
            if found is not None and _size(found) < _size(best):
                best, better = found, True
            if runs >= runs_max or enough():
                break
    return best, runs


def _size(made: Decisions) -> tuple[int, int, int]:
    """Fewer clients and rounds first, then fewer decisions that are not 0, then smaller ones."""
    whole = sum(sum(values) for name, values in made.items() if name.startswith(_WHOLE))
    rest = [value for name, values in made.items() if not name.startswith(_WHOLE) for value in values if value]
    return whole, len(rest), sum(rest)


def _simpler(best: Callable[[], Decisions]) -> Iterator[Decisions]:
    """Candidates; each is made from what is best by the time it is asked for."""
    yield from _searched_anew(best)
    for kind in _ORDER:
        for name in [name for name in best() if name.startswith(kind)]:
            yield _with(best(), name, [])
            length = len(best().get(name, ()))
            chunk = length // 2
            while chunk:
                for start in range(0, length, chunk):
                    values = best().get(name, [])
                    if any(values[start : start + chunk]):
                        zeros = [0] * len(values[start : start + chunk])
                        yield _with(best(), name, [*values[:start], *zeros, *values[start + chunk :]])
                chunk //= 2
            if kind in _MAGNITUDES:
                yield from _smaller(best, name)


def _searched_anew(best: Callable[[], Decisions]) -> Iterator[Decisions]:
    """Smaller scenarios under orders drawn anew: the old order says little about them.

    First the smallest that can be, without faults; then one client or round less.
    """
    dice = Random(0)  # noqa: S311  The same every time.

    def order() -> list[int]:
        return [dice.choice((0, 0, dice.randrange(ACTORS_TRIED))) for _ in range(ORDER_TRIED)]

    for fewest in (1, 2):
        counts = {name: values for name, values in best().items() if name.startswith(_WHOLE[0])}
        least = {name: [min(fewest, value) for value in values] for name, values in counts.items()}
        for _ in range(SEARCHES):
            yield {**least, "order": order()}
    for name in [name for name in best() if name.startswith(_WHOLE)]:
        for _ in range(SEARCHES):
            values = best().get(name)
            if values:
                yield _with(_with(best(), name, [*values[:-1], values[-1] - 1]), "order", order())


def _smaller(best: Callable[[], Decisions], name: str) -> Iterator[Decisions]:
    """The values themselves, halved and less one."""
    for place in range(len(best().get(name, ()))):
        for smaller in (lambda v: v // 2, lambda v: v - 1):  # pyright: ignore[reportUnknownLambdaType]
            values = best().get(name, [])
            if place < len(values) and values[place] > 1:
                yield _with(best(), name, [*values[:place], smaller(values[place]), *values[place + 1 :]])


def _with(made: Decisions, name: str, values: list[int]) -> Decisions:
    changed = {key: kept for key, kept in made.items() if key != name}
    if values := without_end(values):
        changed[name] = values
    return changed
