"""Bugs planted into Onefold, one at a time: each names the scenario that must find it, and within how many seeds.

A mutant changes a function of ours for the length of one test, by text or as a whole; never the files.
"""

from __future__ import annotations

import inspect
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any, Literal

import msgspec
import paying
import pytest
import scenarios
import visitors
from asking import ASKING
from buying import BUYING
from registers import count_up
from visiting import VISITING

from onefold import Conflict, Retry, Unknown
from onefold.coordination.locks import ops as locks_ops
from onefold.identity.audit import ops as audit_ops
from onefold.identity.sessions import ops as sessions_ops
from onefold.identity.tokens import ops as tokens_ops
from onefold.messaging.events import consuming, sequencer, subscriptions
from onefold.messaging.idempotency import ops as idempotency_ops
from onefold.messaging.jobs import attempts
from onefold.messaging.webhooks import delivering
from onefold.products.booking import ops as booking_ops
from onefold.products.ledger import ops as ledger_ops
from onefold.products.payments import client as payments_client
from onefold.testing.simulation import Faults
from onefold.testing.workload import simulated

Where = Literal["sqlite", "serializable", "read_committed"]
Planting = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Mutant:
    """A planted bug.

    Attributes:
        name: what it is called where people speak of it.
        plant: puts it in; the test's monkeypatch takes it out.
        scenario: what must find it,
        on: on which simulator,
        breaks: as which broken promise,
        seeds: and within how many seeds.
    """

    name: str
    plant: Planting
    scenario: Callable[..., object]
    breaks: str
    on: Where = "sqlite"
    seeds: int = 300
    faults: Faults = scenarios.PAUSES


def text(module: ModuleType, function: str, old: str, new: str) -> Planting:
    """The function with one place of its source changed, wherever it was imported to."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        original = getattr(module, function)
        source = inspect.getsource(original)
        assert source.count(old) == 1, f"{function} reads otherwise now; mend the mutant"
        made: dict[str, Any] = {}
        exec(compile(source.replace(old, new), f"mutant of {function}", "exec"), vars(module) | made, made)
        whole(module, function, _at_home(made[function], vars(module)))(patch)

    return plant


def whole(module: ModuleType, function: str, other: Callable[..., Any]) -> Planting:
    """Another function in its place, wherever it was imported to."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        original = getattr(module, function)
        homes = [m for m in tuple(sys.modules.values()) if getattr(m, "__dict__", {}).get(function) is original]
        assert module in homes
        for home in homes:
            patch.setattr(home, function, other)

    return plant


def _at_home(function: Any, names: dict[str, Any]) -> Any:
    """The same function with the module's own names, which other patches may change."""
    inner = inspect.unwrap(function)
    fresh = FunctionType(inner.__code__, names, inner.__name__, inner.__defaults__, inner.__closure__)
    fresh.__kwdefaults__ = inner.__kwdefaults__
    from onefold.engine.tx import operation

    return operation(fresh) if inner is not function else fresh


def unfenced(tx: Any, sql: Any, _refusal: Any, /, **parameters: Any) -> None:
    """`require` that requires nothing."""
    tx.all(sql, **parameters)


def finished_first(client: Any, attempt: Any) -> None:
    """A worker that tells of its success before it has it."""
    try:
        client.run(attempts.finish, attempt)
        client.run(count_up, f"done {msgspec.json.decode(attempt.args)['key']}")
    except (Conflict, Unknown, Retry):
        return


def effects_later() -> Planting:
    """The place of a subscription is saved in one transaction, what its handler does in the next."""
    late: list[Any] = []

    def handle(tx: Any, events: Any, handler: Any) -> tuple[int, None]:
        for event in late:
            handler(tx, event)
        late[:] = events
        return len(events), None

    def plant(patch: pytest.MonkeyPatch) -> None:
        late.clear()
        whole(consuming, "_handle", handle)(patch)

    return plant


def recorded_later() -> Planting:
    """An entry of the audit trail is written in the next transaction that writes one."""
    late: list[Any] = []
    record = audit_ops.record

    def other(tx: Any, *given: Any, **named: Any) -> None:
        for before, told in late:
            record(tx, *before, **told)
        late[:] = [(given, named)]

    def plant(patch: pytest.MonkeyPatch) -> None:
        late.clear()
        whole(audit_ops, "record", other)(patch)

    return plant


def asked_anew(patch: pytest.MonkeyPatch) -> None:
    """A provider that kept silent is asked again under another key, and never what became of the first."""
    tries: Counter[str] = Counter()

    def ask(settler: Any, provider: Any, intent: Any, *, asked_before: bool) -> Any:
        key = f"{intent.id}~{tries[intent.id]}" if asked_before else intent.id
        tries[intent.id] += 1
        charge = provider.authorise(key, intent.amount, capture=True, reference=intent.reference)
        return msgspec.structs.replace(charge, key=intent.id)

    patch.setattr(payments_client._Settler, "_ask", ask)


def done_again(tx: Any, _key: str, do: Callable[[], Any], **_: Any) -> Any:
    """A key under which nothing is kept."""
    return idempotency_ops.Answer(do(), replayed=False, at_ms=tx.now_ms)


