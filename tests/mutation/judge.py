"""Judge mutants, one after the other, in a copy of the checkout.

    python -m tests.mutation.judge TASK

In the working directory one file of the engine becomes the mutant, and goes back. Its tests run in a child that is
forked from this process, which has imported all that is not ours: so most mutants cost less than a second. A child
ends at its first failure, at once; what it leaves behind is ended before the next one begins.
"""

from __future__ import annotations

import contextlib
import ctypes
import difflib
import gc
import importlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn, TypedDict

import pytest
from tests.mutation.covering import Measured, chosen
from tests.waiting import until

TEST_S = 20.0  # Each test may take so long, for it may have to start servers that another one started when measured, and
TIMES_LONGER = 10  # so many times as long as when it was measured. Many wait for twenty seconds before they give up.
START_S = 40.0  # Until the first test, and after the last one.
ALL_S = 60.0  # All together may take so long, and so many times as long: a thread that spins makes each a little late.
LEAVE_S = 4.0  # A PostgreSQL goes by itself, when whoever started it is gone.
CALM_S = 5.0  # So many seconds of tests must pass without a mutant.

_FIRST = Path("mutation.first.json").absolute()  # What a child failed of.
_SAID = Path("mutation.said").absolute()  # What it printed.
_ROOM = Path("tmp").absolute()  # Its temporary files; a short name, for the path of a socket has 107 bytes.
_TEMPLATE = Path("mutation.template").absolute()  # What initdb made once: that takes longer than most mutants live.
_PDEATHSIG, _CHILD_SUBREAPER = 1, 36  # Of Linux's prctl.

_INITDB = """
import shutil, sys
from onefold.testing import postgres
postgres.Cluster().close()
[made] = postgres._templates.values()
shutil.copytree(made, sys.argv[1])
"""


class Task(TypedDict):
    """What one judge has to do.

    Attributes:
        mutants: name, file, and text of the file with the change.
        measured: as `measure.py` answers it.
        verdicts: the file to write to, a line for each mutant.
        tests_s: how many seconds of tests each mutant gets.
    """

    mutants: list[tuple[str, str, str]]
    measured: Measured
    verdicts: str
    tests_s: float


class Verdict(TypedDict):
    """What became of a mutant: "killed", "timed out" or "survived"; by which test, and what it said."""

    name: str
    outcome: str
    by: str
    said: str
    change: list[str]
    tests: int
    seconds: float


class _InOrder:
    """A plugin: the tests in the order given, each told of before it begins; the first failure ends the process."""

    def __init__(self, tests: list[str], told: int) -> None:
        self._place = {test: place for place, test in enumerate(tests)}
        self._told = told

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=lambda item: self._place.get(item.nodeid, len(self._place)))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        os.write(self._told, f"{nodeid}\n".encode())

    def pytest_sessionfinish(self) -> None:
        os.write(self._told, b"the end\n")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._end(report.nodeid, report)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._end(report.nodeid, report)

    def _end(self, test: str, report: pytest.CollectReport | pytest.TestReport) -> NoReturn:
        crash = getattr(report.longrepr, "reprcrash", None)
        said = crash.message if crash else str(report.longrepr)
        _FIRST.write_text(json.dumps({"by": test, "said": said[:300]}), encoding="utf-8")
        os._exit(1)


def judge(tests: list[str], seconds: dict[str, float]) -> tuple[str, str, str]:
    """Run the tests against what lies here: outcome, the test that decided, and what it said."""
    if not tests:
        return "survived", "", "no test runs it"
    _FIRST.unlink(missing_ok=True)
    shutil.rmtree(_ROOM, ignore_errors=True)
    _ROOM.mkdir(mode=0o711)  # The user under whom PostgreSQL runs goes through it.
    told, tell = os.pipe()
    child = os.fork()
    if not child:
        try:
            _run(tests, tell)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(pytest.ExitCode.INTERNAL_ERROR)
    os.close(tell)
    stuck = _watch(child, told, seconds, ALL_S + TIMES_LONGER * sum(seconds.get(test, 0.0) for test in tests))
    os.close(told)
    if stuck is not None:
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    _clear(child)
    if stuck is not None:
        return "timed out", stuck, ""
    if _FIRST.exists():
        first = json.loads(_FIRST.read_text("utf-8"))
        return "killed", first["by"], first["said"]
    if code == pytest.ExitCode.NO_TESTS_COLLECTED:
        raise SystemExit(f"these tests are none: {tests}")
    return ("survived", "", "") if code == 0 else ("killed", "", _SAID.read_text("utf-8", "replace")[-300:])


