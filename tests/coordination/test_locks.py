"""Locks as one transaction sees them, on both engines."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onefold import Conflict, Database, Doomed, Handle, Invalid, NotFound, Tx, locks
from onefold.coordination.locks.ops import ALL_MAX, IDLE_MS, MARK_MS, NAME_LENGTH_MAX, TTL_MS_MAX

TTL = 10_000
HOUR = 3_600_000


def age(db: Handle, ms: int) -> None:
    """Let `ms` pass for the locks of this space; the same on both engines, whoever has the clock."""

    def back(tx: Tx) -> None:
        tx.run(
            """UPDATE onefold.locks SET expires_at_ms = expires_at_ms - :ms, acquired_at_ms = acquired_at_ms - :ms,
                                        marked_at_ms = marked_at_ms - :ms WHERE space = :space""",
            ms=ms,
        )

    db.run(back)


def take(db: Handle, name: str, owner: str, ttl_ms: int = TTL) -> locks.Lock | None:
    return db.run(locks.try_acquire, name, owner=owner, ttl_ms=ttl_ms)


def got(db: Handle, name: str, owner: str, ttl_ms: int = TTL) -> locks.Lock:
    return db.run(locks.acquire, name, owner=owner, ttl_ms=ttl_ms)


def sweep_all(db: Database) -> int:
    steps = 1
    while db.run(locks.sweep):
        steps += 1
    return steps


def rows(db: Handle) -> int:
    return db.run(lambda tx: tx.one("SELECT count(*) FROM onefold.locks WHERE space = :space"))[0]


def test_one_holder_at_a_time_and_tokens_count_them(db: Database) -> None:
    first = got(db, "a", "ana")
    assert (first.name, first.owner) == ("a", "ana")
    assert first.expires_at_ms == first.acquired_at_ms + TTL
    assert take(db, "a", "bob") is None
    assert take(db, "b", "bob") is not None
    db.run(locks.release, first)
    second = got(db, "a", "bob")
    assert second.token > first.token


def test_a_refusal_says_who_and_how_long(db: Database) -> None:
    got(db, "a", "ana")
    with pytest.raises(Conflict) as refused:
        got(db, "a", "bob")
    assert refused.value.code == "held"
    assert refused.value.facts["holder"] == "ana"
    assert 0 < refused.value.facts["retry_after_ms"] <= TTL


def test_the_holder_asking_again_keeps_its_token_and_expires_later(db: Database) -> None:
    first = got(db, "a", "ana")
    again = got(db, "a", "ana", 2 * TTL)
    assert (again.token, again.acquired_at_ms) == (first.token, first.acquired_at_ms)
    assert again.expires_at_ms > first.expires_at_ms
    shorter = got(db, "a", "ana", 1)
    assert shorter.expires_at_ms == again.expires_at_ms


def test_an_expired_lock_may_be_taken_and_the_old_holder_is_outnumbered(db: Database) -> None:
    old = got(db, "a", "ana")
    age(db, TTL)
    assert db.run(locks.lock_of, "a") is None
    new = got(db, "a", "bob")
    assert new.token == old.token + 1
    for call in (locks.check, locks.release):
        with pytest.raises(Conflict) as lost:
            db.run(call, old)
        assert lost.value.code == "lost"
    with pytest.raises(Conflict) as lost:
        db.run(locks.renew, old, ttl_ms=TTL)
    assert lost.value.code == "lost"
    db.run(locks.check, new)


def test_an_owner_coming_back_after_its_expiry_gets_a_new_number(db: Database) -> None:
    """Its name may have gone to another incarnation: the old one must not write on."""
    old = got(db, "a", "ana")
    age(db, TTL)
    new = got(db, "a", "ana")
    assert new.token == old.token + 1
    with pytest.raises(Conflict):
        db.run(locks.check, old)


def test_whoever_was_not_taken_over_may_go_on_after_its_expiry(db: Database) -> None:
    lock = got(db, "a", "ana")
    age(db, 2 * TTL)
    db.run(locks.check, lock)
    renewed = db.run(locks.renew, lock, ttl_ms=TTL)
    assert renewed.token == lock.token
    assert take(db, "a", "bob") is None
    db.run(locks.release, renewed)


def test_a_renewal_never_shortens(db: Database) -> None:
    lock = got(db, "a", "ana", 2 * TTL)
    assert db.run(locks.renew, lock, ttl_ms=1).expires_at_ms == lock.expires_at_ms
    assert db.run(locks.renew, lock, ttl_ms=4 * TTL).expires_at_ms > lock.expires_at_ms


def test_a_released_lock_is_lost_for_its_old_holder(db: Database) -> None:
    lock = got(db, "a", "ana")
    db.run(locks.release, lock)
    for attempt in range(2):
        with pytest.raises(Conflict, match="no longer held"):
            db.run(locks.release if attempt else locks.check, lock)
    assert got(db, "a", "ana").token > lock.token


def test_a_record_with_another_owner_or_token_is_no_key(db: Database) -> None:
    lock = got(db, "a", "ana")
    for forged in (
        locks.Lock("a", "bob", lock.token, 0, 0), locks.Lock("a", "ana", lock.token + 1, 0, 0),
        locks.Lock("b", "ana", lock.token, 0, 0),
    ):  # fmt: skip
        for call in (locks.check, locks.release):
            with pytest.raises(Conflict):
                db.run(call, forged)
    db.run(locks.check, lock)


def test_a_deposed_holder_aborts_the_whole_transaction(db: Database) -> None:
    old = got(db, "a", "ana")
    age(db, TTL)
    got(db, "a", "bob")

    def late(tx: Tx) -> None:
        tx.add("written", 1)
        try:
            locks.check(tx, old)
        except Conflict:
            return  # Swallowing it does not help: the transaction is doomed.

    with pytest.raises(Doomed):
        db.run(late)
    assert db.run(lambda tx: tx.total("written")) == 0


def test_force_release_takes_it_from_the_holder_and_says_why(db: Database) -> None:
    lock = got(db, "a", "ana")
    heard: list[tuple[str, dict]] = []
    rang = threading.Event()
    end = db.subscribe("locks.forced", lambda fact, facts: (heard.append((fact, facts)), rang.set()))
    assert db.run(locks.force_release, "a", reason="holder is gone") == lock
    assert rang.wait(10)
    end()
    assert heard[0][1] == {"name": "a", "owner": "ana", "token": lock.token, "reason": "holder is gone"}
    with pytest.raises(Conflict):
        db.run(locks.check, lock)
    with pytest.raises(NotFound):
        db.run(locks.force_release, "a", reason="again")
    with pytest.raises(NotFound):
        db.run(locks.force_release, "never", reason="again")
    with pytest.raises(Invalid):
        db.run(locks.force_release, "a", reason="")


def test_all_or_none(db: Database) -> None:
    mine = db.run(locks.acquire_all, ["c", "a", "b"], owner="ana", ttl_ms=TTL)
    assert [lock.name for lock in mine] == ["a", "b", "c"]
    with pytest.raises(Conflict) as refused:
        db.run(locks.acquire_all, ["z", "b", "x"], owner="bob", ttl_ms=TTL)
    assert refused.value.facts["name"] == "b"
    assert [lock.name for lock in db.run(locks.list_locks).items] == ["a", "b", "c"]
    for bad in ([], ["a", "a"], [f"n{i}" for i in range(ALL_MAX + 1)]):
        with pytest.raises(Invalid):
            db.run(locks.acquire_all, bad, owner="ana", ttl_ms=TTL)


def test_the_list_has_pages_prefixes_and_only_what_is_held(db: Database) -> None:
    for name in ("a/1", "a/2", "a/3", "b/1", "a/\U0010ffff\U0010ffff"):
        got(db, name, "ana")
    db.run(locks.release, got(db, "a/2", "ana"))
    first = db.run(locks.list_locks, prefix="a/", limit=2)
    assert [lock.name for lock in first.items] == ["a/1", "a/3"]
    rest = db.run(locks.list_locks, prefix="a/", after=first.after, limit=2)
    assert [lock.name for lock in rest.items] == ["a/\U0010ffff\U0010ffff"]
    assert rest.after is None
    assert [lock.name for lock in db.run(locks.list_locks).items] == ["a/1", "a/3", "a/\U0010ffff\U0010ffff", "b/1"]
    with pytest.raises(Invalid):
        db.run(locks.list_locks, limit=1_001)


def test_spaces_do_not_see_each_other(db: Database) -> None:
    first, second = db.at("tenant/1"), db.at("tenant/2")
    lock = got(first, "a", "ana")
    assert got(second, "a", "bob").owner == "bob"
    with pytest.raises(Conflict):
        second.run(locks.check, lock)
    assert [found.owner for found in first.run(locks.list_locks).items] == ["ana"]


def test_names_are_bytes(db: Database) -> None:
    """Composed and decomposed letters, case, spaces, right-to-left marks: all different names."""
    names = ["\u00e9", "e\u0301", "E", "e", " e", "e ", "\u202ee", "\U0001f512", "%s :name {slot}", "'; --", "a" * 200]
    for name in names:
        assert take(db, name, "\u00fcber \U0001f600") is not None, name
    found = db.run(locks.list_locks).items
    assert [lock.name for lock in found] == sorted(names)
    assert {lock.owner for lock in found} == {"\u00fcber \U0001f600"}


@pytest.mark.parametrize("name", ["", "x" * (NAME_LENGTH_MAX + 1), "a\0b", "a\nb", "\x7f", "\x85", "\u2028", "\ud800"])
def test_names_and_owners_have_limits(db: Database, name: str) -> None:
    with pytest.raises(Invalid):
        take(db, name, "ana")
    with pytest.raises(Invalid):
        take(db, "a", name)
    assert rows(db) == 0


@pytest.mark.parametrize("ttl_ms", [0, -1, TTL_MS_MAX + 1, 2**63, 1.5, True])
def test_times_to_live_have_limits(db: Database, ttl_ms: int) -> None:
    with pytest.raises(Invalid):
        take(db, "a", "ana", ttl_ms)
    lock = got(db, "b", "ana")
    with pytest.raises(Invalid):
        db.run(locks.renew, lock, ttl_ms=ttl_ms)


def test_idle_rows_go_and_tokens_never_fall(db: Database) -> None:
    for round_ in range(5):
        lock = got(db, "old", f"owner {round_}")
        db.run(locks.release, lock)
    highest = lock.token
    held = got(db, "held", "ana", HOUR)
    sweep_all(db)
    assert rows(db) == 2
    age(db, IDLE_MS)
    held = db.run(locks.renew, held, ttl_ms=HOUR)
    sweep_all(db)
    sweep_all(db)
    assert rows(db) == 2  # Marked, and the floor raised, but a transaction may still see the old floor.
    age(db, MARK_MS)
    held = db.run(locks.renew, held, ttl_ms=HOUR)
    sweep_all(db)
    assert rows(db) == 1
    assert got(db, "old", "bob").token > highest
    assert got(db, "new", "bob").token > highest
    db.run(locks.check, held)


def test_a_row_taken_after_its_mark_is_not_swept(db: Database) -> None:
    db.run(locks.release, got(db, "a", "ana"))
    age(db, IDLE_MS)
    sweep_all(db)
    lock = got(db, "a", "bob", HOUR)
    age(db, MARK_MS)
    sweep_all(db)
    db.run(locks.check, lock)
    assert rows(db) == 1


def test_a_holder_whose_row_was_swept_has_lost(db: Database) -> None:
    lock = got(db, "a", "ana")
    for _ in range(3):
        age(db, IDLE_MS + MARK_MS + TTL)
        sweep_all(db)
    assert rows(db) == 0
    with pytest.raises(Conflict) as lost:
        db.run(locks.check, lock)
    assert lost.value.code == "lost"


def test_the_sweep_walks_a_large_table_in_steps_across_spaces(db: Database) -> None:
    def fill(tx: Tx) -> None:
        tx.many(
            """INSERT INTO onefold.locks (space, name, token, acquired_at_ms, expires_at_ms)
               VALUES (:space, :name, :token, 0, 1)""",
            [{"name": f"n{number:04}", "token": number + 1} for number in range(1_500)],
        )

    for tenant in ("one", "two"):
        db.at(tenant).run(fill)
    held = got(db.at("one"), "n0007", "ana")
    assert sweep_all(db) == 4
    assert rows(db.at("one")) == 1_500
    for tenant in ("one", "two"):
        age(db.at(tenant), MARK_MS)
    got(db.at("one"), "n0007", "ana", TTL_MS_MAX)
    sweep_all(db)
    assert (rows(db.at("one")), rows(db.at("two"))) == (1, 0)
    assert got(db.at("two"), "fresh", "bob").token == 1_501
    assert got(db.at("three"), "fresh", "bob").token == 1
    assert got(db.at("one"), "n0007", "ana").token > held.token  # It had expired in between.


NAMES = st.sampled_from(["a", "b"])
OWNERS = st.sampled_from(["ana", "bob", "cy"])
STEPS = st.one_of(
    st.tuples(st.just("take"), NAMES, OWNERS, st.sampled_from([10_000, 100_000])),
    st.tuples(st.sampled_from(["renew", "check", "release"]), st.integers(0, 9)),
    st.tuples(st.just("force"), NAMES),
    st.tuples(st.just("pass"), st.sampled_from([7_000, 70_000, IDLE_MS + 70_000])),
    st.tuples(st.just("sweep")),
)


class Model:
    """What locks are: for each name who holds it, under which number, until when."""

    def __init__(self) -> None:
        self.now = 0
        self.held: dict[str, tuple[str, int, int]] = {}
        self.top: dict[str, int] = {}

    def takeable(self, name: str, owner: str) -> bool:
        held = self.held.get(name)
        return held is None or held[0] == owner or held[2] <= self.now

    def took(self, lock: locks.Lock, ttl_ms: int) -> None:
        held = self.held.get(lock.name)
        if held and held[0] == lock.owner and held[2] > self.now:
            assert lock.token == held[1]
            self.held[lock.name] = (held[0], held[1], max(held[2], self.now + ttl_ms))
        else:
            assert lock.token > self.top.get(lock.name, 0)
            self.top[lock.name] = lock.token
            self.held[lock.name] = (lock.owner, lock.token, self.now + ttl_ms)

    def holds(self, lock: locks.Lock) -> bool:
        return self.held.get(lock.name, ("", 0, 0))[:2] == (lock.owner, lock.token)


_spaces = iter(range(10**9))


@settings(max_examples=60)
@given(steps=st.lists(STEPS, max_size=25))
def test_locks_follow_the_model(db: Database, steps: list[tuple]) -> None:
    handle = db.at(f"model/{next(_spaces)}")
    model, seen = Model(), []
    for step in steps:
        if step[0] == "take":
            _, name, owner, ttl_ms = step
            lock = take(handle, name, owner, ttl_ms)
            assert (lock is not None) == model.takeable(name, owner)
            if lock is not None:
                model.took(lock, ttl_ms)
                seen.append(lock)
        elif step[0] == "pass":
            age(handle, step[1])
            model.now += step[1]
        elif step[0] == "sweep":
            sweep_all(db)
            sweep_all(db)
            assert all(not model.holds(lock) or survives(handle, lock, model) for lock in seen)
        elif step[0] == "force":
            force(handle, model, step[1])
        elif seen:
            use(handle, model, step[0], seen[step[1] % len(seen)])


def survives(handle: Handle, lock: locks.Lock, model: Model) -> bool:
    """Only what ended more than an hour ago may be swept; the model follows what was."""
    try:
        handle.run(locks.check, lock)
    except Conflict:
        ended = model.held.pop(lock.name)[2]
        return ended <= model.now - IDLE_MS
    return True


def force(handle: Handle, model: Model, name: str) -> None:
    try:
        lock = handle.run(locks.force_release, name, reason="model")
    except NotFound:
        assert name not in model.held
    else:
        assert model.held.pop(name)[:2] == (lock.owner, lock.token)


def use(handle: Handle, model: Model, what: str, lock: locks.Lock) -> None:
    expected = model.holds(lock)
    try:
        if what == "check":
            handle.run(locks.check, lock)
        elif what == "release":
            handle.run(locks.release, lock)
        else:
            handle.run(locks.renew, lock, ttl_ms=10_000)
    except Conflict as error:
        assert error.code == "lost"
        assert not expected
        return
    assert expected
    if what == "release":
        del model.held[lock.name]
    elif what == "renew":
        owner, token, until = model.held[lock.name]
        model.held[lock.name] = (owner, token, max(until, model.now + 10_000))
