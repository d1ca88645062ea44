"""A table of a program's own, for the tests of SQLAlchemy on both engines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import onefold
from onefold import Database


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    visits: Mapped[int] = mapped_column(default=0)


def names(engine: sa.Engine) -> list[str]:
    with Session(engine) as session:
        return list(session.scalars(sa.select(User.name).order_by(User.name)))


@contextmanager
def engine_of(db: Database) -> Iterator[sa.Engine]:
    """A way of SQLAlchemy's own into the same database; on a file behind the gate."""
    if db.dialect == "sqlite":
        made = onefold.sqlalchemy.gate(sa.create_engine(f"sqlite:///{db.url}"))
    else:
        made = sa.create_engine(db.url.replace("postgresql://", "postgresql+psycopg://"))
    yield made
    made.dispose()


def async_url_of(db: Database) -> str:
    """For its asynchronous engines."""
    if db.dialect == "sqlite":
        return f"sqlite+aiosqlite:///{db.url}"
    return db.url.replace("postgresql://", "postgresql+psycopg://")