def _run(tests: list[str], tell: int) -> NoReturn:
    os.setsid()
    _prctl(_PDEATHSIG, signal.SIGKILL)
    said = os.open(_SAID, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(said, 1)
    os.dup2(said, 2)
    tempfile.tempdir = os.environ["TMPDIR"] = str(_ROOM)
    from onefold.testing import postgres  # Here, for it imports the mutant.

    account = postgres._account()
    postgres._templates[postgres.VERSION_DEFAULT, account.pw_name if account else ""] = _TEMPLATE
    # Plain asserts: rewritten ones say more, of which nobody reads anything.
    options = ["-q", "--assert=plain", "--tb=short", "-p", "no:xdist", *tests]
    code = pytest.main(options, plugins=[_InOrder(tests, tell)])
    sys.stdout.flush()
    os._exit(code)  # Threads that a mutant left behind keep nobody here.


def noticed(path: Path, text: str, tests: list[str], seconds: dict[str, float], sound: set[str]) -> tuple[str, str, str]:
    """What `judge` says of a change, by tests that pass here without it.

    Args:
        path: of the file.
        text: its text with the change.
        tests: those to run; whoever fails without the change as well is removed.
        seconds: how long each takes.
        sound: tests that are known to pass here; whoever first notices something is tried, and joins them.
    """
    original = path.read_text("utf-8")
    while True:
        path.write_text(text, encoding="utf-8")
        try:
            outcome, by, said = judge(tests, seconds)
        finally:
            path.write_text(original, encoding="utf-8")
        if by not in tests or by in sound:
            return outcome, by, said
        if judge([by], seconds)[0] == "survived":
            sound.add(by)
            return outcome, by, said
        print(f"fails here without any mutant: {by}", flush=True)
        tests.remove(by)


def _watch(child: int, told: int, seconds: dict[str, float], all_s: float) -> str | None:
    """Wait for the end of a child; the test in which it is stuck instead. Not in the child: a mutant may hang all of it."""
    poll, test, limit_s = select.poll(), "", START_S
    end_s = time.monotonic() + all_s
    ended = os.pidfd_open(child)
    poll.register(ended, select.POLLIN)
    poll.register(told, select.POLLIN)
    try:
        while True:
            ready = {descriptor for descriptor, _ in poll.poll(_left_ms(limit_s, end_s))}
            if ended in ready:
                return None
            if not ready:
                return test
            if not (lines := os.read(told, 1 << 16).decode().splitlines()):
                poll.unregister(told)
                continue
            test = lines[-1]
            limit_s = TEST_S + TIMES_LONGER * seconds[test] if test in seconds else START_S
    finally:
        os.close(ended)


def _left_ms(limit_s: float, end_s: float) -> float:
    return max(0.0, min(limit_s, end_s - time.monotonic())) * 1000


def _clear(child: int) -> None:
    """End what a child left: its session at once, others (servers that clean up) when they had time to go."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    try:
        until(lambda: not _orphans(), seconds=LEAVE_S)
    except AssertionError:
        until(lambda: not [os.kill(pid, signal.SIGKILL) for pid in _orphans()], "the end of what a mutant left")


def _orphans() -> list[int]:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    return list(map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text("ascii").split()))


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def _warm(modules: Iterable[str]) -> None:
    """Import what the tests will want, so that no child has to; nothing of ours, for that is what changes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in modules:
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    ours = [name for name in sys.modules if name.partition(".")[0] == "onefold"]
    assert not ours, ours


def change(before: str, after: str) -> list[str]:
    """The lines that differ, with - and +."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0)
    return [line for line in lines if line[:1] in "+-" and line[:3] not in {"---", "+++"}]


def main() -> None:
    """All mutants of a task, after a look whether the tests pass without any."""
    task: Task = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    measured, verdicts = task["measured"], Path(task["verdicts"])
    seconds = measured["seconds"]
    kills: Counter[tuple[str, str]] = Counter()
    for line in verdicts.read_text("utf-8").splitlines() if verdicts.exists() else ():
        told: Verdict = json.loads(line)
        kills[told["name"].partition(":")[0], told["by"]] += 1
    subprocess.run([sys.executable, "-c", _INITDB, str(_TEMPLATE)], check=True)
    _prctl(_CHILD_SUBREAPER, 1)
    _warm(measured["modules"])
    gc.freeze()  # Else each child's first collection copies what it shares with this process.
    calm = sorted(seconds, key=lambda test: (seconds[test] > 0.05, test.encode()[::-1]))  # From all files.
    while sum(seconds[test] for test in calm) > CALM_S:
        calm.pop()
    outcome, by, said = judge(calm, seconds)
    if outcome != "survived":
        raise SystemExit(f"the tests fail without any mutant: {by} {said}")
    sound: set[str] = set()
    unsound: set[str] = set()
    for name, file, text in task["mutants"]:
        path, began = Path(file), time.monotonic()
        original = path.read_text("utf-8")
        wanted = [test for test in chosen(measured, kills, file, original, text, tests_s=task["tests_s"]) if test not in unsound]
        tests = wanted.copy()
        outcome, by, said = noticed(path, text, tests, seconds, sound)
        unsound |= set(wanted) - set(tests)
        kills[file, by] += 1
        took_s = round(time.monotonic() - began, 1)
        verdict = Verdict(
            name=name, outcome=outcome, by=by, said=said, change=change(original, text), tests=len(tests), seconds=took_s
        )
        with verdicts.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(verdict) + "\n")
        print(f"{outcome:9} {took_s:5.1f} s  {name}  {by}", flush=True)


if __name__ == "__main__":
    main()
