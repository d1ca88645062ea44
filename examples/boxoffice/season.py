"""Setting up: the hall, the accounts of the house, and three evenings for each of the fifty works.

Every step is a transaction that looks whether it is done already, so that a set-up that was
interrupted, or that two processes do at once, goes on where it stands.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec
from examples.boxoffice import hall, wallets
from examples.boxoffice.catalogue import Work, works

from onefold import Database, Tx, booking, events

ZONE = ZoneInfo("Europe/Vienna")
PERFORMANCES = 3  # Of each work.
STREAM = "season"
_TIMES = ((14, 30), (19, 30))  # A matinee and an evening on every day.


@events.kind("season.opened")
class SeasonOpened(msgspec.Struct, frozen=True):
    """The house announced a season: where, and from which day on."""

    venue: str
    first_day: str


def open_house(db: Database) -> int:
    """Enter whatever of the present season is missing; answer how many shows were added now."""
    season = db.run(_current_season)
    return sum(db.run(_add_show, season, work, starts_at_ms) for work, starts_at_ms in _evenings(season))


def when(starts_at_ms: int) -> datetime:
    """The moment on the clock of the house."""
    return datetime.fromtimestamp(starts_at_ms / 1_000, UTC).astimezone(ZONE)


def _current_season(tx: Tx) -> SeasonOpened:
    """The latest season, or a new one when there was none or its last curtain has fallen."""
    wallets.open_house_accounts(tx)
    version = events.version_of(tx, STREAM)
    if version:
        latest = events.read_stream(tx, STREAM, after=version - 1).items[0].open(SeasonOpened)
        if any(starts_at_ms > tx.now_ms for _, starts_at_ms in _evenings(latest)):
            return latest
    venue = booking.add_venue(tx, hall.NAME, sections=hall.sections(), focus_cm=hall.focus_cm())
    season = SeasonOpened(venue=venue.id, first_day=f"{when(tx.now_ms) + timedelta(days=1):%Y-%m-%d}")
    events.append(tx, STREAM, season, expected=version)
    return season


def _add_show(tx: Tx, season: SeasonOpened, work: Work, starts_at_ms: int) -> bool:
    there = booking.list_shows(tx, from_ms=starts_at_ms, limit=1).items
    if there and there[0].starts_at_ms == starts_at_ms:
        return False
    prices = hall.prices(sung=work.sung)
    booking.add_show(tx, season.venue, title=work.title, starts_at_ms=starts_at_ms, prices=prices)
    return True


def _evenings(season: SeasonOpened) -> Iterator[tuple[Work, int]]:
    """Every performance of the season and when it begins, in order."""
    listed = list(works().values())
    first = datetime.fromisoformat(season.first_day).replace(tzinfo=ZONE)
    for number in range(PERFORMANCES * len(listed)):
        day, time = divmod(number, len(_TIMES))
        hour, minute = _TIMES[time]
        starts = (first + timedelta(days=day)).replace(hour=hour, minute=minute)
        yield listed[_which(number, len(listed))], int(starts.timestamp() * 1_000)


def _which(number: int, count: int) -> int:
    """Mix the repertory: neighbours in the file do not follow each other, and each comes once in a round."""
    turn, place = divmod(number, count)
    return (place * 17 + turn * 7) % count  # 17 and 50 have no common factor.
