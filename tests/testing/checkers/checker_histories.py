"""Small histories for the checkers: written short, drawn by Hypothesis, and judged by trying everything."""

from __future__ import annotations

import re
from random import Random
from typing import Any

from hypothesis import strategies as st

from onefold.testing.checkers import History, Operation
from onefold.testing.checkers.models import ILLEGAL, Model

MICRO = re.compile(r"([arw])([a-z])(\d*)")


def transaction(text: str, *, lists: bool) -> list[list[Any]]:
    """`ax1ry12`: append 1 to x, read y = [1 2]; of registers `wx1ry2`. A read without digits saw nil."""
    found = []
    for f, key, digits in MICRO.findall(text):
        if f == "r" and lists:
            found.append(["r", key, [int(one) for one in digits] or None])
        else:
            found.append([{"a": "append", "w": "w", "r": "r"}[f], key, int(digits) if digits else None])
    return found


def events_of(process: int, kind: str, text: str, *, lists: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    value = transaction(text, lists=lists)
    asked = [[f, key, None if f == "r" else one] for f, key, one in value]
    first = {"process": process, "type": "invoke", "f": "txn", "value": asked}
    return first, {**first, "type": kind, "value": value}


def together(*texts: str, lists: bool = True) -> History:
    """Transactions that all ran at the same time, each in a process of its own: `ax1`, `fail:ax1`, `info:ax1`."""
    pairs = []
    for process, text in enumerate(texts):
        kind, _, body = text.rpartition(":")
        pairs.append(events_of(process, kind or "ok", body, lists=lists))
    return History.of([pair[0] for pair in pairs] + [pair[1] for pair in pairs])


def in_turn(*texts: str, lists: bool = True) -> History:
    """Transactions one after the other, with their process: `0:ax1`."""
    events = []
    for text in texts:
        process, _, body = text.partition(":")
        events += events_of(int(process), "ok", body, lists=lists)
    return History.of(events)


def single(*texts: str) -> History:
    """Events such as `0 invoke write 1`, with Python values."""
    events = []
    for text in texts:
        process, kind, f, *value = text.split(" ", 3)
        events.append({"process": int(process), "type": kind, "f": f, "value": eval(value[0]) if value else None})  # noqa: S307
    return History.of(events)


@st.composite
def histories(draw: Any, calls: Any, *, ops_max: int = 6) -> History:
    """Histories of calls (f, asked, answered), which overlap, fail and stay unknown as it happens."""
    events: list[dict[str, Any]] = []
    running: dict[int, tuple[str, Any, Any]] = {}
    process, left = 0, draw(st.integers(1, ops_max))
    while left or running:
        if left and (not running or (len(running) < 3 and draw(st.booleans()))):
            process, left = process + 1, left - 1
            running[process] = draw(calls)
            f, asked, _ = running[process]
            events.append({"process": process, "type": "invoke", "f": f, "value": asked})
        else:
            one = draw(st.sampled_from(sorted(running)))
            f, asked, answered = running.pop(one)
            kind = draw(st.sampled_from(["ok", "ok", "ok", "ok", "info", "fail"]))
            value = answered if kind == "ok" else asked
            events.append({"process": one, "type": kind, "f": f, "value": value})
    return History.of(events)


def has_order(ops: list[Operation], run: Any, state: Any, *, real_time: bool = True) -> bool:
    """Whether some order of all `ok` and some `info` operations runs; `run(op, state)` answers a state or ILLEGAL."""
    if all(op.type == "info" for op in ops):
        return True
    for op in ops:
        others = [other for other in ops if other is not op]
        if real_time and any(other.completed < op.invoked for other in others):
            continue
        after = run(op, state)
        if after is not ILLEGAL and has_order(others, run, after, real_time=real_time):
            return True
    return False


def is_linearizable(ops: list[Operation], model: Model) -> bool:
    """By trying all orders of what was `said` from all initial states, object by object."""
    part = model.part or (lambda _: None)
    return all(
        any(
            has_order([op for op in ops if part(op) == key], lambda op, state: model.bind(op).step(state), start)
            for start in (model.initial, *model.starts)
        )
        for key in {part(op) for op in ops}
    )


def said(history: History) -> list[Operation]:
    """The operations that say something of the state: all but failed ones, and a `cas` that was refused.

    Unless reads, writes or gets are refused as well, and if it would have changed something or others that did not
    succeeded.
    """

    def changes(op: Operation) -> bool:
        old, new = op.input[1] if isinstance(op.input[1], tuple) else op.input  # [key [old new]] of key-value.
        return old != new

    refused = {op.f for op in history.operations if op.refused}
    succeeded = {changes(op) for op in history.where("ok") if op.f == "cas"}
    kept = [op for op in history.operations if op.type != "fail"]
    if refused <= {"cas", "delete", "append"}:
        cas = [op for op in history.operations if op.refused and op.f == "cas"]
        kept += [op for op in cas if False in succeeded or changes(op)]
    return kept


def is_serializable(history: History, *, real_time: bool) -> bool:
    """By trying all serial executions of lists or registers."""
    return has_order(history.where("ok", "info"), _execute, frozenset(), real_time=real_time)


def _execute(op: Operation, state: frozenset[Any]) -> Any:
    store = dict(state)
    for f, key, value in op.output if op.type == "ok" else op.input:
        if f == "append":
            store[key] = (*store.get(key, ()), value)
        elif f == "w":
            store[key] = value
        elif op.type == "ok" and (store.get(key) or None) != (value or None):
            return ILLEGAL
    return frozenset(store.items())


@st.composite
def transactional(draw: Any, *, lists: bool) -> History:
    """Transactions of three clients on a store that interleaves them now and then, and shows old snapshots."""
    store: dict[str, Any] = {}
    snapshots: list[dict[str, Any]] = [{}]
    events: list[dict[str, Any]] = []
    running: dict[int, tuple[list[Any], list[Any], Any]] = {}
    written = {"x": 0, "y": 0}
    process, left = 0, draw(st.integers(1, 6))
    while left or running:
        if left and (not running or (len(running) < 3 and draw(st.booleans()))):
            process, left = process + 1, left - 1
            plan: list[Any] = []
            for key in draw(st.lists(st.sampled_from("xy"), min_size=1, max_size=3)):
                if draw(st.booleans()):
                    written[key] += 1
                    plan.append(["append" if lists else "w", key, written[key]])
                else:
                    plan.append(["r", key, None])
            old = dict(draw(st.sampled_from(snapshots[-3:]))) if draw(st.integers(0, 3)) == 0 else None
            running[process] = (plan, [], old)
            events.append({"process": process, "type": "invoke", "f": "txn", "value": [list(one) for one in plan]})
            continue
        one = draw(st.sampled_from(sorted(running)))
        plan, done, old = running[one]
        steps = len(plan) if draw(st.integers(0, 3)) else 1
        for f, key, value in plan[len(done) :][:steps]:
            if f == "r":
                value = (store if old is None else old).get(key)
            else:
                for target in [store] if old is None else [store, old]:
                    target[key] = (*target.get(key, ()), value) if lists else value
            done.append([f, key, value])
            snapshots.append(dict(store))
        if len(done) == len(plan):
            del running[one]
            kind = draw(st.sampled_from(["ok"] * 8 + ["info", "fail"]))
            events.append({"process": one, "type": kind, "f": "txn", "value": done if kind == "ok" else plan})
    return History.of(events)


def crowd(
    count: int, *, clients: int, keys: int, seed: int = 0, values: int = 100, wrong: str = "never"
) -> tuple[History, History]:
    """Clients that all run at all times on one register, or on keys to append to; and the same with a late read wrong.

    Which answers what was `never` written, or what a read saw long before (`stale`).
    """
    dice = Random(f"{count} {clients} {keys} {seed}")
    store: dict[str, Any] = {}
    running: dict[int, tuple[dict[str, Any], Any]] = {}
    events: list[dict[str, Any]] = []
    for n in range(2 * count):
        client = n if n < clients else dice.choice(list(running))
        if client in running:
            asked, answer = running.pop(client)
            events.append({**asked, "type": "ok", "value": answer})
        key, reads = f"k{dice.randrange(keys)}", dice.random() < 0.5
        writes = "write" if keys == 1 else dice.choice(["append", "append", "append", "put"])
        f = ("read" if keys == 1 else "get") if reads else writes
        value = None if reads else dice.randrange(values) if keys == 1 else f"<{n}>"
        asked = {"process": client, "type": "invoke", "f": f, "value": value, **({} if keys == 1 else {"key": key})}
        if not reads:
            store[key] = store.get(key, "") + value if f == "append" else value
        running[client] = asked, store.get(key)
        events.append(asked)
    reads = [e for e in events if e["type"] == "ok" and e["f"] in {"read", "get"} and e["value"] is not None]
    value = "never" if wrong == "never" else reads[len(reads) // 2]["value"]
    late = [{**e, "value": value if e is reads[-1] else e["value"]} for e in events]
    return History.of(events), History.of(late)
