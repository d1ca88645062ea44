"""Which test runs which line of the engine, and how long each test takes."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path

import coverage

TESTS = ("tests/engine", "tests/integrations", "tests/cli", "tests/runtime", "tests/testing/test_simulation.py")
MEASURED = Path(".data/mutation")


def contexts() -> Path:
    """The file of what was measured; measured now, unless the engine and these tests are as they were then."""
    path = MEASURED / f"contexts-{_fingerprint()}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        print(f"measuring which tests run which lines ({', '.join(TESTS)}) ...", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            lines, seconds = _run(Path(folder))
        path.write_text(json.dumps({"lines": lines, "seconds": seconds}), encoding="utf-8")
    return path.resolve()


def _run(folder: Path) -> tuple[dict[str, dict[int, list[str]]], dict[str, float]]:
    data, seconds = folder / "coverage", folder / "seconds.json"
    subprocess.run(  # noqa: S603  This interpreter.
        [sys.executable, "-m", "coverage", "run", "--source=src/onefold/engine",
         "-m", "pytest", "-q", "-p", "no:xdist", "-p", "tests.mutation.contexts", *TESTS],
        env={**os.environ, "COVERAGE_FILE": str(data), "MUTATION_SECONDS": str(seconds)}, check=False,
    )  # fmt: skip
    passed: dict[str, float] = json.loads(seconds.read_text("utf-8"))
    return by_line(data, passed), passed


def by_line(data: Path, tests: Collection[str]) -> dict[str, dict[int, list[str]]]:
    """Per file of the engine and line, which of the tests run it."""
    measured = coverage.CoverageData(str(data))
    measured.read()
    return {
        str(Path(file).relative_to(Path.cwd())): {
            line: [test for test in sorted(ran) if test in tests] for line, ran in measured.contexts_by_lineno(file).items()
        }
        for file in sorted(measured.measured_files())
    }


def _fingerprint() -> str:
    folders = {Path("src/onefold/engine"), *(Path(test) if Path(test).is_dir() else Path(test).parent for test in TESTS)}
    files = [path for folder in sorted(folders) for path in sorted(folder.rglob("*.py"))]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()[:16]
