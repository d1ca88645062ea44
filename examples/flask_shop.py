"""Flask and SQLAlchemy: their Session commits, we are in it.

`ONEFOLD_URL=shop.db flask --app examples.flask_shop run`; the jobs are done by
`onefold worker examples.purchase:worker`.
"""

from __future__ import annotations

import os

import msgspec
import sqlalchemy as sa
from examples.purchase import STATUS, Wanted, open_shop, purchase
from flask import Flask, request
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import onefold
from onefold import OnefoldError, ledger

URL = os.environ.get("ONEFOLD_URL", "shop.db")


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "shop_orders"
    id: Mapped[str] = mapped_column(primary_key=True)
    buyer: Mapped[str]
    cents: Mapped[int]


def open_engine(url: str) -> sa.Engine:
    if url.startswith("postgresql://"):
        return sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1))
    return onefold.sqlalchemy.gate(sa.create_engine(f"sqlite:///{url}"))


_wanted = msgspec.json.Decoder(Wanted)  # Made here, in one thread: msgspec cannot look at a class in two at once.


def create_app() -> Flask:
    onefold.migrate(URL)
    db, engine = onefold.connect(URL), open_engine(URL)
    Base.metadata.create_all(engine)
    db.run(open_shop, "ana")
    app = Flask(__name__)

    @app.post("/orders")
    def buy() -> tuple[dict[str, str], int]:
        wanted = _wanted.decode(request.get_data())
        with Session(engine) as session, session.begin():
            session.add(Order(id=wanted.order, buyer=wanted.buyer, cents=wanted.cents))
            session.flush()
            event = purchase(onefold.sqlalchemy.use(session), wanted)
        return {"event": event}, 201

    @app.get("/wallets/<buyer>")
    def wallet(buyer: str) -> dict[str, object]:
        return {"buyer": buyer, "cents": db.run(ledger.balance, f"wallet/{buyer}").posted.minor}

    @app.errorhandler(OnefoldError)
    def refused(error: OnefoldError) -> tuple[dict[str, str], int]:
        return {"code": error.code}, STATUS.get(error.kind, 500)

    @app.errorhandler(IntegrityError)
    def placed_before(_error: IntegrityError) -> tuple[dict[str, str], int]:
        return {"code": "unique"}, 409

    @app.errorhandler(msgspec.ValidationError)
    @app.errorhandler(msgspec.DecodeError)
    def unreadable(_error: Exception) -> tuple[dict[str, str], int]:
        return {"code": "body"}, 422

    return app
