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
PAGES = [p for p in sorted(ROOT.rglob("*.md")) if not {".venv", ".git", ".data", "build"} & set(p.relative_to(ROOT).parts)]

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
SLEEPERS = {
    "tests/waiting.py": "looks again and again at what gives no signal, in one place",
    "tests/runtime/stepped_host.py": "a process of its own, whose clocks the test steps; it waits on the one that is not",
}
CLOCK_LOOPS = {
    "tests/waiting.py": "see above: with a deadline",
    "tests/runtime/stepped_host.py": "see above: with a deadline",
}
ASSERTED_ELSEWHERE = {
    "test_the_example_works": "its database runs each function twice and refuses what differs",
}
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


def calls(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    """What is called, by its dotted name without a module's path: `time.sleep`, `Event().wait`, `until`."""
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def sleeps(tree: ast.AST) -> list[str]:
    """Where a program lets time pass, and hopes. `asyncio.sleep(0)` is a step of the loop, unless it spins."""
    spins = {id(call) for loop in ast.walk(tree) if isinstance(loop, ast.While) for _, call in calls(loop)}
    found = []
    for called, call in calls(tree):
        sleep = called.rpartition(".")[2] == "sleep"
        step = sleep and called == "asyncio.sleep" and ast.unparse(call).endswith("(0)") and id(call) not in spins
        pause = called.endswith("Event().wait") and bool(call.args or call.keywords)
        if (sleep and not step) or pause:
            found.append(f"line {call.lineno}: {ast.unparse(call)[:60]}")
    imported = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module in {"time", "asyncio"}]
    return found + [f"line {node.lineno}: name the module" for node in imported if "sleep" in ast.unparse(node)]


def texts(tree: ast.AST) -> list[str]:
    """The strings of a program, the ones of f-strings too."""
    return [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]


@pytest.mark.parametrize("path", TESTS, ids=name)
def test_tests_wait_for_the_thing_itself(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if name(path) not in SLEEPERS:
        assert not sleeps(tree), "wait for a signal, or with `waiting.until`"
        children = [] if path == Path(__file__) else [text for text in texts(tree) if re.search(r"sleep\((?!0\))", text)]
        assert not children, "a child program or a server sleeps: let it wait for a pipe or a lock"
    if name(path) not in CLOCK_LOOPS:
        loops = [node for node in ast.walk(tree) if isinstance(node, ast.While) and "monotonic" in ast.unparse(node)]
        assert not loops, f"line {loops[0].lineno}: say `waiting.until`"


@pytest.mark.parametrize("program", [
    "time.sleep(0)", "import asyncio as a\nasync def f(): await a.sleep(1)", "asyncio.sleep(0.1)", "from time import sleep",
    "while not e.is_set():\n  asyncio.sleep(0)", "threading.Event().wait(0.1)",
])  # fmt: skip
def test_a_sleep_is_seen(program: str) -> None:
    assert sleeps(ast.parse(program))


def test_a_step_of_the_loop_is_no_sleep() -> None:
    assert not sleeps(ast.parse("asyncio.sleep(0)\nfor _ in x:\n  asyncio.sleep(0)\nleave.wait(20)\nasyncio.Event().wait()"))


def outside_of_functions(function: ast.AST) -> list[ast.AST]:
    """The nodes of a function, without those of the functions inside it, which something has to call."""
    found, left = [], list(ast.iter_child_nodes(function))
    while left:
        node = left.pop()
        found.append(node)
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            left += ast.iter_child_nodes(node)
    return found


def can_fail(node: ast.AST) -> bool:
    """Whether it can fail: `assert` of no constant, `raises`, `fail`, AssertionError, a model that is run."""
    if isinstance(node, ast.Assert):
        return not isinstance(node.test, (ast.Constant, ast.Tuple, ast.JoinedStr))
    if isinstance(node, ast.Raise):
        return node.exc is not None and ast.unparse(node.exc).startswith("AssertionError")
    called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
    return called in {"pytest.raises", "pytest.fail", "run_state_machine_as_test"} or called.endswith(".runTest")


def asserts(function: ast.AST, known: set[str]) -> bool:
    """Whether a function can fail an assertion, its own or that of a function in `known` that it names."""
    nodes = outside_of_functions(function)
    return any(can_fail(node) or getattr(node, "id", getattr(node, "attr", "")) in known for node in nodes)


def that_cannot_fail(tree: ast.Module, helpers: list[ast.Module]) -> list[str]:
    """The tests of a module that cannot fail; `helpers` are the modules of tests that it imports."""
    inner = [function for module in [tree, *helpers] for function in functions(module) if not function.name.startswith("test_")]
    known: set[str] = set()
    while more := {function.name for function in inner if asserts(function, known)} - known:
        known |= more
    return [f.name for f in functions(tree) if f.name.startswith("test_") and not asserts(f, known)]


def test_every_test_has_an_assertion_that_can_fail() -> None:
    trees = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in TESTS if path.stem != "conftest"}
    for module, tree in trees.items():
        imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        without = that_cannot_fail(tree, [trees[helper] for helper in imported & trees.keys()])
        assert set(without) <= ASSERTED_ELSEWHERE.keys(), module


@pytest.mark.parametrize("body", ["f()", "assert True", "assert (x, 'said')", "def inner():\n    assert x"])
def test_an_assertion_that_cannot_fail_is_seen(body: str) -> None:
    assert that_cannot_fail(ast.parse("def test_it():\n  " + body.replace("\n", "\n  ")), [])


@pytest.mark.parametrize("body", ["assert x", "with pytest.raises(E):\n    f()", "def inner():\n    assert x\nrun(inner)"])
def test_an_assertion_that_can_fail_is_seen(body: str) -> None:
    assert not that_cannot_fail(ast.parse("def test_it():\n  " + body.replace("\n", "\n  ")), [])


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_the_environment_is_read_in_the_command_line_only(path: Path) -> None:
    if "cli" in path.parts or path.parts[-2:] == ("testing", "plugin.py"):  # Part of pytest's command line.
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
