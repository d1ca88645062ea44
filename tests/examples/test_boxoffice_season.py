"""The catalogue, the hall, and setting up."""

from __future__ import annotations

from collections import Counter

from examples.boxoffice import hall, season
from examples.boxoffice.catalogue import works

from onefold import Database, booking


def test_the_season_has_fifty_works() -> None:
    assert len(works()) == 50
    for work in works().values():
        assert work.line.endswith(".")
        assert 40 <= len(work.line) <= 140
        assert 60 <= work.minutes <= 240
        assert work.year < 1930


def test_the_hall_has_2000_seats_and_none_on_another() -> None:
    seats = [seat for bench in hall.benches().values() for seat in bench.seats]
    assert len(seats) == hall.SEATS
    crowded = Counter((round(x / 12), round(y / 12)) for x, y in seats)
    assert max(crowded.values()) <= 2
    assert all(0 < x < hall.WIDTH and 140 < y < hall.HEIGHT for x, y in seats)
    near = min(
        (one[0] - two[0]) ** 2 + (one[1] - two[1]) ** 2
        for number, one in enumerate(seats) for two in seats[number + 1 : number + 40]
    )  # fmt: skip
    assert near**0.5 > 17, "circles of radius 8 do not touch"


def test_the_best_seats_are_in_the_middle_of_the_stalls(db: Database) -> None:
    season.open_house(db)
    show = db.run(booking.list_shows, limit=1).items[0]
    best = db.run(booking.hold_best, show.id, by="v", count=2, ttl_ms=60_000).blocks[0]
    assert best.section == "Stalls centre"


def test_setting_up_twice_is_setting_up_once(db: Database) -> None:
    assert season.open_house(db) == 150
    assert season.open_house(db) == 0
    shows = db.run(booking.list_shows, limit=1_000).items
    assert Counter(show.title for show in shows) == {work.title: 3 for work in works().values()}
    assert len({show.starts_at_ms for show in shows}) == 150, "one hall plays one show at a time"
    assert all(sum(section.free for section in db.run(booking.availability, show.id)) == 2_000 for show in shows[:2])


def test_a_set_up_that_was_interrupted_goes_on(db: Database) -> None:
    opened = db.run(season._current_season)
    for work, starts_at_ms in list(season._evenings(opened))[:7]:
        db.run(season._add_show, opened, work, starts_at_ms)
    assert season.open_house(db) == 143
