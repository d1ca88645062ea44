"""FastAPI and SQLAlchemy's AsyncSession: their Session commits, we are in it.

`ONEFOLD_URL=shop.db uvicorn examples.fastapi_shop:app`; with SHOP_WORKER=0 the jobs are done elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from examples.purchase import STATUS, SendReceipt, Wanted, open_shop, purchase, send_receipt
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import onefold
from onefold import OnefoldError, jobs, ledger
from onefold.runtime import Supervisor, all_loops

URL = os.environ.get("ONEFOLD_URL", "shop.db")


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "shop_orders"
    id: Mapped[str] = mapped_column(primary_key=True)
    buyer: Mapped[str]
    cents: Mapped[int]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    order: str
    buyer: str
    cents: int


def open_engine(url: str) -> AsyncEngine:
    if url.startswith("postgresql://"):
        return create_async_engine(url.replace("postgresql://", "postgresql+psycopg://", 1))
    return onefold.sqlalchemy.gate(create_async_engine(f"sqlite+aiosqlite:///{url}"))


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    onefold.migrate(URL)
    engine = open_engine(URL)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(engine.dispose)
        db = stack.enter_context(onefold.connect(URL))
        await db.arun(open_shop, "ana")
        if os.environ.get("SHOP_WORKER", "1") == "1":
            stack.enter_context(Supervisor(db, all_loops()))
            await stack.enter_async_context(jobs.Worker(db, tx={SendReceipt: send_receipt}))
        app.state.db, app.state.engine = db, engine
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/orders", status_code=201)
async def buy(body: Body) -> dict[str, str]:
    wanted = Wanted(**body.model_dump())
    async with AsyncSession(app.state.engine) as session, session.begin():
        session.add(Order(id=wanted.order, buyer=wanted.buyer, cents=wanted.cents))
        await session.flush()
        return {"event": await onefold.sqlalchemy.join(session, purchase, wanted)}


@app.get("/wallets/{buyer}")
async def wallet(buyer: str) -> dict[str, Any]:
    balance = await app.state.db.arun(ledger.balance, f"wallet/{buyer}")
    return {"buyer": buyer, "cents": balance.posted.minor}


@app.exception_handler(OnefoldError)
async def refused(_request: Request, error: OnefoldError) -> JSONResponse:
    return JSONResponse({"code": error.code}, STATUS.get(error.kind, 500))


@app.exception_handler(IntegrityError)
async def placed_before(_request: Request, _error: IntegrityError) -> JSONResponse:
    return JSONResponse({"code": "unique"}, 409)
