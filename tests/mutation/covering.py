"""Which tests could notice a change, those first that most likely do so soonest."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypedDict

ENGINE = Path("src/onefold/engine")
COLLECT_S = 0.02  # What a test costs beside its own seconds.

# Programs of their own, whose lines the measurement does not see; they get half as much time as the others, besides.
IN_OTHER_PROCESSES = {
    "sqlite": ("tests/engine/test_sqlite_processes.py", "tests/engine/test_sqlite_forks.py"),
    "postgres": ("tests/engine/test_postgres_wakes.py::test_a_child_",),
}


class Measured(TypedDict):
    """What `measure.py` measured.

    Attributes:
        lines: per file of the engine and line, the tests that run it.
        seconds: how long each test takes.
        modules: what is imported by the end of all tests, from packages of others.
    """

    lines: dict[str, dict[str, list[str]]]
    seconds: dict[str, float]
    modules: list[str]


def changed(before: str, after: str) -> set[int]:
    """Which lines of the original are changed."""
    blocks = difflib.SequenceMatcher(a=before.split("\n"), b=after.split("\n"), autojunk=False).get_opcodes()
    return {n + 1 for what, low, high, _, _ in blocks if what != "equal" for n in range(low, max(high, low + 1))}


def around(source: str, lines: set[int]) -> list[set[int]]:
    """The lines, then those of ever larger definitions around them, then the file's."""
    spans = [
        (node.end_lineno - first, set(range(first, node.end_lineno + 1)))
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.end_lineno
        for first in [min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])]
    ]
    wider = sorted((span for span in spans if lines <= span[1]), key=lambda span: span[0])
    return [lines, *(span[1] for span in wider), set(range(1, source.count("\n") + 2))]


def chosen(measured: Measured, kills: dict[tuple[str, str], int], path: str, before: str, after: str, *, tests_s: float) -> list[str]:
    """The tests to run against a change of `path`, in order.

    Args:
        measured: which tests run which lines.
        kills: how many mutants of a file each test has noticed, by file and test.
        path: of the file.
        before: its text.
        after: its text with the change.
        tests_s: as many tests as take so long, as measured.
    """
    by_line, seconds = measured["lines"].get(path, {}), measured["seconds"]
    found: set[str] = set()
    for region in around(before, changed(before, after)):
        if found := {test for line in region for test in by_line.get(str(line), ())}:
            break
    stem, folder = Path(path).stem, Path(path).parent.name
    elsewhere = {test for test in seconds if test.startswith(IN_OTHER_PROCESSES.get(folder, ()))} - found

    def worth(test: str) -> float:
        """How likely it notices, for each second that it takes: what noticed before, what is named after the module."""
        file = Path(test.partition("::")[0]).stem
        named = 1 if stem in file else 0.3 if folder in file else 0.1
        return (kills.get((path, test), 0) + named) / (seconds[test] + COLLECT_S)

    def best(tests: Iterable[str], most_s: float) -> Iterator[str]:
        for test in sorted(sorted(tests), key=worth, reverse=True):
            if seconds[test] <= most_s:
                most_s -= seconds[test]
                yield test

    return [*best(found, tests_s), *best(elsewhere, tests_s / 2)]
