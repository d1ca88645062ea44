"""What the tests of SQLAlchemy share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from orm_users import Base, engine_of

from onefold import Database


@pytest.fixture
def engine(db: Database) -> Iterator[sa.Engine]:
    """SQLAlchemy's own way into the database of the test, with the table of its users."""
    with engine_of(db) as made:
        Base.metadata.create_all(made)
        yield made
