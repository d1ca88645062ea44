"""Change the engine in small ways, one at a time, and see which changes no test notices.

    python -m tests.mutation [--mutants 100] [--seed 1] [--tests-s 30] [--workers 2] [--within engine/sqlite] [--again survived]

Cosmic Ray makes the mutants (`mutants.py`), coverage says which tests could notice one (`measure.py`, `covering.py`),
and `judge.py` runs them in a copy of the checkout. Verdicts are kept in .data/mutation/verdicts.jsonl as they come: a
run goes on where the last one ended, and `--again survived` judges the survivors once more. Every survivor is printed with its
change; rfd/ holds the answers to those that stay.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

from tests.mutation.covering import ENGINE, Measured
from tests.mutation.judge import Task, Verdict
from tests.mutation.measure import measure
from tests.mutation.mutants import Mutant, in_turn, mutants, mutated

VERDICTS = Path(".data/mutation/verdicts.jsonl")
OUTCOMES = ("killed", "timed out", "survived")


def verdicts() -> dict[str, Verdict]:
    """The last word on each mutant."""
    if not VERDICTS.exists():
        return {}
    told: list[Verdict] = [json.loads(line) for line in VERDICTS.read_text("utf-8").splitlines()]
    return {verdict["name"]: verdict for verdict in told}


def copy_to(folder: Path) -> None:
    """The checkout with its uncommitted changes, compiled so that only the mutated file is compiled again."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],  # noqa: S607
        capture_output=True, check=True, text=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if Path(name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(name, folder / name)
    subprocess.run(  # noqa: S603  This interpreter.
        [sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "checked-hash", "src", "tests"],
        cwd=folder, check=True,
    )  # fmt: skip


def start(folder: Path, sample: list[tuple[Mutant, str]], measured: Measured, tests_s: float) -> subprocess.Popen[bytes]:
    """A judge of these mutants, in a copy of its own."""
    folder.chmod(0o711)  # The user under whom PostgreSQL runs goes through it.
    copy_to(folder)
    task = Task(
        mutants=[(mutant.name, str(mutant.path), text) for mutant, text in sample],
        measured=measured, verdicts=str(VERDICTS.absolute()), tests_s=tests_s,
    )  # fmt: skip
    (folder / "mutation.task.json").write_text(json.dumps(task), encoding="utf-8")
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "PYTHONPATH": f"{folder / 'src'}:{folder}"}
    command = [sys.executable, "-m", "tests.mutation.judge", "mutation.task.json"]
    return subprocess.Popen(command, cwd=folder, env=environment)  # noqa: S603  Ours.


def report(there: list[Mutant], known: dict[str, Verdict]) -> None:
    """Survivors with their changes, then the totals by module, of mutants that there still are."""
    totals: dict[Path, Counter[str]] = defaultdict(Counter)
    for mutant in there:
        if (verdict := known.get(mutant.name)) is None:
            continue
        totals[mutant.path][verdict["outcome"]] += 1
        if verdict["outcome"] == "survived":
            print(f"\n{mutant.path}:{mutant.line} {mutant.operator} ({verdict['tests']} tests)")
            print("\n".join(verdict["change"]))
    print(f"\n{'judged':>32} {'':6} {' '.join(f'{outcome:>9}' for outcome in OUTCOMES)}")
    for path, counts in [*sorted(totals.items()), ("together", sum(totals.values(), Counter()))]:
        named = path.relative_to(ENGINE) if isinstance(path, Path) else path
        print(f"{named!s:32} {counts.total():6} {' '.join(f'{counts[outcome]:9}' for outcome in OUTCOMES)}")


def main() -> None:
    """Draw, judge, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=100, help="how many more at most")
    parser.add_argument("--seed", type=int, default=1, help="which first")
    parser.add_argument("--tests-s", type=float, default=30, help="seconds of tests for each, as measured")
    parser.add_argument("--workers", type=int, default=2, help="how many at a time")
    parser.add_argument("--within", default="", help="only mutants whose name, PATH:OPERATOR:N:LINE, contains this")
    parser.add_argument("--again", default="", choices=OUTCOMES, help="those that ended so, instead of those not judged")
    asked = parser.parse_args()
    measured, known = measure(), verdicts()
    there = list(mutants())

    def wanted(mutant: Mutant) -> bool:
        verdict = known.get(mutant.name)
        return asked.within in mutant.name and (verdict["outcome"] if verdict else "") == asked.again

    drawn = ((mutant, mutated(mutant)) for mutant in in_turn(filter(wanted, there), asked.seed))
    sample = list(islice(((mutant, text) for mutant, text in drawn if text is not None), asked.mutants))
    print(f"{len(sample)} mutants, seed {asked.seed}", flush=True)
    with ExitStack() as stack:
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="m-"))) for _ in range(asked.workers)]
        running = [start(folder, sample[n :: asked.workers], measured, asked.tests_s) for n, folder in enumerate(folders)]
        try:
            for process in running:
                process.wait()
        except KeyboardInterrupt:
            print("\nbroken off")
        finally:
            for process in running:
                process.terminate()
                process.wait()
    report(there, verdicts())


if __name__ == "__main__":
    main()
