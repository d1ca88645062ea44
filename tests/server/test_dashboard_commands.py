"""What pages show as "same on the command line" is a command that there is."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from onefold.cli.grammar import parser
from onefold.server import dashboard

FOLDER = Path(dashboard.__file__).parent
NOT_PARTS_OF_ONE = 12  # Calls; fewer found means that this test looks for the wrong thing.


def shown() -> dict[str, list[list[str]]]:
    """Each call of `parts.command` by where it stands, in its longest form and its shortest; what is not literal is x."""
    found: dict[str, list[list[str]]] = {}
    for path in sorted(FOLDER.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "parts.command":
                given = [word for word in node.args[1:] if not (isinstance(word, ast.Starred) and isinstance(word.value, ast.Name))]
                if len(given) == len(node.args) - 1:
                    found[f"{path.name}:{node.lineno}"] = [words_of(given, full=full) for full in (True, False)]
    return found


def words_of(given: list[ast.expr], *, full: bool) -> list[str]:
    words: list[str] = []
    for word in given:
        if isinstance(word, ast.Starred):
            assert isinstance(word.value, ast.IfExp)
            branch = word.value.body if full else word.value.orelse
            assert isinstance(branch, ast.Tuple)
            words += words_of(branch.elts, full=full)
        else:
            words.append(word.value if isinstance(word, ast.Constant) and isinstance(word.value, str) else "ready")
    return words


def test_every_command_that_is_shown_is_one() -> None:
    found = shown()
    assert len(found) >= NOT_PARTS_OF_ONE
    for where, forms in found.items():
        for words in forms:
            assert words[0] == "onefold", where
            assert vars(parser().parse_args(words[1:])), where


@pytest.mark.parametrize(
    "words",
    ["retry --kind k --error 0123456789abcdef", "purge --kind k", "cancel --kind k --state scheduled", "cancel --kind k --space t"],
)
def test_so_are_those_for_many_jobs(words: str) -> None:
    assert parser().parse_args(["jobs", *words.split()]).kind == "k"
