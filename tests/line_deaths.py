"""A program that is killed with -9 before every line of some files: a process for each line, and what it leaves."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

TIMES = 1  # Of a line that runs again and again.
EVERY = ""  # Matches the name of any function.
RUN_S = 120

# Forks a process for each death, in a copy of the ground of its own. A line is not begun when its event comes.
_DRIVER = """
import json, os, re, shutil, signal, sys

ground, base, files, times, act = sys.argv[1], sys.argv[2], set(json.loads(sys.argv[3])), int(sys.argv[4]), sys.argv[6]
wanted = re.compile(sys.argv[5])
space = {}
exec(compile(act, "act", "exec"), space)


def meant(code):
    return code.co_filename in files and wanted.match(code.co_name)


def lives(number, folder, told):
    seen = {}

    def at_line(frame, event, _argument):
        if event == "line":
            place = frame.f_code.co_filename, frame.f_lineno
            seen[place] = seen.get(place, 0) + 1
            if seen[place] <= times:
                seen["all"] = seen.get("all", 0) + 1
                if seen["all"] == number:
                    os.write(told, b"%s:%d" % (os.path.basename(place[0]).encode(), place[1]))
                    os.kill(os.getpid(), signal.SIGKILL)
        return at_line

    sys.settrace(lambda frame, _event, _argument: at_line if meant(frame.f_code) else None)
    space["act"](folder)
    sys.settrace(None)


number = 0
while True:
    number += 1
    folder = os.path.join(base, str(number))
    shutil.copytree(ground, folder, ignore=shutil.ignore_patterns("*.sock"))
    told, tell = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            lives(number, folder, tell)
        except BaseException as error:
            os.write(2, repr(error).encode())
            os._exit(1)
        os._exit(0)
    os.close(tell)
    status = os.waitpid(pid, 0)[1]
    at = os.read(told, 1000).decode()
    os.close(told)
    code = os.waitstatus_to_exitcode(status)
    if code == 1:
        sys.exit(1)
    print(json.dumps([at if code else None, folder]), flush=True)
    if not code:
        break
"""


def left_behind(
    ground: Path, base: Path, act: str, *modules: ModuleType, functions: str = EVERY
) -> Iterator[tuple[str | None, Path]]:
    """Let `act` die before each line that it runs of the modules, then once live; where it died, and in which folder.

    Args:
        ground: a folder; each process works in a copy of it.
        base: a folder for the copies.
        act: a program that defines `act(folder)`.
        modules: whose lines count ...
        functions: ... in functions whose names match.
    """
    base.mkdir()
    files = json.dumps([module.__file__ for module in modules])
    done = subprocess.run(
        [sys.executable, "-c", _DRIVER, str(ground), str(base), files, str(TIMES), functions, act],
        capture_output=True, text=True, timeout=RUN_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) > 1, "it died nowhere"
    assert [at for at, _ in found].index(None) == len(found) - 1
    for at, folder in found:
        yield at, Path(folder)
