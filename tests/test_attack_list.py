"""The list of attacks names tests that exist, and the code keeps to what the list says of it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LIST = ROOT / "docs" / "attacks.md"
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
HEADER = "| Attack | Defence | Tried by |"
#: Names of values that nobody may learn by the time that a comparison takes.
SECRET = re.compile(r"secret|signature|form_token|hmac|mac_of|^digest$|_digest$")
RUNS = {"xml", "lxml", "yaml", "pickle", "marshal", "shelve", "dill", "cloudpickle"}


def rows() -> list[list[str]]:
    """The cells of each line of the tables."""
    lines = [line for line in LIST.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line != HEADER and "---" not in line]


@cache
def functions_of(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


def test_each_attack_has_a_defence_and_a_test() -> None:
    assert len(rows()) > 60
    for cells in rows():
        assert len(cells) == 3, cells
        assert all(cells), cells
        assert NAMED.findall(cells[2]), cells[0]
        assert not NAMED.sub("", cells[2]).strip(" ,"), f"{cells[0]}: something else than tests"


@pytest.mark.parametrize(("file", "name"), sorted(set(NAMED.findall(LIST.read_text(encoding="utf-8")))))
def test_a_test_that_the_list_names_exists(file: str, name: str) -> None:
    assert (ROOT / file).is_file()
    assert name in functions_of(ROOT / file)


def test_the_page_on_security_leads_to_the_list() -> None:
    assert "(docs/attacks.md)" in (ROOT / "SECURITY.md").read_text(encoding="utf-8")


def compared(tree: ast.AST) -> Iterator[str]:
    """Secrets that stand beside == or !=."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and any(isinstance(op, (ast.Eq, ast.NotEq)) for op in node.ops):
            for side in (node.left, *node.comparators):
                name = side.attr if isinstance(side, ast.Attribute) else side.id if isinstance(side, ast.Name) else ""
                if SECRET.search(name):
                    yield ast.unparse(node)


def test_secrets_are_compared_in_constant_time() -> None:
    assert list(compared(ast.parse("found.digest == digest"))) != [], "a canary"
    guarded = 0
    for folder in ("src/onefold/identity", "src/onefold/server", "src/onefold/messaging/webhooks", "src/onefold/products/payments", "examples"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            assert list(compared(ast.parse(text))) == [], path
            guarded += text.count("compare_digest(")
    assert guarded >= 6, "tokens, sessions, forms, webhooks, callbacks and visitors"


def test_no_parser_that_runs_what_it_reads() -> None:
    for path in [*(ROOT / "src").rglob("*.py"), *(ROOT / "examples").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not {name.partition(".")[0] for name in names} & RUNS, path
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in {"eval", "exec", "os.system", "os.popen", "__import__"}, path
                assert not any(word.arg == "shell" for word in node.keywords), path
