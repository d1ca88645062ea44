"""An app without a network, and a server with one, on each engine in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from dashboard_ground import Visitor
from http_calls import Direct, Served, serving

from onefold import Database
from onefold.core.route import Route
from onefold.server import asgi


@pytest.fixture
def direct(db: Database) -> Iterator[Direct]:
    """All routes of all blocks."""
    caller = Direct(asgi(db), db)
    yield caller
    caller.close()


@pytest.fixture
def direct_to(db: Database) -> Iterator[Callable[..., Direct]]:
    """Make an app with routes of the test's own."""
    callers: list[Direct] = []

    def make(*routes: Route, **limits: int) -> Direct:
        callers.append(Direct(asgi(db, routes=routes, **limits), db))
        return callers[-1]

    yield make
    for caller in callers:
        caller.close()


@pytest.fixture
def served(db: Database) -> Iterator[Served]:
    """All routes of all blocks, over a real connection."""
    with serving(db) as server:
        yield server


@pytest.fixture
def visit(direct: Direct) -> Callable[..., Visitor]:
    """Log somebody in to the dashboard: `visit("jobs:read")`."""

    def come(*rights: str, space_name: str = "") -> Visitor:
        return Visitor(direct, *rights, space_name=space_name).log_in()

    return come
