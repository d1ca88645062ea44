"""Booking against a model that is a dictionary, and a hundred thousand schedules of its transactions."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from random import Random

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
from onefold import Conflict, Database, Denied, NotFound, OnefoldError, Tx, booking
from onefold.core.clock import FakeClock
from onefold.engine import call
from onefold.engine.sqlite.tx import SqliteTx
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
def test_any_sequence_goes_as_the_model_says(sqlite_db: Database, clock: FakeClock) -> None:
    run_state_machine_as_test(
        lambda: Model(sqlite_db, clock), settings=settings(max_examples=150, stateful_step_count=40, deadline=None)
    )


# -- schedules of transactions ----------------------------------------------------------------------


class Buyer:
    """A buyer as a program of transactions; whoever drives it decides when the next one runs."""

    def __init__(self, name: str, show: str, dice: Random) -> None:
        self.name, self.show, self.dice = name, show, dice
        self.held: booking.Hold | None = None
        self.stale: list[booking.Hold] = []
        self.orders: list[booking.Order] = []

    def step(self, tx: Tx) -> None:
        """One transaction: usually what comes next, sometimes what nobody should do."""
        dice = self.dice
        what = dice.random()
        if self.stale and what < 0.15:  # A late retry with what was read long ago.
            self.bought(booking.confirm(tx, dice.choice(self.stale)))
        elif self.orders and what < 0.25:
            booking.cancel(tx, self.orders.pop().id, by=self.name)
        elif self.held is None:
            self.held = self.want(tx)
            self.stale.append(self.held)
        elif what < 0.45:
            self.held = booking.extend(tx, self.held.id, by=self.name, ttl_ms=dice.randrange(1_000, 9_000))
        elif what < 0.55:
            held, self.held = self.held, None
            booking.release(tx, held.id, by=self.name)
        else:
            held, self.held = self.held, None
            self.bought(booking.confirm(tx, booking.hold_of(tx, held.id, by=self.name)))

    def want(self, tx: Tx) -> booking.Hold:
        dice = self.dice
        ttl_ms = dice.randrange(1_000, 5_000)
        if dice.random() < 0.5:
            return booking.hold_best(
                tx, self.show, by=self.name, count=dice.randrange(1, 4), ttl_ms=ttl_ms, split=dice.random() < 0.3
            )
        first = dice.randrange(1, 6)
        return booking.hold(tx, self.show, by=self.name, row=dice.randrange(1, 3), seats=[first, first + 1], ttl_ms=ttl_ms)

    def bought(self, order: booking.Order) -> None:
        self.orders.append(order)


class Schedules:
    """Runs buyers' transactions in random order, on one connection, with clocks that disagree.

    A transaction is a savepoint here, so a schedule of twelve costs a millisecond: what is
    shuffled is the order of the commits, which is all that SQLite, having one writer, can shuffle.
    """

    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None)
        self.cursor = self.connection.cursor()
        self.now_ms, self.number, self.sold, self.refused = 1_700_000_000_000, 0, 0, 0

    def tx(self) -> SqliteTx:
        self.number += 1
        return SqliteTx(self.cursor, space=7, space_name="", now_ms=self.now_ms, seed=self.number)

    def run(self, seed: int) -> None:
        dice = Random(seed)
        self.cursor.execute("BEGIN")
        show = open_hall(self.tx(), rows=1, seats=6)
        crowd = [Buyer(name, show, dice) for name in "abc"]
        for _ in range(12):
            # One process's clock may be two seconds behind another's.
            self.now_ms += dice.choice((-2_000, 0, 1, 500, 1_500, 3_000))
            self.cursor.execute("SAVEPOINT s")
            try:
                if dice.random() < 0.08:
                    tidy_lapsed(self.tx())
                else:
                    dice.choice(crowd).step(self.tx())
            except OnefoldError:
                self.refused += 1
                self.cursor.execute("ROLLBACK TO s")
            self.cursor.execute("RELEASE s")
            audit(self.tx(), show)
        # No order without its buyer's knowledge, none lost.
        known = {order.id for buyer in crowd for order in buyer.orders}
        live = {o.id for o in booking.list_orders(self.tx(), show_id=show).items if o.cancelled_at_ms is None}
        assert live == known
        self.sold += len(known)
        self.cursor.execute("ROLLBACK")


def run_schedules(path: Path, seeds: range) -> Schedules:
    onefold.migrate(path)
    schedules = Schedules(path)
    for seed in seeds:
        try:
            schedules.run(seed)
        except AssertionError as error:
            raise AssertionError(f"replay with Schedules.run({seed})") from error
    schedules.connection.close()
    return schedules


@pytest.mark.slow
def test_no_schedule_sells_a_seat_twice(tmp_path: Path) -> None:
    done = run_schedules(tmp_path / "schedules.db", range(5_000))
    # The schedules are worth something: many sales, many refusals.
    assert done.sold > 4_000
    assert done.refused > 4_000


@pytest.mark.soak
@pytest.mark.timeout(3_600)
def test_no_schedule_of_a_hundred_thousand_sells_a_seat_twice(tmp_path: Path) -> None:
    assert run_schedules(tmp_path / "schedules.db", range(100_000)).sold > 50_000


def test_the_schedules_find_a_planted_bug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were seats of lapsed holds given away without ending those holds, the schedules would tell."""
    from onefold.products.booking import ops  # noqa: PLC0415  The planted bug is in this module's name.

    def forgetful(row, now_ms):  # noqa: ANN001, ANN202
        lapsed = sum(e.mask for e in ops.entries_of(row.holds) if e.expires_at_ms <= now_ms)
        return row._replace(held=row.held & ~lapsed)

    monkeypatch.setattr(ops, "swept", forgetful)
    with pytest.raises(AssertionError, match="replay with"):
        run_schedules(tmp_path / "planted.db", range(2_000))
