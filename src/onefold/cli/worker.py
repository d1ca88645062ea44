"""`onefold worker MODULE:OBJECT`: run a worker of the user's program until a signal ends it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import sys

from onefold.cli.answer import say
from onefold.core.errors import Invalid, NotFound
from onefold.messaging import jobs
from onefold.runtime import Supervisor, all_loops
from onefold.server import logs


def command(options: argparse.Namespace) -> int:
    """Import the worker and run it; SIGTERM and Ctrl-C drain it, a second one hands its jobs back."""
    logs.configure(options.log)
    found = _found(options.target)
    worker = found if isinstance(found, jobs.Worker) else found() if callable(found) else None
    if not isinstance(worker, jobs.Worker):
        raise Invalid("The object is no jobs.Worker, nor a function that makes one.", target=options.target)
    db = worker._db
    with contextlib.closing(db), contextlib.ExitStack() as stack:
        if not options.no_loops:
            stack.enter_context(Supervisor(db, all_loops()))
        started = {"event": "started", "worker": options.target}
        say(options, started, lambda: [f"{options.target} works; Ctrl-C ends it."])
        asyncio.run(worker.run_until_stopped())
    return 0


def _found(target: str) -> object:
    module_name, _, path = target.partition(":")
    if not module_name or not path:
        raise Invalid("Say MODULE:OBJECT, for example shop.worker:worker.", target=target)
    if "" not in sys.path:
        sys.path.insert(0, "")  # Programs lie in the current folder, as with python -m.
    try:
        found: object = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise NotFound("There is no such module here.", module=module_name) from None
        raise
    for name in path.split("."):
        if not hasattr(found, name):
            raise NotFound("The module has no such object.", module=module_name, name=name)
        found = getattr(found, name)
    return found
