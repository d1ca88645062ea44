"""Run a workload on real processes while a nemesis breaks things, and judge what its clients were told."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from onefold.core.errors import Invalid
from onefold.engine.call import Isolation
from onefold.testing.checkers import Verdict, check, read_history
from onefold.testing.checkers.linearizability import DEADLINE_S
from onefold.testing.cluster import Installation
from onefold.testing.watchdog import Watchdog
from onefold.testing.workload.client import CLIENTS_MAX
from onefold.testing.workload.nemesis import Nemesis
from onefold.testing.workload.process import Process
from onefold.testing.workload.recording import Recorder, counts_of, events_of, write_history
from onefold.testing.workload.worker import Order
from onefold.testing.workload.workload import Program, Workload, place_of

SECONDS_MAX = 86_400.0
PROCESSES_MAX = 16
DEADLINE_MS_DEFAULT = 5_000
START_S = 60.0  # Of a process of clients.
END_S = 60.0


def in_short(verdict: Verdict) -> Verdict:
    """The verdict with its smallest counter-example only."""
    smallest = sorted(verdict.anomalies, key=lambda anomaly: (len(anomaly.operations), len(anomaly.text)))[:1]
    return msgspec.structs.replace(verdict, anomalies=smallest)


@dataclass(frozen=True)
class Report:
    """What became of a run.

    Attributes:
        verdict: of the workload's checker.
        path: the history, as `onefold check` reads it.
        counts: operations by their end: ok, fail, info.
        faults: what befell the run, in this order.
        command: judges the history again.
    """

    verdict: Verdict
    path: Path
    counts: dict[str, int]
    faults: list[str]
    command: str

    def __str__(self) -> str:
        """The verdict with the smallest counter-example, and where the history lies."""
        told = ", ".join(f"{count:,} {kind}" for kind, count in self.counts.items())
        faults = ", ".join(self.faults) or "none"
        about = [f"history: {self.path} ({told})", f"faults: {faults}", f"again: {self.command}"]
        return "\n".join([*in_short(self.verdict).lines(), *about])

    def expect_valid(self) -> Report:
        """The report itself; AssertionError with all of it unless the verdict is valid."""
        if self.verdict.valid is not True:
            raise AssertionError(str(self))
        return self


def run(
    workload: Workload, made: Installation, *, path: Path, seconds: float = 5.0, seed: int = 0,
    faults: Iterable[str] = (), processes: int = 2, clients: int = 3, isolation: Isolation = "serializable",
    deadline_ms: int = DEADLINE_MS_DEFAULT, check_s: float = DEADLINE_S, consistency_model: str = "",
) -> Report:
    """Run the workload's clients for a while, break things meanwhile, then judge the history.

    Which fault comes when, and what each client asks, is drawn from the seed. How the processes run is the
    machine's, so that a seed repeats the plan, not the run.

    Args:
        workload: what the clients do, and the model.
        made: the installation, of `cluster`; it needs nodes only for programs that `ask` them.
        path: of the history that is written.
        seconds: how long clients work at least, at most a day, longer until each fault was there once. Then they
            end, and `finish` reads.
        seed: of all dice.
        faults: names in `FAULTS`; `faults_for(made)` are all that there can be.
        processes: of clients, 1 to 16.
        clients: on threads of each process; at most 255 in all.
        isolation: of the clients' transactions, on PostgreSQL.
        deadline_ms: of each of them.
        check_s: how long the checker may search.
        consistency_model: by which transactions are judged, instead of the workload's own.

    Raises:
        Invalid: a number is out of range, there is no such fault, no place for the history, or a program is none that
            others can import.
        RuntimeError: a program failed with an error that is none of Onefold's, did not begin or did not end; or a node
            ended by itself.
    """  # fmt: skip
    _check(workload, path, seconds=seconds, processes=processes, clients=clients)
    began_ns = time.monotonic_ns()
    with tempfile.TemporaryDirectory(prefix="of-workload-") as scratch, contextlib.ExitStack() as stack:
        folder = Path(scratch)
        watchdog = stack.enter_context(Watchdog(folder))

        def process_of(number: int, program: Program, *, first: int, count: int, once: bool = False) -> Process:
            order = Order(
                made.url, place_of(program), "", [path for path in sys.path if path], str(seed), first, count, 1,
                isolation, deadline_ms, once, [node.door for node in made.nodes], made.token, START_S, END_S,
            )  # fmt: skip
            process = Process(f"process{number}", order, folder, watchdog)
            stack.callback(process.kill)
            return process

        all = [process_of(n + 1, workload.program, first=n * clients + 1, count=clients) for n in range(processes)]
        own = folder / "nemesis.jsonl"
        recorder = Recorder(own)
        stack.callback(recorder.close)
        nemesis = Nemesis(made, all, recorder, faults, seed=str(seed))
        if workload.setup is not None:
            with made.connect() as db:
                db.run(workload.setup)
        for process in all:
            process.launch()
        for process in all:
            process.ready()
        nemesis.rage(seconds)
        for process in all:
            process.end()
        if workload.finish is not None:
            all.append(process_of(processes + 1, workload.finish, first=CLIENTS_MAX - 1, count=1, once=True))
            all[-1].start()
            all[-1].end()
        events = events_of([own, *(record for process in all for record in process.records)], began_ns=began_ns)
        write_history(path, events)
    return _judged(workload, path, counts_of(events), nemesis.done, check_s, consistency_model)


def _check(workload: Workload, path: Path, *, seconds: float, processes: int, clients: int) -> None:
    """Refuse what would fail later, after a run for nothing."""
    if not 1 <= processes <= PROCESSES_MAX or clients < 1 or processes * clients >= CLIENTS_MAX:
        raise Invalid("There are 1 to 16 processes, and at most 255 clients.", processes=processes, clients=clients)
    if not 0 < seconds <= SECONDS_MAX:
        raise Invalid("A run takes more than 0 and at most 86,400 seconds.", seconds=seconds)
    if not path.parent.is_dir() or path.is_dir():
        raise Invalid("The history's path is that of a file in a folder that there is.", code="path", path=str(path))
    for program in filter(None, (workload.program, workload.finish)):
        place_of(program)


def _judged(
    workload: Workload, path: Path, counts: dict[str, int], faults: list[str], check_s: float, consistency_model: str
) -> Report:
    options = dict(workload.options)
    if consistency_model:
        options["consistency_model"] = consistency_model
    verdict = check(read_history(path), workload.model, deadline_s=check_s, **options)
    words = ["onefold", "check", str(path), "--model", workload.model]
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        for one in value if isinstance(value, list) else [value]:
            words += [flag] if one is True else [flag, str(one)]
    return Report(verdict, path, counts, faults, " ".join(words))
