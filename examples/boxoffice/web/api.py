"""The shop for programs: the same functions as the pages, as JSON with bearer tokens.

    POST   /api/visitors                      a token; send it as "Authorization: Bearer ..."
    GET    /api/performances                  what is played
    GET    /api/performances/{show}/seats     the seat map; text/event-stream to watch it
    POST   /api/performances/{show}/holds     {"count": 2, "section": "Stalls left"} or {"row": 7, "seats": [3, 4]}
    DELETE /api/holds/{hold}                  ends a payment by card that is under way, too
    POST   /api/orders                        {"hold": "..."}, with Idempotency-Key: from the wallet, 201
                                              with "card": "TOKEN" as well: 202, and a payment to ask for
    GET    /api/payments/{payment}            "paying", "paid" with its order, "declined" or "canceled"
    GET    /api/orders/{order}                with its receipt
    POST   /callbacks/fake                    the payment provider's, signed by it

Every POST takes an Idempotency-Key; buying demands one. Errors are RFC 9457 problem documents.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import cast

import msgspec
from examples.boxoffice import desk, paying
from examples.boxoffice.outside import CALLBACKS
from examples.boxoffice.purchase import purchase
from examples.boxoffice.receipts import ReceiptSent
from examples.boxoffice.visitors import Signer
from examples.boxoffice.web.http import (
    Caller,
    Endpoint,
    body_of,
    for_programs,
    json_answer,
    json_of,
    key_of,
    whole_number,
)
from examples.boxoffice.web.live import EventStream, Live
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from onefold import Database, Handle, Money, booking, payments
from onefold.server.problems import Refused


class Visitor(msgspec.Struct, frozen=True):
    """Who you are from now on."""

    visitor: str
    token: str


class Purchase(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which hold is bought, and with which card; None is the wallet."""

    hold: str
    card: str | None = None


class Payment(msgspec.Struct, frozen=True):
    """What was asked for, and will be answered in its time."""

    payment: str


class Receipt(msgspec.Struct, frozen=True):
    """What the buyer was told, and when."""

    sent_at_ms: int
    text: str
    price: Money


class OrderAnswer(msgspec.Struct, frozen=True):
    """An order and its receipt, None while that is on its way."""

    order: booking.Order
    receipt: Receipt | None


class Api:
    """The routes under /api."""

    def __init__(self, db: Database, signer: Signer, live: Live, provider: payments.Provider) -> None:
        self._db = db
        self._provider = provider
        self._reader = db.reader()
        self._signer = signer
        self._live = live

    def routes(self) -> list[BaseRoute]:
        """For Starlette."""

        def route(path: str, endpoint: Callable[[Request], object], verb: str) -> Route:
            return Route(path, for_programs(cast("Endpoint", endpoint)), methods=[verb])

        return [
            route("/api/visitors", self._new_visitor, "POST"),
            route("/api/performances", self._performances, "GET"),
            route("/api/performances/{show}/seats", self._seats, "GET"),
            route("/api/performances/{show}/holds", self._hold, "POST"),
            route("/api/holds/{hold}", self._release, "DELETE"),
            route("/api/orders", self._buy, "POST"),
            route("/api/payments/{payment}", self._payment, "GET"),
            route("/api/orders/{order}", self._order, "GET"),
            route(CALLBACKS, self._callback, "POST"),
        ]

    async def _new_visitor(self, request: Request) -> Response:
        del request  # Nothing is stored before the first hold.
        visitor = self._signer.new_visitor()
        return json_answer(Visitor(visitor, self._signer.token(visitor)), 201)

    async def _performances(self, request: Request) -> Response:
        query = request.query_params
        limit = whole_number(query.get("limit", "100"), 1_000)
        from_ms = whole_number(query.get("from_s", "0"), 10**9 * 9) * 1_000
        return json_answer(
            await self._reader.arun(booking.list_shows, from_ms=from_ms, after=query.get("after"), limit=limit)
        )

    async def _seats(self, request: Request) -> Response | EventStream:
        show_id = request.path_params["show"]
        feed = await self._live.map_of(show_id)
        if "text/event-stream" in request.headers.get("accept", ""):
            return EventStream(self._live, show_id)
        return json_answer(feed.whole())

    async def _hold(self, request: Request) -> Response:
        caller = _caller(request, self._signer)
        wish = await json_of(request, desk.Wish)
        show_id, key = request.path_params["show"], key_of(request)
        if key is None:
            hold = await self._db.arun(desk.take, show_id, by=caller.visitor, wish=wish)
        else:
            hold = await self._db.arun(desk.take_once, show_id, by=caller.visitor, wish=wish, key=key)
        return json_answer(hold, 201)

    async def _release(self, request: Request) -> Response:
        caller = _caller(request, self._signer)
        await self._db.arun(paying.give_back, request.path_params["hold"], by=caller.visitor)
        return Response(status_code=204)

    async def _buy(self, request: Request) -> Response:
        caller = _caller(request, self._signer)
        wanted = await json_of(request, Purchase)
        key = key_of(request)
        if key is None:
            raise Refused(400, "idempotency_key", "Buying demands an Idempotency-Key.")
        if wanted.card is None:
            bought = await self._db.arun(purchase, wanted.hold, by=caller.visitor, key=key)
            response = json_answer(bought.value, 201)
        else:
            bought = await self._db.arun(paying.pay_by_card, wanted.hold, by=caller.visitor, key=key, card=wanted.card)
            response = json_answer(Payment(bought.value), 202)
            response.headers["location"] = f"/api/payments/{bought.value}"
        if bought.replayed:
            response.headers["idempotency-replayed"] = "true"
        return response

    async def _payment(self, request: Request) -> Response:
        return await payment(request, self._reader, self._signer)

    async def _order(self, request: Request) -> Response:
        return await order(request, self._reader, self._signer)

    async def _callback(self, request: Request) -> Response:
        """A callback shows no token but a signature, and is only a reason to ask."""
        body = await body_of(request)
        told = self._provider.callback(dict(request.headers), body, now_ms=time.time_ns() // 1_000_000)
        await self._db.arun(payments.receive, paying.PROVIDER, told)
        return Response(status_code=204)


async def order(request: Request, reader: Handle, signer: Signer) -> Response:
    """The order as JSON, for its buyer; the order's page asks for it as well."""
    caller = Caller(request, signer)
    found = await reader.arun(desk.bought, request.path_params["order"], by=caller.visitor)
    receipt = None
    if found.receipt is not None:
        sent = found.receipt.open(ReceiptSent)
        receipt = Receipt(found.receipt.at_ms, sent.text, sent.price)
    return json_answer(OrderAnswer(found.order, receipt))


async def payment(request: Request, reader: Handle, signer: Signer) -> Response:
    """The payment as JSON, for its buyer; the payment's page asks for it as well."""
    caller = Caller(request, signer)
    return json_answer(await reader.arun(paying.paying_of, request.path_params["payment"], by=caller.visitor))


def _caller(request: Request, signer: Signer) -> Caller:
    """Programs show a token: a cookie alone would let other sites post here."""
    caller = Caller(request, signer)
    if caller.by_cookie:
        raise Refused(401, "token", "Send Authorization: Bearer with a token from POST /api/visitors.")
    return caller
