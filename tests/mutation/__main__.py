"""Change the engine in small ways, one at a time, and see which changes no test notices.

    python -m tests.mutation [--mutants 100] [--seed 1] [--workers 2] [--within engine/sqlite]

Cosmic Ray makes the mutants and runs the tests; this program says which mutants, and `covering.py` which tests.
Mutants are made in copies of the checkout, so that a run which is broken off leaves nothing behind here. Every
survivor is printed with its change; rfd/ holds the answers to those that stay.
"""

from __future__ import annotations

import argparse
import ast
import random
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

from cosmic_ray.ast import ast_nodes, get_ast_from_path
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import MutationSpec, TestOutcome, WorkItem, WorkResult
from tests.mutation.covering import ENGINE
from tests.mutation.measure import contexts

ORIGIN = "mutation.origin"
MUTANT_S_MAX = 600  # covering.py has its own, tighter limits; this one is for when it cannot keep them.

# Each operator in its boundary and its opposite; the rest of a table of ten would be found by the same tests.
_REPLACED = {
    "BinaryOperator": (
        "Add_Sub Sub_Add Mul_Div Div_Mul FloorDiv_Mul Mod_FloorDiv LShift_RShift RShift_LShift BitAnd_BitOr BitOr_BitAnd Pow_Mul"
    ),
    "ComparisonOperator": "Lt_LtE Lt_GtE LtE_Lt LtE_Gt Gt_GtE Gt_LtE GtE_Gt GtE_Lt Eq_NotEq NotEq_Eq Is_IsNot IsNot_Is",
    "UnaryOperator": "Delete_Not USub_UAdd",
}  # fmt: skip
OPERATORS = {f"core/Replace{kind}_{pair}" for kind, pairs in _REPLACED.items() for pair in pairs.split()} | {
    f"core/{name}"
    for name in (
        "AddNot", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd",
        "ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "ExceptionReplacer", "NumberReplacer",
        "RemoveDecorator", "ZeroIterationForLoop",
    )
}  # fmt: skip


class _Meaning(ast.NodeTransformer):
    """Leaves out what no test could notice or none should: annotations, marks in signatures, values of named constants.

    A constant is a limit or a wait that tests read by its name: another number is another choice, not a fault.
    """

    def visit_arguments(self, node: ast.arguments) -> ast.AST:
        node.args = [*node.posonlyargs, *node.args, *node.kwonlyargs]
        node.defaults = [*node.defaults, *filter(None, node.kw_defaults)]
        node.posonlyargs, node.kwonlyargs, node.kw_defaults = [], [], []
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.annotation = ast.Constant(None)
        return self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        if all(isinstance(target, ast.Name) and target.id.isupper() for target in node.targets):
            node.value = ast.Constant(None)
        return self.generic_visit(node)


def meaning(source: str) -> str:
    """What two texts share that do the same."""
    return ast.dump(_Meaning().visit(ast.parse(source)))


def candidates(within: str) -> Iterator[WorkItem]:
    """Every mutant of the engine, in the order of files."""
    operators = {name: get_operator(name)() for name in OPERATORS}
    for path in sorted(path for path in ENGINE.rglob("*.py") if within in str(path)):
        tree = get_ast_from_path(path)
        for name, operator in sorted(operators.items()):
            places = (place for node in ast_nodes(tree) for place in operator.mutation_positions(node))
            for occurrence, (begin, end) in enumerate(places):
                mutation = MutationSpec(
                    module_path=path, operator_name=name, occurrence=occurrence, start_pos=begin, end_pos=end
                )
                yield WorkItem.single(job_id=f"{path}:{name}:{occurrence}", mutation=mutation)


def tells(item: WorkItem, originals: dict[Path, str]) -> bool:
    """Whether the mutant can be run and does something else."""
    [mutation] = item.mutations
    source = mutation.module_path.read_text("utf-8")
    before = originals.setdefault(mutation.module_path, meaning(source))
    try:
        mutated = mutate_code(source, get_operator(mutation.operator_name)(), mutation.occurrence)
        return mutated is not None and meaning(mutated) != before
    except SyntaxError:  # The bare `*` of a signature is no product.
        return False
    except AttributeError:  # Cosmic Ray cannot replace an exception with a dotted name.
        return False


