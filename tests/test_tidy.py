"""The rules of STYLE.md that a machine can check."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path
from statistics import median

import pytest

from onefold.index import BLOCKS, folder_of

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "src").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
OTHERS = sorted((ROOT / "benches").rglob("*.py")) + sorted((ROOT / "examples").rglob("*.py"))
PAGES = [p for p in sorted(ROOT.rglob("*.md")) if not {".venv", ".git", ".data"} & set(p.relative_to(ROOT).parts)]

LINES_MAX = 700
LINES_MEDIAN_MAX = 180
FUNCTION_LINES_MAX = 70
BANNED_NAMES = {"utils", "util", "helpers", "common", "misc", "manager"}
BANNED_IN_OPS = {
    "time": "take the time from tx.now_ms", "random": "take randomness from tx.random",
    "secrets": "let the caller make secrets", "datetime": "times are int ms", "uuid": "take ids from tx.new_id",
    "os": "the environment is read in cli", "threading": "what waits lives in client.py",
    "asyncio": "what waits lives in client.py", "socket": "no I/O in a transaction", "logging": "use tx.emit",
}  # fmt: skip
HEADINGS = ("Guarantees", "Failure modes", "Retention", "Example", "Numbers", "Not for")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(tree: ast.AST):
    return [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


@pytest.mark.parametrize("path", [*SOURCES, *TESTS, *OTHERS], ids=name)
def test_no_file_and_no_function_is_too_long(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= LINES_MAX
    for function in functions(ast.parse(text)):
        length = (function.end_lineno or 0) - function.lineno + 1
        assert length <= FUNCTION_LINES_MAX, f"{function.name} has {length} lines"


def test_modules_are_short_in_the_middle() -> None:
    assert median(path.read_text(encoding="utf-8").count("\n") for path in SOURCES) <= LINES_MEDIAN_MAX


@pytest.mark.parametrize("path", [*SOURCES, *OTHERS], ids=name)
def test_names_say_something(path: Path) -> None:
    assert path.stem not in BANNED_NAMES
    assert not BANNED_NAMES & set(path.relative_to(ROOT).parts)


@pytest.mark.parametrize("path", [*SOURCES, *TESTS, *OTHERS], ids=name)
def test_nothing_is_left_for_later(path: Path) -> None:
    if path == Path(__file__):
        return
    assert not re.search(r"\b(TODO|FIXME|XXX|HACK)\b", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_the_environment_is_read_in_the_command_line_only(path: Path) -> None:
    if "cli" in path.parts:
        return
    assert not re.search(r"os\.(environ|getenv)", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_has_its_parts(block: str) -> None:
    folder = folder_of(block)
    group = folder.parent.name
    assert (folder / "ops.py").is_file()
    assert (folder / "README.md").is_file()
    assert list((ROOT / "tests" / group).glob(f"test_{block}*.py")), "no tests"


@pytest.mark.parametrize("block", BLOCKS)
def test_a_page_says_what_pages_say(block: str) -> None:
    page = (folder_of(block) / "README.md").read_text(encoding="utf-8")
    missing = [heading for heading in HEADINGS if not re.search(rf"^##+ {heading}", page, re.MULTILINE)]
    assert not missing
    assert re.search(r"\b(Stable|Preview|Lab)\b", page), "no badge"
    for test in re.findall(r"`?(tests/[\w/]+\.py)", page):
        assert (ROOT / test).is_file(), f"the page names {test}, which is not there"
    for path, function in re.findall(r"(tests/[\w/]+\.py)::(\w+)", page):
        assert f"def {function}" in (ROOT / path).read_text(encoding="utf-8"), f"{path} has no {function}"


@pytest.mark.parametrize("block", BLOCKS)
def test_operations_keep_their_hands_off_the_world(block: str) -> None:
    tree = ast.parse((folder_of(block) / "ops.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        else:
            continue
        for module in modules:
            top = module.partition(".")[0]
            assert top not in BANNED_IN_OPS, f"{module}: {BANNED_IN_OPS[top]}"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_blocks_use_each_other_through_the_front_door(path: Path) -> None:
    homes = {module for module in BLOCKS.values()}
    mine = ".".join(path.relative_to(ROOT / "src").with_suffix("").parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or not node.module:
            continue
        for home in homes:
            inner = node.module.removeprefix(home + ".")
            if inner == node.module or mine.startswith(home):
                continue
            assert inner in {"api", "client"}, f"{node.module}: import the name from {home}"


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_a_page_has_one_title_and_no_path_of_a_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    outside_code = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    assert len(re.findall(r"^# ", outside_code, re.MULTILINE)) == 1
    assert not re.search(r"/(home|root|work)/\w", text)


def test_every_committed_file_may_be_read_by_a_stranger() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    for file in tracked.stdout.split():
        path = ROOT / file
        if path.suffix in {".py", ".md", ".toml", ".txt", ".sql", ".html", ".css", ".js"} and path.is_file():
            text = path.read_text(encoding="utf-8")
            assert "\r" not in text, file
            assert not re.search(r"pypi\.org/simple|files\.pythonhosted", text), f"{file} names a registry host"
