"""One scenario per block: clients that use it as its page says, and what must hold whatever befalls them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import msgspec
from booking_hall import audit, open_hall, orders_of
from events_kinds import Placed, check_order
from ledger_bank import WALLETS, audited, eur, open_bank
from registers import count_up, get, put

from onefold import (
    Conflict,
    NotFound,
    OnefoldError,
    Retry,
    Tx,
    Unknown,
    booking,
    events,
    idempotency,
    jobs,
    ledger,
    locks,
)
from onefold.messaging.jobs.attempts import Wanted
from onefold.messaging.jobs.leases import as_list, enlist
from onefold.products.booking.tidy import tidy_lapsed
from onefold.testing.simulation import Client, Faults, Simulation

LEASE_MS = 10_000
PAUSES = Faults(pause=0.2, clock_step=0.05, lease_ms=(LEASE_MS,), clock_step_ms=2 * LEASE_MS, again=0.01)
FAULTS = Faults(pause=0.06, clock_step=0.02, lease_ms=(LEASE_MS,), clock_step_ms=2 * LEASE_MS, again=0.01)


def until_answered(client: Client, fn, *args, **kwargs):
    """Ask again and again until somebody says what became of it: for what may be asked twice."""
    while True:
        try:
            return client.run(fn, *args, **kwargs)
        except (Unknown, Retry):
            client.sleep_ms(client.random.randrange(1, 500))


# -- locks ---------------------------------------------------------------------------------------


def guarded_counter(sim: Simulation) -> None:
    """Whoever holds the lock reads, thinks, and writes behind `check`: no write of another one is lost."""
    told: list[int] = []

    def write(tx: Tx, lock: locks.Lock, value: int) -> None:
        locks.check(tx, lock)
        put(tx, "n", value)

    def holder(client: Client) -> None:
        owner = f"{client.name}/{client.incarnation}"
        for _ in client.rounds(8):
            try:
                lock = client.run(locks.acquire, "door", owner=owner, ttl_ms=LEASE_MS)
                seen = client.run(get, "n")
                client.run(write, lock, seen + 1)
                told.append(1)
                client.run(locks.release, lock)
            except Conflict:
                client.waiter("locks/door").wait(5)
            except (Unknown, Retry):
                client.sleep_ms(100)

    def no_guarded_write_is_lost(tx: Tx) -> None:
        assert get(tx, "n") >= len(told)

    sim.clients(holder, 3)
    sim.at_end(no_guarded_write_is_lost)


def numbered_holders(sim: Simulation) -> None:
    """Two holders of one lock never have the same number."""
    bearers: dict[int, str] = {}

    def holder(client: Client) -> None:
        owner = f"{client.name}/{client.incarnation}"
        for _ in client.rounds(4):
            try:
                lock = client.run(locks.acquire, "door", owner=owner, ttl_ms=LEASE_MS)
            except OnefoldError:
                client.sleep_ms(client.random.randrange(LEASE_MS))
                continue
            assert bearers.setdefault(lock.token, owner) == owner, "one number, two holders"

    sim.clients(holder, 3)


def woken_waiter(sim: Simulation) -> None:
    """A waiter gets the lock soon after it is free, also when the wake-up is lost: it polls as well."""

    lock = sim.setup(locks.acquire, "door", owner="holder", ttl_ms=10 * LEASE_MS)

    def holder(client: Client) -> None:
        client.sleep_ms(500)
        client.run(locks.release, lock)

    def waiter(client: Client) -> None:
        door = client.waiter("locks/door")
        began_ms = sim.time.now_ms
        while client.run(locks.try_acquire, "door", owner=client.name, ttl_ms=LEASE_MS) is None:
            door.wait(POLL_S)
        assert sim.time.now_ms - began_ms < 3 * LEASE_MS, "it slept beside a free lock"

    sim.clients(holder)
    sim.clients(waiter)


POLL_S = 2.0
LOST_WAKES = Faults.none().but(lost_wake=0.3, late_wake=0.3)


# -- jobs ----------------------------------------------------------------------------------------


@jobs.kind("simulated.work", attempts=50, backoff_ms=1_000, backoff_max_ms=5_000)
class Work(msgspec.Struct, frozen=True):
    key: str


def work_once(sim: Simulation) -> None:
    """Each job that was put has its effect once: no crash, pause or late worker makes it none or two."""
    acknowledged: list[str] = []

    def order(tx: Tx, key: str) -> None:
        if jobs.put(tx, Work(key), unique=key) is not None:
            put(tx, f"asked {key}", 1)

    def buyer(client: Client) -> None:
        for number in client.rounds(3):
            key = f"{client.name}/{client.incarnation}/{number}"
            client.sleep_ms(client.random.randrange(LEASE_MS))
            client.run(order, key)
            acknowledged.append(key)

    def worker(client: Client) -> None:
        work(client, "simulated.work", lambda attempt: do_work(client, attempt))

    def nothing_is_done_twice(tx: Tx) -> None:
        rows = tx.all("SELECT key, total FROM onefold.counter_totals WHERE space = :space AND total > 1 ORDER BY key")
        assert not rows

    def all_is_done(tx: Tx) -> None:
        assert [key for key in acknowledged if get(tx, f"done {key}") != 1] == []

    sim.clients(buyer, 2)
    sim.background(worker, 2)
    sim.always(nothing_is_done_twice)
    sim.at_end(all_is_done)


def work(client: Client, kind: str, do: Callable[[jobs.Attempt], None]) -> None:
    """What a worker does all day: claim, do, rescue what others left behind."""
    name = f"{client.name}/{client.incarnation}"
    wanted = Wanted(as_list([kind]), None, [("default", (0, 0, 0, 0, 0))])
    client.run(enlist, name, queues=["default"], kinds=[kind], lease_ms=LEASE_MS)
    loops = client.options(isolation="read_committed")
    while True:
        try:
            loops.run(jobs.rescue)
            loops.run(jobs.promote)
            mine = loops.run(jobs.claim, name, wanted, room=2)
        except Conflict:  # It was given up; it starts anew.
            raise Retry("The worker was given up.") from None
        for attempt in mine:
            do(attempt)
        client.sleep_ms(client.random.randrange(1_000, 4_000))


def do_work(client: Client, attempt: jobs.Attempt) -> None:
    """Effect and completion in one commit."""
    key = msgspec.json.decode(attempt.args)["key"]
    try:
        client.run(jobs.attempts.finish_with, attempt, 0, count_up, f"done {key}")
    except (Conflict, Unknown):
        return  # Somebody else's now, or done; if it is neither, it is rescued.


# -- events --------------------------------------------------------------------------------------


def view_of_events(sim: Simulation, *, in_order: bool = True) -> None:
    """A subscription handles every event once and in order; what it writes and its place are one commit."""

    def append(tx: Tx, stream: str, number: int) -> None:
        events.append(tx, stream, Placed(number))
        count_up(tx, "appended")

    def writer(client: Client) -> None:
        for number in client.rounds(4):
            client.run(append, f"order/{client.random.randrange(2)}", number)

    def handle(tx: Tx, event: events.Event) -> None:
        if in_order:
            assert event.version == get(tx, f"seen {event.stream}") + 1, "out of order, or handled before"
        put(tx, f"seen {event.stream}", event.version)
        count_up(tx, "handled")

    def reader(client: Client) -> None:
        door = client.waiter("events")
        while True:
            consumed = client.run(events.consume, "view", handle, limit=3)
            assert not consumed.error, consumed.error
            if not consumed.more:
                door.wait(5)

    def sequencer(client: Client) -> None:
        while True:
            client.options(isolation="repeatable_read").run(events.sequence)
            client.sleep_ms(1_000)

    def all_is_handled(tx: Tx) -> None:
        assert get(tx, "handled") == get(tx, "appended")

    def all_is_in_order(tx: Tx) -> None:
        check_order(events.read_all(tx, limit=1_000).items)

    sim.clients(writer, 2)
    sim.background(reader, 2)
    sim.background(sequencer, 2)
    sim.at_end(all_is_handled)
    if in_order:
        sim.at_end(all_is_in_order)


def read_without_order(sim: Simulation) -> None:
    """The same by readers who only want every event: who misses one is not told by the order of the others."""
    view_of_events(sim, in_order=False)


# -- ledger and idempotency -----------------------------------------------------------------------


def money_moves_once(sim: Simulation) -> None:
    """Whoever repeats a transfer under its id moves the money once; nobody is overdrawn at any commit."""
    sim.setup(open_bank, each=100)
    paid: Counter[str] = Counter()

    def payer(client: Client) -> None:
        for number in client.rounds(4):
            debit, credit = client.random.sample(WALLETS, 2)
            minor = client.random.randrange(1, 80)
            transfer_id = f"{client.name}/{client.incarnation}/{number}"
            try:
                until_answered(client, ledger.transfer, transfer_id, debit=debit, credit=credit, amount=eur(minor))
            except Conflict as refused:
                assert refused.code == "insufficient_funds"
                continue
            paid[transfer_id] += minor

    def the_books_are_right(tx: Tx) -> None:
        audited(tx)

    def paid_means_moved_once(tx: Tx) -> None:
        rows = tx.all("SELECT id, amount FROM onefold.ledger_transfers WHERE space = :space ORDER BY id")
        moved: Counter[str] = Counter()
        for transfer_id, minor in rows:
            moved[transfer_id.partition("~")[0]] += minor
        assert [key for key in paid if moved[key] != paid[key]] == []

    sim.clients(payer, 3)
    sim.always(the_books_are_right)
    sim.at_end(paid_means_moved_once)


def asked_again(sim: Simulation) -> None:
    """A request that is repeated under its key, also by the next life of its caller, is done once."""

    def do(tx: Tx, key: str) -> int:
        return idempotency.once(tx, key, lambda: count_up(tx, f"done {key}"), scope="simulated", request=key).value

    def caller(client: Client) -> None:
        key = f"key-{client.number % 2}"
        for _ in client.rounds(3):
            try:
                assert until_answered(client, do, key) == 1, "another answer than the first one"
            except Conflict as busy:
                assert busy.code == "in_flight"
                client.sleep_ms(100)

    def done_once(tx: Tx) -> None:
        assert all(get(tx, f"done key-{number}") <= 1 for number in range(2))

    sim.clients(caller, 3)
    sim.always(done_once)


# -- booking --------------------------------------------------------------------------------------


class Buyer:
    """A buyer who does what comes next, and sometimes what nobody should do."""

    def __init__(self, client: Client, show: str) -> None:
        self.client, self.show, self.dice = client, show, client.random
        self.held: booking.Hold | None = None
        self.seen: list[booking.Hold] = []  # Every version of every hold.
        self.orders: list[booking.Order] = []

    def step(self) -> None:
        """One transaction."""
        run, by, what = self.client.run, self.client.name, self.dice.random()
        if self.seen and what < 0.2:  # A late retry, with what was read long ago.
            self.orders.append(run(booking.confirm, self.dice.choice(self.seen)))
        elif self.orders and what < 0.25:
            run(booking.cancel, self.orders.pop().id, by=by)
        elif self.held is None:
            self.held = self.want()
            self.seen.append(self.held)
        elif what < 0.45:
            self.held = run(booking.extend, self.held.id, by=by, ttl_ms=self.dice.randrange(1_000, 2 * LEASE_MS))
            self.seen.append(self.held)
        elif what < 0.55:
            held, self.held = self.held, None
            run(booking.release, held.id, by=by)
        else:
            held, self.held = self.held, None
            self.orders.append(run(booking.confirm_hold, held.id, by=by))

    def want(self) -> booking.Hold:
        run, dice, by = self.client.run, self.dice, self.client.name
        if dice.random() < 0.5:
            count, split = dice.randrange(1, 4), dice.random() < 0.3
            return run(booking.hold_best, self.show, by=by, count=count, ttl_ms=LEASE_MS, split=split)
        first, row = dice.randrange(1, 6), dice.randrange(1, 3)
        return run(booking.hold, self.show, by=by, row=row, seats=[first, first + 1], ttl_ms=LEASE_MS)


def box_office(sim: Simulation) -> None:
    """No seat is sold twice, whatever holds lapse, are extended, given back, or confirmed too late."""
    show = sim.setup(open_hall, rows=1, seats=6)
    told: dict[str, str] = {}

    def buyer(client: Client) -> None:
        me = Buyer(client, show)
        for _ in client.rounds(12):
            try:
                if client.random.random() < 0.08:
                    client.run(tidy_lapsed)
                else:
                    me.step()
            except (Conflict, NotFound):
                me.held = None
                client.sleep_ms(client.random.randrange(LEASE_MS))
            except (Unknown, Retry):
                client.sleep_ms(10)
            told.update({order.id: client.name for order in me.orders})

    def the_hall_is_right(tx: Tx) -> None:
        audit(tx, show)

    def sold_is_sold(tx: Tx) -> None:
        there = {order.id: order.by for order in orders_of(tx, show)}
        assert [order for order in told if there.get(order) != told[order]] == []

    sim.clients(buyer, 3)
    sim.always(the_hall_is_right)
    sim.at_end(sold_is_sold)


# -- isolation --------------------------------------------------------------------------------------


def on_call(sim: Simulation) -> None:
    """A composed function that reads two rows and writes one: write skew where it is not serializable."""

    def begin(tx: Tx) -> None:
        put(tx, "ana", 1)
        put(tx, "bob", 1)

    def go_home(tx: Tx, who: str) -> None:
        if get(tx, "ana") + get(tx, "bob") == 2:
            put(tx, who, 0)

    def doctor(client: Client) -> None:
        client.run(go_home, ("ana", "bob")[client.number - 1])

    def somebody_is_on_call(tx: Tx) -> None:
        assert get(tx, "ana") + get(tx, "bob") >= 1

    sim.setup(begin)
    sim.clients(doctor, 2, least=2)
    sim.always(somebody_is_on_call)


#: Scenario: its faults, and how many seeds the suite takes on SQLite and on PostgreSQL at each level.
SCENARIOS = {
    guarded_counter: (PAUSES, 25, 1),
    numbered_holders: (FAULTS, 40, 2),
    woken_waiter: (LOST_WAKES, 40, 2),
    work_once: (PAUSES, 3, 1),
    view_of_events: (FAULTS, 6, 1),
    money_moves_once: (FAULTS, 10, 1),
    asked_again: (FAULTS, 40, 1),
    box_office: (PAUSES, 50, 1),
}
CALM_MS = 60_000
