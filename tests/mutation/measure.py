"""Which test runs which line of the engine, and how long each test takes."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import coverage
from tests.mutation.covering import ENGINE, Measured

TESTS = ("tests/engine", "tests/integrations", "tests/cli", "tests/runtime", "tests/testing/test_simulation.py")
KEPT = Path(".data/mutation/measured")


def measure() -> Measured:
    """What is known of these tests; a file of them is measured now unless it and the engine are as they were then."""
    kept = {KEPT / f"{_digest([*_shared(), file])}.json": file for file in _files()}
    if missing := [str(file) for path, file in kept.items() if not path.exists()]:
        print(f"measuring which tests run which lines ({' '.join(missing)}) ...", flush=True)
        KEPT.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            found = _run(Path(folder), missing)
        for path, file in kept.items():
            if str(file) in missing:
                path.write_text(json.dumps(_of(found, str(file))), encoding="utf-8")
        for old in set(KEPT.iterdir()) - kept.keys():
            old.unlink()
    return _together(json.loads(path.read_text("utf-8")) for path in kept)


def _run(folder: Path, files: list[str]) -> Measured:
    data, said = folder / "coverage", folder / "seconds.json"
    subprocess.run(  # noqa: S603  This interpreter.
        [sys.executable, "-m", "coverage", "run", f"--source={ENGINE}",
         "-m", "pytest", "-q", "-p", "no:xdist", "-p", "tests.mutation.contexts", *files],
        env={**os.environ, "COVERAGE_FILE": str(data), "MUTATION_SECONDS": str(said)}, check=False,
    )  # fmt: skip
    answer = json.loads(said.read_text("utf-8"))
    measured = coverage.CoverageData(str(data))
    measured.read()
    lines = {
        str(Path(file).relative_to(Path.cwd())): {str(line): sorted(ran) for line, ran in measured.contexts_by_lineno(file).items()}
        for file in sorted(measured.measured_files())
    }
    return Measured(lines=lines, seconds=answer["seconds"], modules=answer["modules"])


def _of(found: Measured, file: str) -> Measured:
    """The part of one file of tests; those that failed are in no part."""
    tests = {test for test in found["seconds"] if test.startswith(f"{file}::")}
    lines = {
        path: {line: ran for line, all_ran in by_line.items() if (ran := [test for test in all_ran if test in tests])}
        for path, by_line in found["lines"].items()
    }
    return Measured(lines=lines, seconds={test: found["seconds"][test] for test in sorted(tests)}, modules=found["modules"])


def _together(parts: Iterable[Measured]) -> Measured:
    lines: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    seconds: dict[str, float] = {}
    modules: dict[str, None] = {}
    for part in parts:
        seconds.update(part["seconds"])
        modules.update(dict.fromkeys(part["modules"]))
        for path, by_line in part["lines"].items():
            for line, tests in by_line.items():
                lines[path][line] += tests
    return Measured(lines=lines, seconds=seconds, modules=list(modules))


def _files() -> list[Path]:
    return [path for named in map(Path, TESTS) for path in ([named] if named.is_file() else sorted(named.rglob("test_*.py")))]


def _shared() -> list[Path]:
    """What any of the files may rest on: the engine, and what is beside them and no test."""
    folders = {ENGINE, *(file.parent for file in _files())}
    beside = {path for folder in folders for path in folder.rglob("*.py") if not path.name.startswith("test_")}
    return sorted({*beside, *Path("tests").glob("*.py")} - set(Path("tests").glob("test_*.py")))


def _digest(files: list[Path]) -> str:
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()[:16]
