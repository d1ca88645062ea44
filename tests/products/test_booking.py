"""Booking on both engines: what a house and its buyers do, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from booking_hall import EUR, TTL_MS, audit, lapse, open_hall
from waiting import until

import onefold
from onefold import Conflict, Database, Denied, Invalid, Money, NotFound, Tx, booking
from onefold.core.clock import FakeClock
from onefold.products.booking import Row, Section
from onefold.products.booking.records import HOLD_LIFE_MS_MAX, HOLDS_PER_BUYER_MAX
from onefold.products.booking.tidy import TIDY_MAX, WALK_ROWS, tidy_lapsed


@pytest.fixture
def show(db: Database) -> str:
    return db.run(open_hall)


@pytest.fixture
def sqlite_db(tmp_path: Path, clock: FakeClock) -> Iterator[Database]:
    """For what needs the clock moved, or many steps: the logic is the same on both engines."""
    with onefold.connect(tmp_path / "clock.db", rehearse=True, clock=clock) as database:
        yield database


def hold(db: Database, show: str, by: str, seats: list[int], row: int = 1, ttl_ms: int = TTL_MS) -> booking.Hold:
    return db.run(booking.hold, show, by=by, row=row, seats=seats, ttl_ms=ttl_ms)


def seats_of_row(db: Database, show: str, row: int = 1) -> str:
    return db.run(booking.seat_map, show).rows[row - 1].seats


def buy(tx: Tx, hold_id: str, by: str) -> booking.Order:
    return booking.confirm(tx, booking.hold_of(tx, hold_id, by=by))


# -- from the seat map to the order ---------------------------------------------------------------


def test_a_buyer_holds_pays_and_has_the_seats(db: Database, show: str) -> None:
    held = hold(db, show, "ana", [3, 4])
    assert held.price == Money(9_000, "EUR")
    assert (held.row, held.seats, held.blocks[0].label) == (1, (3, 4), "A")
    assert seats_of_row(db, show) == "0011000000"
    order = db.run(buy, held.id, "ana")
    assert seats_of_row(db, show) == "0022000000"
    assert (order.by, order.price, order.blocks, order.state) == ("ana", held.price, held.blocks, "sold")
    assert db.run(booking.order_of, order.id, by="ana") == order
    assert db.run(audit, show) == 2


def test_seats_that_somebody_has_are_refused_by_number(db: Database, show: str) -> None:
    db.run(buy, hold(db, show, "ana", [3]).id, "ana")
    hold(db, show, "bob", [5])
    with pytest.raises(Conflict) as refused:
        hold(db, show, "cy", [2, 3, 4, 5])
    assert refused.value.code == "seats_taken"
    assert refused.value.facts["taken"] == [3, 5]
    assert seats_of_row(db, show) == "0020100000"


def test_a_hold_is_its_owners(db: Database, show: str) -> None:
    held = hold(db, show, "ana", [1])
    for act in (booking.hold_of, booking.release, booking.confirm_hold):
        with pytest.raises(Denied):
            db.run(act, held.id, by="bob")
    with pytest.raises(Denied):
        db.run(booking.extend, held.id, by="bob", ttl_ms=TTL_MS)
    assert db.run(booking.hold_of, held.id, by="ana") == held


def test_a_released_hold_is_gone_and_its_seats_free(db: Database, show: str) -> None:
    held = hold(db, show, "ana", [1, 2])
    assert db.run(booking.release, held.id, by="ana") is True
    assert db.run(booking.release, held.id, by="ana") is False
    with pytest.raises(NotFound):
        db.run(buy, held.id, "ana")
    assert seats_of_row(db, show) == "0000000000"
    db.run(audit, show)


def test_a_hold_is_confirmed_once(db: Database, show: str) -> None:
    held = hold(db, show, "ana", [1])
    db.run(buy, held.id, "ana")
    with pytest.raises(NotFound):
        db.run(buy, held.id, "ana")
    with pytest.raises(Conflict) as refused:  # Also with what an earlier transaction had read.
        db.run(booking.confirm, held)
    assert refused.value.code == "hold_lapsed"
    assert db.run(audit, show) == 1


def test_confirming_needs_no_reading_before_it(db: Database, show: str) -> None:
    held = hold(db, show, "ana", [1])
    assert db.run(booking.confirm, held).price == held.price
    assert db.run(audit, show) == 1


def test_a_forged_hold_is_refused(db: Database, show: str) -> None:
    held = hold(db, show, "ana", [1, 2])
    block = held.blocks[0]
    cheap = booking.Block(block.row, block.section, block.label, block.seats, Money(1, "EUR"))
    wide = booking.Block(block.row, block.section, block.label, (1, 2, 3), block.price)
    for forged in (
        booking.Hold(held.id, show, "bob", held.blocks, held.price, held.created_at_ms, held.expires_at_ms),
        booking.Hold(held.id, show, "ana", (cheap,), cheap.price, held.created_at_ms, held.expires_at_ms),
        booking.Hold(held.id, show, "ana", held.blocks, cheap.price, held.created_at_ms, held.expires_at_ms),
        booking.Hold(held.id, show, "ana", (wide,), held.price, held.created_at_ms, held.expires_at_ms),
        booking.Hold(held.id, show, "ana", held.blocks, held.price, held.created_at_ms, held.expires_at_ms + 1),
    ):
        with pytest.raises(Conflict):
            db.run(booking.confirm, forged)
    assert db.run(audit, show) == 0


def test_a_name_made_to_look_like_an_entry_harms_nobody(db: Database, show: str) -> None:
    ana = hold(db, show, "ana", [1])
    mallory = '",1,1]\n["' + ana.id.partition(".")[0] + '","ana",1,4500,0,9]'
    held = hold(db, show, mallory, [2])
    assert held.by == mallory
    assert db.run(booking.release, held.id, by=mallory)
    assert db.run(buy, ana.id, "ana").by == "ana"
    assert db.run(audit, show) == 1


def test_ends_of_lines_in_a_name_harm_nobody(db: Database, show: str) -> None:
    name = "ana\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
    held = hold(db, show, name, [1])
    assert hold(db, show, "bob", [2]).by == "bob"
    assert db.run(booking.seat_map, show).rows[0].row == 1
    assert db.run(buy, held.id, name).by == name
    assert db.run(audit, show) == 1


def test_two_holds_of_one_row_are_bought_in_one_transaction(db: Database, show: str) -> None:
    first, second = hold(db, show, "ana", [1]), hold(db, show, "ana", [2])

    def both(tx: Tx) -> list[booking.Order]:
        held = [booking.hold_of(tx, one.id, by="ana") for one in (first, second)]
        return [booking.confirm(tx, one) for one in held]

    assert len({order.id for order in db.run(both)}) == 2
    assert db.run(audit, show) == 2


# -- time -------------------------------------------------------------------------------------------


def test_a_lapsed_hold_cannot_be_bought_and_its_seats_are_free(db: Database, show: str) -> None:
    held = hold(db, show, "ana", [1, 2])
    db.run(lapse, held)
    assert seats_of_row(db, show) == "0000000000"
    with pytest.raises(Conflict) as refused:
        db.run(buy, held.id, "ana")
    assert refused.value.code == "hold_lapsed"
    with pytest.raises(Conflict):
        db.run(booking.extend, held.id, by="ana", ttl_ms=TTL_MS)
    assert db.run(booking.release, held.id, by="ana") is False
    db.run(audit, show)


def test_taking_the_seats_of_a_lapsed_hold_ends_it_for_good(db: Database, show: str) -> None:
    held = hold(db, show, "ana", [1, 2])
    db.run(lapse, held)
    taker = hold(db, show, "bob", [2, 3])
    with pytest.raises(Conflict):  # As a process with a slow clock would try it: its hold looks alive.
        db.run(booking.confirm, held)
    with pytest.raises(NotFound):
        db.run(buy, held.id, "ana")
    assert db.run(buy, taker.id, "bob").by == "bob"
    assert db.run(audit, show) == 2


def test_expiry_needs_no_sweeper(sqlite_db: Database, clock: FakeClock) -> None:
    show = sqlite_db.run(open_hall)
    held = hold(sqlite_db, show, "ana", [1], ttl_ms=1_000)
    clock.advance(999)
    assert seats_of_row(sqlite_db, show) == "1000000000"
    clock.advance(1)
    assert seats_of_row(sqlite_db, show) == "0000000000"
    with pytest.raises(Conflict):
        sqlite_db.run(buy, held.id, "ana")
    hold(sqlite_db, show, "bob", [1])
    clock.advance(-1_000)  # A clock that steps back revives nothing.
    with pytest.raises(NotFound):
        sqlite_db.run(buy, held.id, "ana")


def test_extending_goes_on_until_an_hour_and_never_shortens(sqlite_db: Database, clock: FakeClock) -> None:
    show = sqlite_db.run(open_hall)
    held = hold(sqlite_db, show, "ana", [1], ttl_ms=600_000)
    made = held.created_at_ms
    assert sqlite_db.run(booking.extend, held.id, by="ana", ttl_ms=1_000) == held
    for _ in range(10):
        held = sqlite_db.run(booking.extend, held.id, by="ana", ttl_ms=1_800_000)
        assert held.expires_at_ms == min(clock.now_ms() + 1_800_000, made + HOLD_LIFE_MS_MAX)
        assert sqlite_db.run(booking.hold_of, held.id, by="ana") == held
        clock.advance(300_000)
    assert held.expires_at_ms == made + HOLD_LIFE_MS_MAX
    sqlite_db.run(audit, show)


def test_a_hold_read_before_it_was_extended_is_not_confirmed(db: Database, show: str) -> None:
    held = hold(db, show, "ana", [1])
    longer = db.run(booking.extend, held.id, by="ana", ttl_ms=2 * TTL_MS)
    assert longer.expires_at_ms > held.expires_at_ms
    with pytest.raises(Conflict):
        db.run(booking.confirm, held)
    assert db.run(booking.confirm, longer).by == "ana"


def test_the_sale_has_a_beginning_and_an_end(sqlite_db: Database, clock: FakeClock) -> None:
    now = clock.now_ms()

    def setup(tx: Tx) -> str:
        venue = booking.add_venue(tx, "Hall", sections=[booking.grid("Stalls", rows=1, seats=10)])
        return booking.add_show(
            tx, venue.id, title="Faust", starts_at_ms=now + 9_000, prices={"Stalls": Money(0, "EUR")},
            sale_from_ms=now + 1_000, sale_until_ms=now + 4_000,
        ).id  # fmt: skip

    show = sqlite_db.run(setup)
    for advance, open_ in ((999, False), (1, True), (2_999, True)):
        clock.advance(advance)
        if open_:
            held = hold(sqlite_db, show, "ana", [advance % 10 + 1], ttl_ms=5_000)
            continue
        with pytest.raises(Conflict) as refused:
            hold(sqlite_db, show, "ana", [1])
        assert refused.value.code == "not_on_sale"
    clock.advance(1)
    with pytest.raises(Conflict):
        sqlite_db.run(booking.hold_best, show, by="bob", count=1, ttl_ms=TTL_MS)
    sqlite_db.run(buy, held.id, "ana")  # Held in time, bought after.


# -- limits -----------------------------------------------------------------------------------------


def test_a_buyer_has_four_holds_alive_at_most(db: Database, show: str) -> None:
    held = [hold(db, show, "ana", [seat]) for seat in range(1, HOLDS_PER_BUYER_MAX + 1)]
    with pytest.raises(Conflict) as refused:
        hold(db, show, "ana", [9])
    assert refused.value.code == "too_many_holds"
    hold(db, show, "bob", [9])
    db.run(booking.release, held[2].id, by="ana")
    hold(db, show, "ana", [10])
    db.run(buy, held[0].id, "ana")
    hold(db, show, "ana", [5])
    db.run(lapse, held[1])
    hold(db, show, "ana", [6])
    with pytest.raises(Conflict):
        hold(db, show, "ana", [7])
    db.run(audit, show)


BAD: list[dict[str, Any]] = [
    {"seats": []}, {"seats": [1, 1]}, {"seats": [0]}, {"seats": [64]}, {"seats": [-1]}, {"seats": list(range(1, 12))},
    {"row": 0}, {"row": 2_001}, {"row": True}, {"by": ""}, {"by": "x" * 201}, {"by": "a\0"}, {"by": "\ud800"},
    {"ttl_ms": 999}, {"ttl_ms": 1_800_001}, {"ttl_ms": 1.5}, {"show_id": ""}, {"show_id": "x" * 65},
]  # fmt: skip


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_bad_input_writes_nothing(db: Database, show: str, bad: dict[str, Any]) -> None:
    before = db.run(booking.seat_map, show)
    request = {"show_id": show, "by": "ana", "row": 1, "seats": [1], "ttl_ms": TTL_MS, **bad}
    with pytest.raises(Invalid):
        db.run(booking.hold, **request)
    if not {"seats", "row"} & set(bad):
        del request["row"], request["seats"]
        with pytest.raises(Invalid):
            db.run(booking.hold_best, **request, count=1)
    assert db.run(booking.seat_map, show) == before
    slots = db.run(lambda tx: tx.one("SELECT count(*) FROM onefold.booking_slots WHERE space = :space"))
    assert slots == (0,)


def test_what_is_not_there_is_not_found(db: Database, show: str) -> None:
    for row, seats in ((9, [1]), (1, [11])):
        with pytest.raises(NotFound):
            hold(db, show, "ana", seats, row=row)
    with pytest.raises(NotFound):
        hold(db, "show_x", "ana", [1])
    with pytest.raises(NotFound):
        db.run(booking.hold_best, show, by="ana", count=1, section="Roof", ttl_ms=TTL_MS)
    for hold_id in ("", "x", "hold_" + "0" * 32 + ".1.0." + "0" * 32, "hold_" + "0" * 32 + ".1.0." + show[5:]):
        with pytest.raises(NotFound):
            db.run(booking.hold_of, hold_id, by="ana")
    with pytest.raises(NotFound):
        db.run(booking.order_of, "order_x")
    with pytest.raises(NotFound):
        db.run(booking.cancel, "order_x")
    for read in (booking.seat_map, booking.availability, booking.show_of):
        with pytest.raises(NotFound):
            db.run(read, "show_x")


def test_a_space_sees_nothing_of_another(db: Database, show: str) -> None:
    held = hold(db, show, "ana", [1])
    other = db.at("tenant/7")
    with pytest.raises(NotFound):
        other.run(booking.seat_map, show)
    with pytest.raises(NotFound):
        other.run(booking.hold_of, held.id, by="ana")
    assert other.run(booking.list_shows).items == []


# -- orders -----------------------------------------------------------------------------------------


def test_a_cancelled_order_frees_its_seats_once(db: Database, show: str) -> None:
    order = db.run(buy, hold(db, show, "ana", [1, 2]).id, "ana")
    with pytest.raises(Denied):
        db.run(booking.cancel, order.id, by="bob")
    with pytest.raises(Denied):
        db.run(booking.order_of, order.id, by="bob")
    cancelled = db.run(booking.cancel, order.id, by="ana")
    assert (cancelled.state, cancelled.price) == ("cancelled", order.price)
    again = db.run(buy, hold(db, show, "bob", [2, 3]).id, "bob")
    for by in ("ana", None):
        with pytest.raises(Conflict) as refused:
            db.run(booking.cancel, order.id, by=by)
        assert refused.value.code == "order_cancelled"
    assert db.run(booking.order_of, again.id).state == "sold"
    assert db.run(audit, show) == 2


def test_orders_are_listed_newest_first_by_buyer_by_show_and_all(db: Database, show: str) -> None:
    other = db.run(open_hall)
    made = []
    for number in range(6):
        where, by = (show, "ana") if number % 2 else (other, "bob")
        made.append(db.run(buy, hold(db, where, by, [number + 1]).id, by))
    assert {o.id for o in db.run(booking.list_orders).items} == {o.id for o in made}
    assert {o.id for o in db.run(booking.list_orders, by="ana").items} == {o.id for o in made[1::2]}
    assert {o.id for o in db.run(booking.list_orders, show_id=other).items} == {o.id for o in made[::2]}
    assert db.run(booking.list_orders, by="ana", show_id=other).items == []
    seen: list[str] = []
    after = None
    for _ in range(4):
        page = db.run(booking.list_orders, after=after, limit=2)
        seen += [order.id for order in page.items]
        after = page.after
        if after is None:
            break
    assert seen == sorted(seen, reverse=True)
    assert len(seen) == 6


# -- venues and shows -------------------------------------------------------------------------------


def test_a_venue_that_makes_no_sense_is_refused(db: Database) -> None:
    row = Row("A", 5)
    for sections in (
        [], [Section("S", ())], [Section("S", (row, row))], [Section("S", (row,)), Section("S", (row,))],
        [Section("", (row,))], [Section("S", (Row("A", 0),))], [Section("S", (Row("A", 64),))],
        [Section("S", (Row("A", 5, aisles=(6,)),))], [Section("S", (Row("A", 5, x_cm=10**6),))],
        [Section("S", (Row("A", 5, pitch_cm=0),))], [Section("S", (Row("A" * 21, 5),))],
        [Section("S", tuple(Row(str(n), 1) for n in range(2_001)))],
    ):  # fmt: skip
        with pytest.raises(Invalid):
            db.run(booking.add_venue, "Hall", sections=sections)
    with pytest.raises(Invalid):
        db.run(booking.add_venue, "Hall", sections=[booking.grid("S", rows=1, seats=1)], focus_cm=(10**9, 0))
    assert db.run(booking.list_venues).items == []


def test_a_show_needs_a_price_for_each_category_and_a_sale(db: Database) -> None:
    venue = db.run(booking.add_venue, "Hall", sections=[
        booking.grid("Left", rows=1, seats=4, category="Side"), booking.grid("Right", rows=1, seats=4, category="Side"),
    ])  # fmt: skip
    good = {"title": "Faust", "starts_at_ms": 10**13, "prices": {"Side": Money(100, "JPY")}}
    for bad in (
        {"prices": {}}, {"prices": {"Left": Money(1, "JPY"), "Right": Money(1, "JPY")}},
        {"prices": {"Side": Money(1, "JPY"), "Gold": Money(1, "JPY")}}, {"prices": {"Side": Money(-1, "JPY")}},
        {"title": ""}, {"starts_at_ms": -1}, {"starts_at_ms": 1 << 60}, {"sale_from_ms": 10**13},
    ):  # fmt: skip
        with pytest.raises(Invalid):
            db.run(booking.add_show, venue.id, **{**good, **bad})
    with pytest.raises(NotFound):
        db.run(booking.add_show, "venue_x", **good)
    assert db.run(booking.list_shows).items == []
    show = db.run(booking.add_show, venue.id, **good)
    assert db.run(booking.show_of, show.id) == show
    assert [c.section for c in db.run(booking.availability, show.id)] == ["Left", "Right"]


def test_shows_are_listed_in_the_order_in_which_they_begin(db: Database) -> None:
    def setup(tx: Tx) -> None:
        venue = booking.add_venue(tx, "Hall", sections=[booking.grid("Stalls", rows=1, seats=1)])
        for start in (5_000, 1_000, 3_000, 3_000, 10_000):
            booking.add_show(tx, venue.id, title="Faust", starts_at_ms=start, prices={"Stalls": Money(1, "EUR")})

    db.run(setup)
    starts, after = [], None
    for _ in range(5):
        page = db.run(booking.list_shows, after=after, limit=2, from_ms=2_000)
        starts += [show.starts_at_ms for show in page.items]
        after = page.after
        if after is None:
            break
    assert starts == [3_000, 3_000, 5_000, 10_000]
    for bad in ("x", "1", "١.show_x", "9" * 40 + ".x", "." * 100):
        with pytest.raises(Invalid):
            db.run(booking.list_shows, after=bad + "x" * 60)


def test_a_show_is_forgotten_a_day_after_it_and_its_orders_stay(sqlite_db: Database, clock: FakeClock) -> None:
    show = sqlite_db.run(open_hall)
    order = sqlite_db.run(buy, hold(sqlite_db, show, "ana", [1]).id, "ana")
    with pytest.raises(Conflict):
        sqlite_db.run(booking.forget_show, show)
    clock.advance(10**9 + 86_400_001)
    sqlite_db.run(booking.forget_show, show)
    with pytest.raises(NotFound):
        sqlite_db.run(booking.seat_map, show)
    assert sqlite_db.run(booking.order_of, order.id) == order
    assert sqlite_db.run(booking.cancel, order.id).state == "cancelled"
    assert sqlite_db.run(booking.show_of, show).title == "Faust"


# -- tidying ----------------------------------------------------------------------------------------


def test_tidying_frees_lapsed_seats_and_slots_in_all_spaces(db: Database, show: str) -> None:
    other = db.at("tenant/7")
    there = other.run(open_hall)
    held = [hold(db, show, "ana", [1, 2]), other.run(booking.hold, there, by="bob", row=2, seats=[5], ttl_ms=TTL_MS)]
    alive = hold(db, show, "cy", [9])
    bought = hold(db, show, "dan", [5])
    db.run(buy, bought.id, "dan")
    db.run(lapse, held[0])
    other.run(lapse, held[1])
    version = db.run(booking.seat_map, show).version
    woken = db.waiter(f"booking/{show}")
    loops = db.options(isolation="read_committed")
    assert loops.run(tidy_lapsed) is False
    assert woken.wait(5)
    woken.close()
    rows = "SELECT held, best_run FROM onefold.booking_rows WHERE space = :space AND holds <> '' ORDER BY row_no"
    assert db.run(lambda tx: tx.all(rows)) == [(1 << 8, 4)]
    assert other.run(lambda tx: tx.all(rows)) == []
    assert db.run(lambda tx: tx.one("SELECT buyer FROM onefold.booking_slots WHERE space = :space")) == ("cy",)
    # Nothing that buyers see has changed, so no page is told to draw anything.
    assert db.run(booking.seat_map_since, show, version=version).rows == []
    assert db.run(booking.hold_of, alive.id, by="cy") == alive
    db.run(audit, show)


def test_tidying_walks_in_bounded_steps_and_begins_anew_at_the_end(db: Database) -> None:
    """Slots of many more buyers than a step looks at, of which the first and the last have ended."""
    ended = 2 * TIDY_MAX
    count = ended + 2 * WALK_ROWS + 7
    fill = """INSERT INTO onefold.booking_slots (space, show_id, buyer, slot, hold_id, expires_at_ms)
              WITH RECURSIVE n (i) AS (SELECT CAST(0 AS BIGINT) UNION ALL SELECT i + 1 FROM n WHERE i < :count - 1)
              SELECT :space, 'show', CAST(100000 + i AS TEXT), 0, 'hold',
                     CASE WHEN i < :ended OR i = :count - 1 THEN 0 ELSE 4000000000000 END FROM n"""
    db.run(lambda tx: tx.run(fill, count=count, ended=ended))

    def left(tx: Tx) -> tuple[Any, ...] | None:
        return tx.one("SELECT count(*), min(expires_at_ms) > 0 FROM onefold.booking_slots WHERE space = :space")

    def place(tx: Tx) -> tuple[Any, ...] | None:
        return tx.one("SELECT buyer FROM onefold.booking_tidied -- all spaces")

    loops = db.options(isolation="read_committed")
    answers, counts, places = [], [], []
    for _ in range(5):
        answers.append(loops.run(tidy_lapsed))
        row = db.run(left)
        assert row is not None
        counts.append(count - row[0])
        places.append(db.run(place))
    assert answers == [True, True, True, True, False]
    assert counts == [TIDY_MAX, ended, ended, ended, ended + 1]
    assert places == [
        (str(100_000 + number - 1),)
        for number in (TIDY_MAX, ended, ended + WALK_ROWS, ended + 2 * WALK_ROWS)
    ] + [None]
    assert row[1]
    assert loops.run(tidy_lapsed) is True, "the next round begins at the first slot"
    assert db.run(place) == (str(100_000 + ended + WALK_ROWS - 1),)


def test_facts_are_told_after_the_commit(db: Database, show: str) -> None:
    heard: list[str] = []
    end = db.subscribe("booking.", lambda fact, _facts: heard.append(fact))
    order = db.run(buy, hold(db, show, "ana", [1]).id, "ana")
    db.run(booking.release, hold(db, show, "ana", [2]).id, by="ana")
    db.run(booking.cancel, order.id)
    until(lambda: "booking.cancelled" in heard, "the last fact")
    end()
    assert heard == ["booking.held", "booking.sold", "booking.held", "booking.released", "booking.cancelled"]


def test_prices_are_those_of_the_category(db: Database, show: str) -> None:
    circle = hold(db, show, "ana", [1, 2, 3], row=3)
    assert circle.price == EUR["Circle"] * 3
    assert circle.blocks[0].section == "Circle"