def draw(count: int, seed: int, within: str) -> list[WorkItem]:
    """A sample of the mutants that tell something; the same seed draws the same one from the same sources."""
    originals: dict[Path, str] = {}
    drawn = list(candidates(within))
    random.Random(seed).shuffle(drawn)  # noqa: S311  A sample.
    return list(islice((item for item in drawn if tells(item, originals)), count))


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


def start(folder: Path, items: list[WorkItem], measured: Path) -> subprocess.Popen[bytes]:
    """Cosmic Ray over these mutants, in a copy of its own."""
    copy_to(folder)
    shutil.copytree(ENGINE, folder / ORIGIN / ENGINE)  # The checkout's may be edited meanwhile.
    command = [sys.executable, "-m", "tests.mutation.covering", str(measured), ORIGIN]
    (folder / "mutation.toml").write_text(
        f"[cosmic-ray]\nmodule-path = '{ENGINE}'\ntimeout = {MUTANT_S_MAX}\nexcluded-modules = []\n"
        f"test-command = \"{shlex.join(command)}\"\n[cosmic-ray.distributor]\nname = 'local'\n"
    )
    with use_db(folder / "mutation.sqlite", WorkDB.Mode.create) as session:
        session.add_work_items(items)
    program = [str(Path(sys.executable).with_name("cosmic-ray")), "exec", "mutation.toml", "mutation.sqlite"]
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "PYTHONPATH": f"{folder / 'src'}:{folder}"}
    return subprocess.Popen(program, cwd=folder, env=environment)  # noqa: S603  Ours.


def results(folder: Path) -> Iterator[tuple[MutationSpec, WorkResult]]:
    """What became of the mutants so far."""
    with use_db(folder / "mutation.sqlite", WorkDB.Mode.open) as session:
        mutations = {item.job_id: item.mutations[0] for item in session.work_items}
        for job_id, result in session.results:
            yield mutations[job_id], result


def report(done: list[tuple[MutationSpec, WorkResult]]) -> None:
    """Survivors with their changes, then the totals."""
    outcomes: Counter[str] = Counter()
    for mutation, result in sorted(done, key=lambda pair: (str(pair[0].module_path), pair[0].start_pos)):
        outcome = result.test_outcome or TestOutcome.INCOMPETENT
        outcomes[outcome.value] += 1
        if outcome is not TestOutcome.KILLED:
            print(f"\n{outcome.value}: {mutation.module_path}:{mutation.start_pos[0]} {mutation.operator_name}")
            said = (result.diff or result.output or "").splitlines()
            print("\n".join(line for line in said if line[:1] in "+-" and line[:3] not in {"---", "+++"}))
    print(f"\n{len(done)} mutants: {', '.join(f'{count} {outcome}' for outcome, count in sorted(outcomes.items()))}")


def main() -> None:
    """Draw, run, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=100, help="how many at most")
    parser.add_argument("--seed", type=int, default=1, help="which sample")
    parser.add_argument("--workers", type=int, default=2, help="how many at a time")
    parser.add_argument("--within", default="", help="only files whose path contains this")
    asked = parser.parse_args()
    measured = contexts()
    sample = draw(asked.mutants, asked.seed, asked.within)
    print(f"{len(sample)} mutants, seed {asked.seed}", flush=True)
    began = time.monotonic()
    with ExitStack() as stack:
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mutation-"))) for _ in range(asked.workers)]
        running = [start(folder, sample[n :: asked.workers], measured) for n, folder in enumerate(folders)]
        try:
            for process in running:
                process.wait()
        except KeyboardInterrupt:
            print("\nbroken off")
        finally:
            for process in running:
                process.terminate()
                process.wait()
        report([pair for folder in folders for pair in results(folder)])
    print(f"{time.monotonic() - began:.0f} s, seed {asked.seed}")


if __name__ == "__main__":
    main()
