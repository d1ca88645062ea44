"""Routes of booking. To take money with the seats, compose `hold_of` and `confirm` in a function of yours."""

from __future__ import annotations

from typing import Any

from onefold.core.money import Money
from onefold.core.route import Route
from onefold.engine.tx import Tx
from onefold.products.booking import maps, ops, orders, venues
from onefold.products.booking.records import grid

TTL_MS = 600_000
DAY_MS = 86_400_000


def _sections(_tx: Tx) -> dict[str, Any]:
    return {"name": "Old Theatre", "sections": (grid("Stalls", rows=3, seats=8), grid("Circle", rows=2, seats=6))}


def _venue(tx: Tx) -> dict[str, Any]:
    return {
        "venue_id": venues.add_venue(tx, **_sections(tx)).id, "title": "Faust", "starts_at_ms": tx.now_ms + DAY_MS,
        "prices": {"Stalls": Money(4_500, "EUR"), "Circle": Money(2_500, "EUR")},
    }  # fmt: skip


def _show(tx: Tx) -> dict[str, Any]:
    return {"show_id": venues.add_show(tx, **_venue(tx)).id}


def _over(tx: Tx) -> dict[str, Any]:
    show: dict[str, Any] = {**_venue(tx), "starts_at_ms": tx.now_ms - 2 * DAY_MS}
    return {"show_id": venues.add_show(tx, **show).id}


def _some(tx: Tx) -> dict[str, Any]:
    _show(tx)
    return {}


def _version(tx: Tx) -> dict[str, Any]:
    show = _show(tx)
    before = maps.seat_map(tx, **show).version
    ops.hold_best(tx, **show, by="ana", count=2, ttl_ms=TTL_MS)
    return {**show, "version": before}


def _seats(tx: Tx) -> dict[str, Any]:
    return {**_show(tx), "by": "ana", "row": 1, "seats": (3, 4), "ttl_ms": TTL_MS}


def _best(tx: Tx) -> dict[str, Any]:
    return {**_show(tx), "by": "ana", "count": 2, "ttl_ms": TTL_MS}


def _hold(tx: Tx) -> dict[str, Any]:
    return {"hold_id": ops.hold_best(tx, **_best(tx)).id, "by": "ana"}


def _longer(tx: Tx) -> dict[str, Any]:
    return {**_hold(tx), "ttl_ms": 2 * TTL_MS}


def _order(tx: Tx) -> dict[str, Any]:
    return {"order_id": ops.confirm_hold(tx, **_hold(tx)).id, "by": "ana"}


def _orders(tx: Tx) -> dict[str, Any]:
    _order(tx)
    return {"by": "ana"}


ROUTES = (
    Route("POST", "/booking/venues", venues.add_venue, "booking:admin", _sections),
    Route("GET", "/booking/venues", venues.list_venues, "booking:read", _some),
    Route("POST", "/booking/shows", venues.add_show, "booking:admin", _venue),
    Route("GET", "/booking/shows", venues.list_shows, "booking:read", _some),
    Route("GET", "/booking/shows/{show_id}", venues.show_of, "booking:read", _show),
    Route("POST", "/booking/shows/{show_id}/forget", venues.forget_show, "booking:admin", _over),
    Route("GET", "/booking/shows/{show_id}/seats", maps.seat_map, "booking:read", _show),
    Route("GET", "/booking/shows/{show_id}/seats/since", maps.seat_map_since, "booking:read", _version),
    Route("GET", "/booking/shows/{show_id}/availability", maps.availability, "booking:read", _show),
    Route("POST", "/booking/shows/{show_id}/holds", ops.hold, "booking:write", _seats),
    Route("POST", "/booking/shows/{show_id}/holds/best", ops.hold_best, "booking:write", _best),
    Route("POST", "/booking/holds/{hold_id}/extend", ops.extend, "booking:write", _longer),
    Route("POST", "/booking/holds/{hold_id}/release", ops.release, "booking:write", _hold),
    Route("POST", "/booking/holds/{hold_id}/confirm", ops.confirm_hold, "booking:write", _hold),
    Route("GET", "/booking/orders", orders.list_orders, "booking:read", _orders),
    Route("GET", "/booking/orders/{order_id}", orders.order_of, "booking:read", _order),
    Route("POST", "/booking/orders/{order_id}/cancel", ops.cancel, "booking:write", _order),
)
