"""What Alembic runs: it compares and migrates the tables of the shop, not ours."""

from __future__ import annotations

from alembic import context
from examples.alembic_shop.models import Base, open_engine

import onefold

engine = open_engine()
with engine.connect() as connection:
    context.configure(
        connection=connection, target_metadata=Base.metadata, include_name=onefold.alembic.include_name,
        render_as_batch=True,  # SQLite alters few things in place.
    )  # fmt: skip
    with context.begin_transaction():
        context.run_migrations()
engine.dispose()
