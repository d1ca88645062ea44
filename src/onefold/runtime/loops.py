"""All loops that Onefold's own parts need, collected from their `LOOPS`."""

from __future__ import annotations

import importlib
import importlib.util

from onefold.core.loop import Loop
from onefold.engine.loops import LOOPS as ENGINE_LOOPS
from onefold.index import BLOCKS


def all_loops() -> list[Loop]:
    """The loops of the engine and of every block in the index."""
    loops = list(ENGINE_LOOPS)
    for module in BLOCKS.values():
        name = f"{module}.client"
        if importlib.util.find_spec(name) is not None:
            loops += getattr(importlib.import_module(name), "LOOPS", ())
    return loops