def forgetful(row: Any, now_ms: int) -> Any:
    """Gives the seats of lapsed holds away without ending those holds."""
    lapsed = sum(e.mask for e in booking_ops.entries_of(row.holds) if e.expires_at_ms <= now_ms)
    return row._replace(held=row.held & ~lapsed)


def trusting(patch: pytest.MonkeyPatch) -> None:
    """Waits for the wake-up, and for nothing else."""
    patch.setattr(scenarios, "POLL_S", 1e6)


MUTANTS = [
    Mutant("the lock's check fences nobody off", text(locks_ops, "check", "if row != (lock.token, lock.owner):",
           "if row is None:"), scenarios.guarded_counter, "no guarded write is lost"),
    Mutant("the lock's check asks a clock", text(locks_ops, "check", "if row != (lock.token, lock.owner):",
           "if lock.expires_at_ms <= tx.now_ms:"), scenarios.guarded_counter, "no guarded write is lost", seeds=600),
    Mutant("the lock's check locks nothing", text(locks_ops, "check", " {for_share}", ""),
           scenarios.guarded_counter, "no guarded write is lost", on="read_committed"),
    Mutant("a lock that is taken over keeps its number", text(locks_ops, "_take", "THEN 0 ELSE 1 END", "THEN 0 ELSE 0 END"),
           scenarios.numbered_holders, "what holder expects"),
    Mutant("a waiter trusts wake-ups alone", trusting, scenarios.woken_waiter, "what waiter expects",
           faults=scenarios.LOST_WAKES),
    Mutant("a job's lease has no token", whole(attempts, "require", unfenced), scenarios.work_once,
           "nothing is done twice", seeds=60),
    Mutant("a job is acknowledged before its effect", lambda patch: patch.setattr(scenarios, "do_work", finished_first),
           scenarios.work_once, "all is done", seeds=60),
    Mutant("a subscription's place is saved without the effects", effects_later(), scenarios.view_of_events,
           "all is handled", seeds=60),
    Mutant("a subscription is read by two at once", text(subscriptions, "try_lock", " {for_update} {skip_locked}", ""),
           scenarios.view_of_events, "what reader expects", on="read_committed", seeds=40),
    Mutant("a repeated transfer is another transfer", text(ledger_ops, "transfer", "    check_sides(debit, credit)",
           "    id = f\"{id}~{tx.new_id('t')}\"\n    check_sides(debit, credit)"),
           scenarios.money_moves_once, "paid means moved once"),
    Mutant("an idempotency key is not looked at", text(idempotency_ops, "once", "if row is None:", "if row is None and 0:"),
           scenarios.asked_again, "what caller expects"),
    Mutant("a hold is confirmed without its predicate", text(booking_ops, "confirm",
           "AND (held & :mask) = :mask AND (sold & :mask) = 0 AND replace(holds, :line, '') <> holds",
           "AND (sold & :mask) = 0"), scenarios.box_office, "what buyer expects"),  # The schema's CHECK is the last line.
    Mutant("a lapsed hold is forgotten by half", whole(booking_ops, "swept", forgetful), scenarios.box_office,
           "the hall is right"),
    Mutant("a silent provider is asked under a new key", asked_anew, paying.paid_once, "the books are the providers"),
    Mutant("a position is taken from a sequence", text(sequencer, "_number",
           "row_number() OVER (PARTITION BY space ORDER BY seq)\n                       + coalesce((SELECT max(p.pos) "
           "FROM onefold.event_positions AS p WHERE p.space = fresh.space), 0)", "seq"),
           scenarios.read_without_order, "all is handled", on="read_committed", seeds=40, faults=scenarios.FAULTS),
    Mutant("a revoked token opens", text(tokens_ops, "verify", "AND revoked_at_ms IS NULL\n             ", ""),
           visitors.revoked_is_over, "what maker expects", seeds=60),
    Mutant("a session outlives its token", text(sessions_ops, "verify", "tokens.get(tx, row[1])", "row[1]"),
           visitors.ended_is_over, "what person expects", seeds=60),
    Mutant("an action is recorded in another transaction", recorded_later(), visitors.nothing_is_done_unseen,
           "as many entries as actions", seeds=60),
    Mutant("a refused delivery is not made again", text(delivering, "note",
           "final = one.final or one.status == GONE", "final = True"),
           visitors.told_at_least_once, "all is told", seeds=60),
    Mutant("what is asked again is done again", whole(idempotency_ops, "once", done_again), simulated(ASKING),
           "the history is right", seeds=60),
    Mutant("an attempt that was taken over may finish", text(idempotency_ops, "finish", " AND attempt = :token AND answer IS NULL",
           ""), simulated(ASKING), "the history is right", seeds=60),
    Mutant("a party in two rows is sold by half", text(booking_ops, "confirm", "for block in hold.blocks:",
           "for block in hold.blocks[:1]:"), simulated(BUYING), "what buyers expects", seeds=100),
    Mutant("a sweep takes sessions that are not over", text(sessions_ops, "sweep", "WHERE expires_at_ms <= :before_ms",
           "WHERE created_at_ms <= :before_ms"), simulated(VISITING), "what visitors expects", seeds=60),
    Mutant("a composed function runs at READ COMMITTED", lambda _patch: None, scenarios.on_call,
           "somebody is on call", on="read_committed", faults=Faults.none(), seeds=60),
]  # fmt: skip
