"""The shop as an ASGI app: what stands at which address, for people and for programs."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import cast

from examples.boxoffice import desk, paying, wallets
from examples.boxoffice.catalogue import by_title, works
from examples.boxoffice.purchase import purchase
from examples.boxoffice.visitors import Signer
from examples.boxoffice.web import api, season_pages, till_pages
from examples.boxoffice.web.http import (
    BASKET,
    KEY_LENGTH_MAX,
    Caller,
    Endpoint,
    for_people,
    form_of,
    problem,
    whole_number,
    words_for,
)
from examples.boxoffice.web.live import EventStream, Live
from examples.boxoffice.web.markup import Markup
from examples.boxoffice.web.shell import asset, message
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from onefold import Conflict, Database, Invalid, NotFound, OnefoldError, booking, payments
from onefold.server.problems import Refused

NIGHTS_S = 30.0  # The list of performances hardly changes.
SEARCH_LENGTH_MAX = 60

_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = [
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
]


class Shop:
    """The box office over one database. Run the workers, the dispatcher and the loops beside it."""

    def __init__(self, db: Database, signer: Signer, provider: payments.Provider) -> None:
        self.draining = False
        self.live = Live(db)
        self._db = db
        self._reader = db.reader()
        self._signer = signer
        self._nights: tuple[float, dict[str, booking.Show]] = (0.0, {})
        self._pages = Starlette(
            routes=self._routes(), exception_handlers={HTTPException: self._no_page},
            middleware=[Middleware(_Headers), Middleware(GZipMiddleware, minimum_size=1_024, compresslevel=4)],
        )  # fmt: skip
        self._api = Starlette(
            routes=api.Api(db, signer, self.live, provider).routes(), exception_handlers={HTTPException: _no_route},
            middleware=[Middleware(_Headers)],
        )  # fmt: skip

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI 3."""
        app = self._api if scope.get("path", "").startswith(("/api", "/callbacks")) else self._pages
        await app(scope, receive, send)

    async def drain(self) -> None:
        """End the event streams; other requests go on."""
        self.draining = True
        self.live.close()

    def _routes(self) -> list[BaseRoute]:
        def page(path: str, endpoint: Callable[[Request], object], *, post: bool = False) -> Route:
            guarded = for_people(_message, cast("Endpoint", endpoint))
            return Route(path, guarded, methods=["POST"] if post else ["GET"])

        return [
            page("/", self._season),
            page("/works/{slug}", self._work),
            page("/performances/{show}", self._evening),
            Route("/performances/{show}/live", self._live),
            page("/performances/{show}/hold", self._hold, post=True),
            page("/holds/{hold}", self._till),
            page("/holds/{hold}/pay", self._pay, post=True),
            page("/holds/{hold}/card", self._pay_by_card, post=True),
            page("/holds/{hold}/release", self._release, post=True),
            page("/payments/{payment}", self._payment),
            page("/orders", self._orders),
            page("/orders/{order}", self._order),
            page("/wallet", self._top_up, post=True),
            Route("/static/{stamp}/{name}", _static),
            Route("/readyz", self._ready),
        ]

    # -- choosing -------------------------------------------------------------------------------

    async def _season(self, request: Request) -> Response:
        genre = request.query_params.get("genre", "")
        search = request.query_params.get("q", "")[:SEARCH_LENGTH_MAX].strip()
        listed = [
            work for work in works().values()
            if (not genre or work.genre == genre) and search.casefold() in f"{work.title} {work.by}".casefold()
        ]  # fmt: skip
        nights = await self._next_nights()
        return _page(season_pages.season(listed, nights=nights, genre=genre, search=search))

    async def _work(self, request: Request) -> Response:
        work = works().get(request.path_params["slug"])
        if work is None:
            raise NotFound("There is no such work in the season.")
        nights = await self._reader.arun(desk.evenings, work.title, from_ms=_now_ms())
        return _page(season_pages.work_page(work, nights))

    async def _evening(self, request: Request) -> Response:
        caller = Caller(request, self._signer)
        return await self._evening_page(request.path_params["show"], caller, request.cookies.get(BASKET), "", 200)

    async def _evening_page(
        self, show_id: str, caller: Caller, hold_id: str | None, alert: str, status: int
    ) -> Response:
        feed = await self.live.map_of(show_id)
        by = None if caller.new else caller.visitor
        show, mine = await self._reader.arun(desk.evening, show_id, by=by)
        basket = None
        if hold_id and by:
            basket = await self._db.arun(desk.try_hold, hold_id, by=by)
        if basket is not None and basket.show_id == show_id:
            mine |= desk.seats_of(basket.blocks)
        body = season_pages.evening(
            show, by_title().get(show.title), rows=feed.rows, counts=feed.counts, mine=mine,
            form=caller.form_token, basket=basket, alert=alert,
        )  # fmt: skip
        return _page(body, caller, status)

    async def _live(self, request: Request) -> Response | EventStream:
        try:
            await self.live.map_of(request.path_params["show"])
        except Exception as error:
            return problem(request, error)
        return EventStream(self.live, request.path_params["show"])

    # -- holding and paying ---------------------------------------------------------------------

    async def _hold(self, request: Request) -> Response:
        caller, form = await self._post(request)
        show_id = request.path_params["show"]
        old = request.cookies.get(BASKET)
        try:
            hold = await self._db.arun(desk.take_instead, show_id, by=caller.visitor, wish=_wish(form), old=old)
        except Conflict as error:
            return await self._evening_page(show_id, caller, old, words_for(error), 409)
        response = _to(f"/holds/{hold.id}", caller)
        response.set_cookie(BASKET, hold.id, max_age=desk.TTL_MS // 1_000, httponly=True, samesite="lax")
        return response

    async def _till(self, request: Request) -> Response:
        caller = Caller(request, self._signer)
        return await self._till_page(request.path_params["hold"], caller, "", 200)

    async def _till_page(self, hold_id: str, caller: Caller, alert: str, status: int) -> Response:
        shown = await self._db.arun(desk.till, hold_id, by=caller.visitor)
        if shown.payment is not None:
            return _to(f"/payments/{shown.payment}", caller)
        key = secrets.token_hex(16)
        return _page(till_pages.till(shown, form=caller.form_token, key=key, alert=alert), caller, status)

    async def _pay(self, request: Request) -> Response:
        caller, form = await self._post(request)
        hold_id, key = request.path_params["hold"], _key(form)
        try:
            bought = await self._db.arun(purchase, hold_id, by=caller.visitor, key=key)
        except Conflict as error:
            if error.code != "insufficient_funds":
                raise
            return await self._till_page(hold_id, caller, words_for(error), 409)
        response = _to(f"/orders/{bought.value.id}", caller)
        response.delete_cookie(BASKET)
        return response

    async def _pay_by_card(self, request: Request) -> Response:
        caller, form = await self._post(request)
        hold_id, key, card = request.path_params["hold"], _key(form), form.get("card", "")
        if card not in paying.CARDS:
            raise Invalid("Choose one of the cards.")
        asked = await self._db.arun(paying.pay_by_card, hold_id, by=caller.visitor, key=key, card=card)
        response = _to(f"/payments/{asked.value}", caller)
        response.delete_cookie(BASKET)
        return response

    async def _payment(self, request: Request) -> Response:
        if "application/json" in request.headers.get("accept", ""):
            return await api.payment(request, self._reader, self._signer)
        caller = Caller(request, self._signer)
        shown = await self._reader.arun(paying.paying_of, request.path_params["payment"], by=caller.visitor)
        if shown.state == "paid":
            return _to(f"/orders/{shown.order}" if shown.order else "/orders", caller)
        if shown.state == "declined" and await self._db.arun(desk.try_hold, shown.hold, by=caller.visitor):
            response = await self._till_page(shown.hold, caller, till_pages.DECLINED, 200)
            response.set_cookie(BASKET, shown.hold, max_age=desk.TTL_MS // 1_000, httponly=True, samesite="lax")
            return response
        return _page(till_pages.payment(shown, form=caller.form_token), caller)

    async def _release(self, request: Request) -> Response:
        caller, _ = await self._post(request)
        hold_id = request.path_params["hold"]
        held = await self._db.arun(desk.try_hold, hold_id, by=caller.visitor)
        await self._db.arun(paying.give_back, hold_id, by=caller.visitor)
        response = _to(f"/performances/{held.show_id}" if held else "/", caller)
        response.delete_cookie(BASKET)
        return response

    # -- orders and wallet ----------------------------------------------------------------------

    async def _orders(self, request: Request) -> Response:
        caller = Caller(request, self._signer)
        listed, balance = await self._reader.arun(desk.all_bought, by=caller.visitor)
        key = secrets.token_hex(16)
        return _page(till_pages.orders(listed, balance, form=caller.form_token, key=key), caller)

    async def _order(self, request: Request) -> Response:
        if "application/json" in request.headers.get("accept", ""):
            return await api.order(request, self._reader, self._signer)
        caller = Caller(request, self._signer)
        shown = await self._reader.arun(desk.bought, request.path_params["order"], by=caller.visitor)
        return _page(till_pages.order(shown), caller)

    async def _top_up(self, request: Request) -> Response:
        caller, form = await self._post(request)
        await self._db.arun(wallets.top_up, caller.visitor, key=_key(form))
        return _to("/orders", caller)

    # -- helpers --------------------------------------------------------------------------------

    async def _post(self, request: Request) -> tuple[Caller, dict[str, str]]:
        caller = Caller(request, self._signer)
        form = await form_of(request)
        caller.check_form(request, form)
        return caller, form

    async def _next_nights(self) -> dict[str, booking.Show]:
        read_at, nights = self._nights
        if time.monotonic() - read_at > NIGHTS_S or not nights:
            listed = await self._reader.arun(booking.list_shows, from_ms=_now_ms(), limit=1_000)
            nights = {}
            for show in listed.items:
                nights.setdefault(show.title, show)
            self._nights = (time.monotonic(), nights)
        return nights

    async def _ready(self, request: Request) -> Response:
        del request
        if self.draining:
            return Response("draining", 503)
        try:
            await self._reader.options(deadline_ms=2_000).arun(booking.list_shows, limit=1)
        except OnefoldError:
            return Response("not ready", 503)
        return Response("ready")

    async def _no_page(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        response = await _message(request, "There is no such page", str(error.detail), error.status_code)
        response.headers.update(error.headers or {})
        return response


class _Headers:
    """Adds to every response what browsers should know."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def add(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        await self._app(scope, receive, add)


def _wish(form: dict[str, str]) -> desk.Wish:
    if chosen := form.get("seats"):
        row, _, seats = chosen.partition(":")
        numbers = seats.split(",")
        if len(numbers) > desk.SEATS_MAX:
            raise Invalid("An order is for ten seats at most.")
        return desk.Wish(row=whole_number(row, 10_000), seats=tuple(whole_number(seat, 63) for seat in numbers))
    return desk.Wish(count=whole_number(form.get("count", ""), 10), section=form.get("section") or None)


def _key(form: dict[str, str]) -> str:
    key = form.get("key", "")
    if not (1 <= len(key) <= KEY_LENGTH_MAX and key.isascii() and key.isprintable()):
        raise Invalid("The form is not complete; load the page again.")
    return key


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = [(name.lower().encode(), value.encode()) for name, value in (error.headers or {}).items()]
    status = error.status_code if error.status_code in {400, 404, 405} else 400
    return problem(request, Refused(status, "http", str(error.detail), headers=headers))


def _page(body: Markup, caller: Caller | None = None, status: int = 200) -> Response:
    response = HTMLResponse(body, status, {"cache-control": "no-store" if caller else "no-cache"})
    if caller is not None:
        caller.remember(response)
    return response


async def _message(request: Request, title: str, text: str, status: int) -> Response:
    del request
    return HTMLResponse(message(title, text), status, {"cache-control": "no-store"})


def _to(path: str, caller: Caller) -> Response:
    response = RedirectResponse(path, 303)
    caller.remember(response)
    return response


async def _static(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in {"shop.css", "shop.js"}:
        raise HTTPException(404)
    kind = "text/css" if name.endswith("css") else "text/javascript"
    return Response(asset(name)[0], 200, {"cache-control": "public, max-age=31536000, immutable"}, media_type=kind)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
