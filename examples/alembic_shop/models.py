"""The shop's own table, and the database that it stands in, beside ours."""

from __future__ import annotations

import os

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import onefold

URL = os.environ.get("ONEFOLD_URL", "alembic_shop.db")


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "shop_orders"
    id: Mapped[str] = mapped_column(primary_key=True)
    buyer: Mapped[str]
    cents: Mapped[int]


def open_engine() -> sa.Engine:
    if URL.startswith("postgresql://"):
        return sa.create_engine(URL.replace("postgresql://", "postgresql+psycopg://", 1))
    return onefold.sqlalchemy.gate(sa.create_engine(f"sqlite:///{URL}"))
