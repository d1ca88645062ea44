"""All routes of the blocks in the index, read off their `api.ROUTES`."""

from __future__ import annotations

import importlib
import importlib.util

from onefold.core.route import Route
from onefold.index import BLOCKS


def all_routes() -> list[Route]:
    """The routes of every block that has an `api` module, in the order of the index."""
    routes: list[Route] = []
    for module in BLOCKS.values():
        name = f"{module}.api"
        if importlib.util.find_spec(module) is not None and importlib.util.find_spec(name) is not None:
            routes += importlib.import_module(name).ROUTES
    return routes
