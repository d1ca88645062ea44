"""`onefold worker MODULE:OBJECT`: run a worker of the user's program until a signal ends it."""

from __future__ import annotations

import argparse
import importlib
import sys

from onefold.core.errors import Invalid, NotFound
from onefold.server import logs


def command(options: argparse.Namespace) -> int:
    """Import the worker and run it; SIGTERM and Ctrl-C drain it."""
    logs.configure()
    worker = _found(options.target)
    raise Invalid("not a worker", worker=worker)


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
