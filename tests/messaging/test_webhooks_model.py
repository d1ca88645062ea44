"""Random histories of webhooks against a dictionary, on both engines: who gets what, and how often it is tried."""

from __future__ import annotations

import itertools

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from webhooks_ground import DAY_MS, known

from onefold import Conflict, Database, webhooks
from onefold.messaging.webhooks import delivering
from onefold.messaging.webhooks.delivering import Lane, Made
from onefold.messaging.webhooks.schedule import ATTEMPTS_MAX

TYPES = ("order.placed", "order.paid", "invoice.paid")
FILTERS: tuple[tuple[str, ...], ...] = ((), ("order.*",), ("order.paid", "invoice.*"))
STATUSES = (200, 500, None, 301, 410)
_numbers = itertools.count(1)


class Entry:
    """An endpoint as the model knows it."""

    def __init__(self, types: tuple[str, ...]) -> None:
        self.types = types
        self.enabled = True
        self.pending: dict[str, int] = {}  # Message: failures.
        self.failed: set[str] = set()
        self.attempts: dict[str, int] = {}
        self.lane: Lane | None = None

    def wants(self, type: str) -> bool:
        if not self.types:
            return True
        return type in self.types or f"{type.partition('.')[0]}.*" in self.types


class Model(RuleBasedStateMachine):
    db: Database

    @initialize()
    def begin(self) -> None:
        self.here = self.db.at(f"model/{next(_numbers)}")
        self.loops = self.db.options(isolation="read_committed")
        self.endpoints: dict[str, Entry] = {}
        self.messages: dict[str, str] = {}
        self.zombies: list[tuple[Lane, delivering.Item]] = []

    @precondition(lambda self: len(self.endpoints) < 4)
    @rule(types=st.sampled_from(FILTERS))
    def create(self, types: tuple[str, ...]) -> None:
        made = self.here.run(webhooks.create, "https://a.example/", key_id="k1", types=types)
        self.endpoints[made.id] = Entry(types)

    @precondition(lambda self: self.endpoints)
    @rule(data=st.data(), what=st.sampled_from(["enable", "disable", "disable", "delete"]))
    def steer(self, data: st.DataObject, what: str) -> None:
        endpoint_id, entry = self.pick(data)
        self.here.run(getattr(webhooks, what), endpoint_id)
        if what == "delete":
            del self.endpoints[endpoint_id]
        else:
            entry.enabled = what == "enable"

    @rule(type=st.sampled_from(TYPES))
    def send(self, type: str) -> None:
        before = known(self.here)
        self.here.run(lambda tx: webhooks.send(tx, type, {}) and None)
        (message,) = known(self.here) - before
        self.messages[message] = type
        for entry in self.endpoints.values():
            if entry.enabled and entry.wants(type):
                entry.pending[message] = 0

    @precondition(lambda self: self.endpoints)
    @rule(data=st.data())
    def take_over(self, data: st.DataObject) -> None:
        """Another dispatcher takes the endpoint; the one before it does not know yet."""
        endpoint_id, entry = self.pick(data)
        if entry.lane is not None:
            _, ((_, items),) = self.loops.run(delivering.due, [(entry.lane, 1)])
            self.zombies += [(entry.lane, item) for item in items]
        self.expire()
        (entry.lane,) = self.loops.run(delivering.acquire, f"owner-{next(_numbers)}", [endpoint_id], lease_ms=60_000)

    @precondition(lambda self: any(entry.lane for entry in self.endpoints.values()))
    @rule(data=st.data(), statuses=st.lists(st.sampled_from(STATUSES), min_size=1, max_size=4))
    def deliver(self, data: st.DataObject, statuses: list[int | None]) -> None:
        endpoint_id, entry = self.pick(data, held=True)
        assert entry.lane is not None
        self.hasten()
        _, ((endpoint, items),) = self.loops.run(delivering.due, [(entry.lane, len(statuses))])
        assert (endpoint is not None) == entry.enabled
        assert len(items) == (min(len(statuses), len(entry.pending)) if entry.enabled else 0)
        made = [self.made(entry.lane, item, status) for item, status in zip(items, statuses, strict=False)]
        assert self.loops.run(delivering.note, made) == set()
        for one in made:
            message = one.item.message_id
            entry.attempts[message] = entry.attempts.get(message, 0) + 1
            assert one.item.attempt == entry.attempts[message]
            assert one.item.failures == entry.pending[message]
            if one.outcome == "delivered":
                del entry.pending[message]
            elif one.status == 410 or entry.pending[message] + 1 == ATTEMPTS_MAX:
                del entry.pending[message]
                entry.failed.add(message)
            else:
                entry.pending[message] += 1
        if any(one.status == 410 for one in made):
            entry.enabled = False

    @precondition(lambda self: self.zombies)
    @rule(data=st.data())
    def zombie(self, data: st.DataObject) -> None:
        lane, item = data.draw(st.sampled_from(self.zombies))
        assert self.loops.run(delivering.note, [self.made(lane, item, 200)]) == {lane.endpoint_id}

    @precondition(lambda self: self.endpoints and self.messages)
    @rule(data=st.data(), what=st.sampled_from(["one", "failed", "range"]))
    def replay(self, data: st.DataObject, what: str) -> None:
        endpoint_id, entry = self.pick(data)
        message = data.draw(st.sampled_from(sorted(self.messages)))
        limits = {"since_ms": 0, "until_ms": self.here.run(lambda tx: tx.now_ms) + DAY_MS // 2}
        call, arguments, again = {
            "one": (webhooks.replay, {"message_id": message}, {message}),
            "failed": (webhooks.replay_failed, {}, set(entry.failed)),
            "range": (webhooks.replay_range, limits, {m for m, type in self.messages.items() if entry.wants(type)}),
        }[what]
        if not entry.enabled:
            with pytest.raises(Conflict):
                self.here.run(call, endpoint_id, **arguments)
            return
        self.here.run(call, endpoint_id, **arguments)
        for one in again:
            entry.pending[one] = 0
        entry.failed -= again

    # -- what must hold at every moment -------------------------------------------------------------

    @invariant()
    def all_agrees(self) -> None:
        for endpoint_id, entry in getattr(self, "endpoints", {}).items():
            waits = self.here.run(webhooks.list_pending, endpoint_id, limit=1_000).items
            assert {one.message_id: one.failures for one in waits} == entry.pending
            gone = self.here.run(webhooks.list_failed, endpoint_id, limit=1_000).items
            assert {one.message_id for one in gone} == entry.failed
            log = self.here.run(webhooks.list_attempts, endpoint_id, limit=1_000).items
            numbers = [(one.message_id, one.attempt) for one in log]
            assert numbers == [(m, n) for m in sorted(entry.attempts) for n in range(1, entry.attempts[m] + 1)]
            assert (self.here.run(webhooks.get, endpoint_id).disabled_at_ms is None) == entry.enabled

    # -- by hand --------------------------------------------------------------------------------------

    def pick(self, data: st.DataObject, *, held: bool = False) -> tuple[str, Entry]:
        return data.draw(st.sampled_from([pair for pair in self.endpoints.items() if pair[1].lane or not held]))

    def made(self, lane: Lane, item: delivering.Item, status: int | None) -> Made:
        outcome = "unreached" if status is None else "delivered" if status == 200 else "refused"
        return Made(lane, item, outcome, status, 1, "")

    def hasten(self) -> None:
        self.here.run(lambda tx: tx.run("UPDATE onefold.webhook_pending SET at_ms = 0 WHERE space = :space"))

    def expire(self) -> None:
        self.here.run(lambda tx: tx.run("UPDATE onefold.webhook_lanes SET expires_at_ms = 0 WHERE space = :space"))


@pytest.mark.slow
@pytest.mark.usefixtures("again")
def test_webhooks_follow_the_model(db: Database) -> None:
    class Bound(Model):
        pass

    Bound.db = db
    examples = 25 if db.dialect == "sqlite" else 10
    run_state_machine_as_test(
        Bound, settings=settings(max_examples=examples, stateful_step_count=40, suppress_health_check=list(HealthCheck)),
    )  # fmt: skip
