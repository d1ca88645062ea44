"""What could be wrong with the engine: every small change that Cosmic Ray makes and that does something else."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from functools import lru_cache
from hashlib import sha256
from itertools import chain, zip_longest
from pathlib import Path
from typing import NamedTuple

from cosmic_ray.ast import ast_nodes, get_ast_from_path
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator
from tests.mutation.covering import ENGINE

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


UNITS = ("_ns", "_ms", "_s", "_bytes")


class Mutant(NamedTuple):
    """One change. `name` is the same as long as the changed line is, whatever becomes of the lines around it."""

    name: str
    path: Path
    operator: str
    occurrence: int
    line: int


class _Meaning(ast.NodeTransformer):
    """Leaves out what no test could notice or none should: annotations, marks in signatures, values of named constants.

    A constant is a limit or a wait that tests read by its name: another number is another choice, not a fault. So is
    what is handed over by a name with a unit in it.
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

    def visit_keyword(self, node: ast.keyword) -> ast.AST:
        if (node.arg or "").endswith(UNITS) and isinstance(node.value, ast.Constant | ast.UnaryOp):
            node.value = ast.Constant(None)
        return self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        names = [name for target in node.targets for name in (target.elts if isinstance(target, ast.Tuple) else [target])]
        if all(isinstance(name, ast.Name) and name.id.isupper() for name in names):
            node.value = ast.Constant(None)
        return self.generic_visit(node)


@lru_cache(maxsize=1_000)
def meaning(source: str) -> str:
    """What two texts share that do the same."""
    return ast.dump(_Meaning().visit(ast.parse(source)))


def mutants() -> Iterator[Mutant]:
    """Every mutant of the engine, in the order of files."""
    operators = {name: get_operator(name)() for name in OPERATORS}
    for path in sorted(ENGINE.rglob("*.py")):
        tree = get_ast_from_path(path)
        lines = path.read_text("utf-8").split("\n")
        for operator, found in sorted(operators.items()):
            places = (place for node in ast_nodes(tree) for place in found.mutation_positions(node))
            alike: Counter[str] = Counter()
            for occurrence, ((line, _), _) in enumerate(places):
                text = lines[line - 1].strip()
                alike[text] += 1
                yield Mutant(f"{path}:{operator}:{alike[text]}:{text}", path, operator, occurrence, line)


def in_turn(drawn: Iterable[Mutant], seed: int) -> Iterator[Mutant]:
    """One of each module, then another of each: however early a run ends, it has seen them all.

    Within a module the seed and the names say which comes first: an edit of other lines changes nothing.
    """
    modules: dict[Path, list[Mutant]] = defaultdict(list)
    for mutant in drawn:
        modules[mutant.path].append(mutant)
    shuffled = (sorted(those, key=lambda mutant: sha256(f"{seed}:{mutant.name}".encode()).digest()) for those in modules.values())
    return filter(None, chain.from_iterable(zip_longest(*shuffled)))


def mutated(mutant: Mutant) -> str | None:
    """The module with the change; None where it cannot be run, or does the same."""
    source = mutant.path.read_text("utf-8")
    try:
        text = mutate_code(source, get_operator(mutant.operator)(), mutant.occurrence)
        return text if text is not None and meaning(text) != meaning(source) else None
    except SyntaxError:  # The bare `*` of a signature is no product.
        return None
    except AttributeError:  # Cosmic Ray cannot replace an exception with a dotted name.
        return None
