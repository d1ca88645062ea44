"""A PostgreSQL database on which nothing is rehearsed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import onefold
from onefold import Database


@pytest.fixture
def plain(postgres_url: str) -> Iterator[Database]:
    """Each function runs once, so that round trips and attempts can be counted."""
    with onefold.connect(postgres_url) as db:
        yield db
