"""Booking: venues, shows, holds that lapse, orders, and no seat sold twice. See README.md."""

from __future__ import annotations

from onefold.products.booking.maps import availability, seat_map, seat_map_since
from onefold.products.booking.ops import cancel, confirm, confirm_hold, extend, hold, hold_best, hold_of, release
from onefold.products.booking.orders import list_orders, order_of
from onefold.products.booking.records import (
    Block,
    Hold,
    Order,
    Row,
    RowMap,
    SeatMap,
    Section,
    SectionCount,
    Show,
    Venue,
    grid,
)
from onefold.products.booking.venues import add_show, add_venue, forget_show, list_shows, list_venues, show_of

__all__ = [
    "Block", "Hold", "Order", "Row", "RowMap", "SeatMap", "Section", "SectionCount", "Show", "Venue",
    "add_show", "add_venue", "availability", "cancel", "confirm", "confirm_hold", "extend", "forget_show",
    "grid", "hold", "hold_best", "hold_of", "list_orders", "list_shows", "list_venues", "order_of", "release",
    "seat_map", "seat_map_since", "show_of",
]  # fmt: skip
