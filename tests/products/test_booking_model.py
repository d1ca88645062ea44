"""Booking against a model that is a dictionary."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from booking_hall import audit, open_hall
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

import onefold
from onefold import Conflict, Database, Denied, NotFound, booking
from onefold.core.clock import FakeClock
from onefold.engine import call
from onefold.products.booking.records import HOLDS_PER_BUYER_MAX
from onefold.products.booking.tidy import tidy_lapsed

ROWS, SEATS = 3, 6  # Two rows of stalls and one of circle.
buyers = st.sampled_from(["ana", "bob", "cy"])
spans = st.integers(1, 30).map(lambda s: s * 1_000)
blocks = st.sets(st.integers(1, SEATS), min_size=1, max_size=3).map(sorted)


class Model(RuleBasedStateMachine):
    """What booking should do: `owner` says whose each seat is, `until` when a hold ends."""

    holds = Bundle("holds")
    orders = Bundle("orders")

    def __init__(self, db: Database, clock: FakeClock) -> None:
        super().__init__()
        self.db, self.clock = db, clock
        clock.advance(1)  # So that no two examples make the same ids,
        call._seeds.seed(1)  # though they draw the same seats, as Hypothesis expects of a repetition.
        self.show = db.run(open_hall, rows=ROWS - 1, seats=SEATS)
        self.owner: dict[tuple[int, int], str] = {}  # (row, seat): id of its hold or order
        self.until: dict[str, int] = {}
        self.by: dict[str, str] = {}

    def lapse(self) -> None:
        for hold, until in list(self.until.items()):
            if until <= self.clock.now_ms():
                self.drop(hold)

    def drop(self, hold: str) -> None:
        del self.until[hold]
        self.owner = {seat: who for seat, who in self.owner.items() if who != hold}

    def alive(self, by: str) -> int:
        return sum(self.by[hold] == by for hold in self.until)

    def learn(self, made: booking.Hold) -> None:
        self.until[made.id], self.by[made.id] = made.expires_at_ms, made.by
        for block in made.blocks:
            for seat in block.seats:
                assert (block.row, seat) not in self.owner, "the seat was somebody's"
                self.owner[block.row, seat] = made.id

    @rule(target=holds, by=buyers, row=st.integers(1, ROWS), seats=blocks, ttl_ms=spans)
    def hold(self, by: str, row: int, seats: list[int], ttl_ms: int) -> object:
        wanted = [(row, seat) for seat in seats]
        code = "seats_taken" if any(w in self.owner for w in wanted) else ""
        code = code or ("too_many_holds" if self.alive(by) >= HOLDS_PER_BUYER_MAX else "")
        try:
            made = self.db.run(booking.hold, self.show, by=by, row=row, seats=seats, ttl_ms=ttl_ms)
        except Conflict as refused:
            assert refused.code == code
            return multiple()
        assert not code
        assert made.expires_at_ms == self.clock.now_ms() + ttl_ms
        self.learn(made)
        return made

    @rule(target=holds, by=buyers, count=st.integers(1, 4), split=st.booleans(), ttl_ms=spans)
    def hold_best(self, by: str, count: int, *, split: bool, ttl_ms: int) -> object:
        try:
            made = self.db.run(booking.hold_best, self.show, by=by, count=count, ttl_ms=ttl_ms, split=split)
        except Conflict as refused:
            if refused.code == "too_many_holds":
                assert self.alive(by) >= HOLDS_PER_BUYER_MAX
            else:
                assert refused.code == "no_seats"
                runs = [self.longest_run(row) for row in range(1, ROWS + 1)]
                assert max(runs) < count
            return multiple()
        assert self.alive(by) < HOLDS_PER_BUYER_MAX
        assert sum(len(block.seats) for block in made.blocks) == count
        self.learn(made)
        return made

    def longest_run(self, row: int) -> int:
        free = "".join(" x"[(row, seat) in self.owner] for seat in range(1, SEATS + 1))
        return max(map(len, free.split("x")))

    @rule(target=orders, made=consumes(holds))
    def confirm(self, made: booking.Hold) -> object:
        try:
            order = self.db.run(booking.confirm_hold, made.id, by=made.by)
        except (NotFound, Conflict):
            assert made.id not in self.until
            return multiple()
        assert made.id in self.until
        del self.until[made.id]
        self.owner = {seat: order.id if who == made.id else who for seat, who in self.owner.items()}
        return order

    @rule(made=consumes(holds))
    def release(self, made: booking.Hold) -> None:
        assert self.db.run(booking.release, made.id, by=made.by) == (made.id in self.until)
        if made.id in self.until:
            self.drop(made.id)

    @rule(made=holds, ttl_ms=spans)
    def extend(self, made: booking.Hold, ttl_ms: int) -> None:
        try:
            longer = self.db.run(booking.extend, made.id, by=made.by, ttl_ms=ttl_ms)
        except (NotFound, Conflict):
            assert made.id not in self.until
            return
        self.until[made.id] = max(self.until[made.id], self.clock.now_ms() + ttl_ms)
        assert longer.expires_at_ms == self.until[made.id]

    @rule(made=holds, by=buyers)
    def meddle(self, made: booking.Hold, by: str) -> None:
        if by != made.by:
            with pytest.raises((Denied, NotFound)):
                self.db.run(booking.confirm_hold, made.id, by=by)

    @rule(order=consumes(orders))
    def cancel(self, order: booking.Order) -> None:
        self.db.run(booking.cancel, order.id, by=order.by)
        self.owner = {seat: who for seat, who in self.owner.items() if who != order.id}

    @rule(ms=st.integers(1, 20_000))
    def wait(self, ms: int) -> None:
        self.clock.advance(ms)
        self.lapse()

    @rule()
    def tidy(self) -> None:
        self.db.run(tidy_lapsed)

    @invariant()
    def the_map_is_the_models(self) -> None:
        seats = self.db.run(booking.seat_map, self.show)
        for row in seats.rows:
            for number, state in enumerate(row.seats, 1):
                who = self.owner.get((row.row, number), "")
                assert state == ("0" if not who else "1" if who in self.until else "2")
        self.db.run(audit, self.show)


@pytest.fixture
def sqlite_db(tmp_path: Path, clock: FakeClock) -> Iterator[Database]:
    """The model moves the clock, which only SQLite lets it."""
    with onefold.connect(tmp_path / "model.db", rehearse=True, clock=clock, durability="everysec") as database:
        yield database


@pytest.mark.slow
@pytest.mark.usefixtures("again")
def test_any_sequence_goes_as_the_model_says(sqlite_db: Database, clock: FakeClock) -> None:
    run_state_machine_as_test(
        lambda: Model(sqlite_db, clock), settings=settings(max_examples=150, stateful_step_count=40, deadline=None)
    )
