"""What is run against one mutant: the tests that run the mutated lines, the quickest first, until one fails.

    python -m tests.mutation.covering CONTEXTS ORIGIN

In the working directory one file of the engine is not as in the folder ORIGIN: the mutant. CONTEXTS was written by
`measure.py`. Exits with 0 where the mutant survives.
"""

from __future__ import annotations

import ast
import difflib
import json
import os
import select
import sys
import threading
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

ENGINE = Path("src/onefold/engine")
TEST_S_MAX = 30  # No test of the engine takes more than four, and many wait for twenty before they give up.
SLACK_S = 40  # Start, and a machine that has other work.
TIMES_LONGER = 4
TESTS_S_MAX = 60  # Lines that every test runs: the quickest tests that fit, as measured.

# Programs of their own, whose lines the measurement does not see.
IN_OTHER_PROCESSES = {
    "sqlite": ("tests/engine/test_sqlite_processes.py", "tests/engine/test_sqlite_forks.py"),
    "postgres": ("tests/engine/test_postgres_wakes.py::test_a_child_",),
}


def changed(origin: Path) -> tuple[Path, set[int]]:
    """The mutated file, and which lines of the original are changed in it."""
    for path in sorted(ENGINE.rglob("*.py")):
        before, after = (origin / path).read_text("utf-8").split("\n"), path.read_text("utf-8").split("\n")
        if before != after:
            blocks = difflib.SequenceMatcher(a=before, b=after, autojunk=False).get_opcodes()
            return path, {n + 1 for what, low, high, _, _ in blocks if what != "equal" for n in range(low, max(high, low + 1))}
    raise SystemExit("nothing is mutated here")


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


def chosen(contexts: dict[str, Any], origin: Path) -> list[str]:
    """The tests to run, in order."""
    path, lines = changed(origin)
    by_line: dict[str, list[str]] = contexts["lines"].get(str(path), {})
    seconds: dict[str, float] = contexts["seconds"]
    for region in around((origin / path).read_text("utf-8"), lines):
        if found := {test for line in region for test in by_line.get(str(line), ())}:
            break
    else:
        found = set()
    elsewhere = {test for test in seconds if test.startswith(IN_OTHER_PROCESSES.get(path.parent.name, ()))} - found

    def place(test: str) -> tuple[bool, float, str]:
        """First those that are named after the module: of a line that all tests run they say most."""
        return path.stem not in Path(test.partition("::")[0]).stem, seconds[test], test

    ordered = sorted(found, key=place) + sorted(elsewhere, key=place)
    used = accumulate(seconds[test] for test in ordered)
    return [test for test, so_far in zip(ordered, used, strict=True) if so_far <= TESTS_S_MAX]


def end_after(limit_s: float) -> None:
    """A deadlock is a death too; and nothing outlives a run that is broken off."""
    poll = select.poll()
    poll.register(os.pidfd_open(os.getppid()), select.POLLIN)  # Linux; readable when that process has ended.
    poll.poll(limit_s * 1000)
    os._exit(3)


def main() -> None:
    """Run them."""
    contexts = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    tests = chosen(contexts, Path(sys.argv[2]))
    if not tests:
        os._exit(0)
    limit_s = SLACK_S + TIMES_LONGER * sum(contexts["seconds"][test] for test in tests)
    threading.Thread(target=end_after, args=(limit_s,), daemon=True).start()
    code = pytest.main(["-x", "-q", "--tb=line", "-o", f"timeout={TEST_S_MAX}", "-p", "no:xdist", *tests])
    sys.stdout.flush()
    os._exit(code)  # Threads that a mutant left behind keep nobody here.


if __name__ == "__main__":
    main()
