"""Keys that are begun in one transaction and answered in another, on both engines."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from onefold import Conflict, Database, Handle, Invalid, OnefoldError, Tx, idempotency
from onefold.messaging.idempotency.ops import BEGUN_RETRY_MS
from onefold.messaging.idempotency.records import BODY_BYTES_MAX, LEASE_MS_MAX, TTL_MS_MAX

SCOPE = "POST /pay ana"
LEASE = 60_000
DAY = 86_400_000


class Paid(msgspec.Struct, frozen=True):
    cents: int


def begin(db: Handle, key: str = "k1", request: Any = 1, **options: Any) -> Any:
    return db.run(idempotency.begin, key, scope=SCOPE, request=request, **options)


def begun(db: Handle, *args: Any, **options: Any) -> idempotency.Attempt:
    attempt = begin(db, *args, **options)
    assert isinstance(attempt, idempotency.Attempt)
    return attempt


def pass_ms(db: Handle, ms: int) -> None:
    """Let `ms` pass for the keys of this space; the same on both engines, whoever has the clock."""
    db.run(
        lambda tx: tx.run(
            """UPDATE onefold.idempotency_keys
                  SET expires_at_ms = expires_at_ms - :ms, lease_until_ms = lease_until_ms - :ms WHERE space = :space""",
            ms=ms,
        )
    )


def refused(db: Handle, *args: Any, **options: Any) -> str:
    with pytest.raises(OnefoldError) as error:
        begin(db, *args, **options)
    return error.value.code


def lost(db: Handle, fn: Any, attempt: idempotency.Attempt, *args: Any) -> bool:
    with pytest.raises(Conflict) as error:
        db.run(fn, attempt, *args)
    return error.value.code == "lost"


def test_a_begun_key_is_answered_once_and_then_replayed(db: Database) -> None:
    attempt = begun(db)
    assert (attempt.key, attempt.scope, attempt.number) == ("k1", SCOPE, 1)
    first = db.run(idempotency.finish, attempt, Paid(700), body=b"\x00\xff raw")
    assert (first.value, first.body, first.replayed) == ({"cents": 700}, b"\x00\xff raw", False)
    again = begin(db, kind=Paid)
    assert again == idempotency.Answer(Paid(700), replayed=True, at_ms=first.at_ms, body=b"\x00\xff raw")
    assert lost(db, idempotency.finish, attempt, Paid(1))
    assert lost(db, idempotency.renew, attempt)
    assert lost(db, idempotency.release, attempt)
    assert begin(db).value == {"cents": 700}


def test_a_duplicate_in_flight_is_refused_with_a_hint(db: Database) -> None:
    begun(db)
    with pytest.raises(Conflict) as error:
        begin(db)
    assert error.value.code == "in_flight"
    assert error.value.facts["retry_after_ms"] == BEGUN_RETRY_MS
    pass_ms(db, LEASE - 400)
    with pytest.raises(Conflict) as error:
        begin(db)
    assert 1 <= error.value.facts["retry_after_ms"] <= 400


def test_a_lapsed_attempt_is_taken_over_and_its_finish_refused(db: Database) -> None:
    first = begun(db)
    pass_ms(db, LEASE - 1_000)
    assert refused(db) == "in_flight"
    pass_ms(db, 1_000)
    second = begun(db)
    assert second.number == 2
    assert second.token != first.token
    for fn, args in ((idempotency.finish, ("late",)), (idempotency.renew, ()), (idempotency.release, ())):
        assert lost(db, fn, first, *args)
    assert refused(db) == "in_flight"  # None of them took the key from its holder.
    db.run(idempotency.finish, second, "second")
    assert begin(db).value == "second"


def test_a_lapsed_attempt_without_a_successor_may_still_answer(db: Database) -> None:
    attempt = begun(db)
    pass_ms(db, 2 * LEASE)
    db.run(idempotency.finish, attempt, "late")
    assert begin(db).value == "late"


def test_another_request_is_refused_before_and_after_the_lease_and_the_answer(db: Database) -> None:
    """What the dead holder did may have happened: the key stays bound to what it was asked."""
    attempt = begun(db)
    assert refused(db, request=2) == "idempotency_mismatch"
    pass_ms(db, LEASE)
    assert refused(db, request=2) == "idempotency_mismatch"
    db.run(idempotency.release, attempt)
    assert refused(db, request=2) == "idempotency_mismatch"
    db.run(idempotency.finish, begun(db), "done")
    assert refused(db, request=2) == "idempotency_mismatch"


def test_a_released_key_is_taken_over_at_once(db: Database) -> None:
    attempt = begun(db)
    db.run(idempotency.release, attempt)
    assert lost(db, idempotency.finish, attempt, "after all")
    assert begun(db).number == 2


def test_renewing_moves_the_end_and_never_back(db: Database) -> None:
    attempt = begun(db)
    pass_ms(db, LEASE + 1)  # Lapsed, and nobody came.
    renewed = db.run(idempotency.renew, attempt, lease_ms=2 * LEASE)
    assert (renewed.token, renewed.number) == (attempt.token, 1)
    assert db.run(idempotency.renew, attempt, lease_ms=1).lease_until_ms == renewed.lease_until_ms
    pass_ms(db, LEASE)
    assert refused(db) == "in_flight"
    db.run(idempotency.finish, renewed, "done")


def test_a_renewed_key_outlives_its_first_ttl(db: Database) -> None:
    attempt = begun(db, ttl_ms=1_000, lease_ms=LEASE)
    pass_ms(db, 2_000)
    assert refused(db) == "in_flight"  # The key is kept at least as long as its lease.
    db.run(idempotency.renew, attempt, lease_ms=3 * LEASE)
    pass_ms(db, 2 * LEASE)
    assert db.run(idempotency.sweep) is False
    assert refused(db) == "in_flight"
    pass_ms(db, LEASE)
    assert begun(db, request=2).number == 1  # Expired: a new key, and no takeover.


def test_once_and_begin_find_each_others_answers(db: Database) -> None:
    def once(tx: Tx, key: str) -> idempotency.Answer[Any]:
        tx_value = f"once {key}"
        return idempotency.once(tx, key, lambda: tx_value, scope=SCOPE, request=1)

    db.run(once, "a")
    assert begin(db, "a").value == "once a"
    attempt = begun(db, "b")
    with pytest.raises(Conflict) as error:
        db.run(once, "b")
    assert error.value.code == "in_flight"
    db.run(idempotency.finish, attempt, "begun b", body=b"with it")
    answer = db.run(once, "b")
    assert (answer.value, answer.replayed, answer.body) == ("begun b", True, b"with it")
    dead = begun(db, "c")
    pass_ms(db, LEASE)
    assert not db.run(once, "c").replayed  # Takes over the dead attempt.
    assert lost(db, idempotency.finish, dead, "late")
    assert begin(db, "c").value == "once c"


def test_begin_finish_and_effects_compose(db: Database) -> None:
    def both(tx: Tx) -> None:
        attempt = idempotency.begin(tx, "k1", scope=SCOPE, request=1)
        assert isinstance(attempt, idempotency.Attempt)
        tx.add("paid", 1)
        idempotency.finish(tx, attempt, "in one")

    db.run(both)
    assert begin(db).value == "in one"

    def fails(tx: Tx, attempt: idempotency.Attempt) -> None:
        tx.add("paid", 1)
        idempotency.finish(tx, attempt, "never")
        raise ZeroDivisionError

    attempt = begun(db, "k2")
    with pytest.raises(ZeroDivisionError):
        db.run(fails, attempt)
    assert refused(db, "k2") == "in_flight"
    assert db.run(lambda tx: tx.total("paid")) == 1


def test_answer_of_tells_nothing_before_the_finish(db: Database) -> None:
    attempt = begun(db)
    assert db.run(idempotency.answer_of, "k1", scope=SCOPE) is None
    db.run(idempotency.finish, attempt, 7, body=b"b")
    found = db.run(idempotency.answer_of, "k1", scope=SCOPE)
    assert found is not None
    assert (found.value, found.body) == (7, b"b")


@pytest.mark.parametrize("options", [
    {"lease_ms": 0}, {"lease_ms": LEASE_MS_MAX + 1}, {"lease_ms": True}, {"lease_ms": 1.5}, {"ttl_ms": 0},
    {"ttl_ms": TTL_MS_MAX + 1}, {"key": "a\n"}, {"key": ""}, {"request": object()},
])  # fmt: skip
def test_arguments_have_limits(db: Database, options: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        begin(db, **options)
    assert keys(db) == 0


def test_what_is_too_large_is_refused_and_the_key_stays_begun(db: Database) -> None:
    attempt = begun(db)
    for value, body in (("x", b"x" * (BODY_BYTES_MAX + 1)), ("x" * 65_536, b""), (object(), b""), ("x", "text")):
        with pytest.raises(Invalid):
            db.run(idempotency.finish, attempt, value, body=body)
    bad = (msgspec.structs.replace(attempt, token=""), msgspec.structs.replace(attempt, scope="a\0"))
    for wrong in bad:
        with pytest.raises(Invalid):
            db.run(idempotency.finish, wrong, 1)
    assert refused(db) == "in_flight"
    db.run(idempotency.finish, attempt, "x" * 65_534, body=b"x" * BODY_BYTES_MAX)
    assert begin(db).body == b"x" * BODY_BYTES_MAX


def test_a_made_up_token_or_another_scope_answers_nothing(db: Database) -> None:
    attempt = begun(db)
    for wrong in (msgspec.structs.replace(attempt, token="attempt_0"), msgspec.structs.replace(attempt, scope="other")):
        assert lost(db, idempotency.finish, wrong, 1)
    assert lost(db.at("tenant"), idempotency.finish, attempt, 1)
    assert refused(db) == "in_flight"


def keys(db: Handle) -> int:
    return db.run(lambda tx: tx.one("SELECT count(*) FROM onefold.idempotency_keys WHERE space = :space"))[0]


_spaces = iter(range(10**9))


class Callers(RuleBasedStateMachine):
    """Two keys and all the attempts that were ever begun, against a dict."""

    database: Database
    KEYS = st.sampled_from(["k1", "k2"])

    @initialize()
    def start(self) -> None:
        self.db = self.database.at(f"model/{next(_spaces)}")
        self.now = 0
        self.rows: dict[str, dict[str, Any]] = {}
        self.attempts: list[idempotency.Attempt] = []

    def row(self, key: str) -> dict[str, Any] | None:
        row = self.rows.get(key)
        return row if row and row["expires"] > self.now else None

    @rule(key=KEYS, request=st.integers(1, 2), lease=st.sampled_from([LEASE, 2 * LEASE]), ttl=st.sampled_from([LEASE, 3 * LEASE]))
    def ask(self, key: str, request: int, lease: int, ttl: int) -> None:
        row = self.row(key)
        if row and row["request"] != request:
            assert refused(self.db, key, request) == "idempotency_mismatch"
        elif row and row["answer"] is not None:
            assert begin(self.db, key, request).value == row["answer"]
        elif row and row["lease"] > self.now:
            assert refused(self.db, key, request) == "in_flight"
        else:
            attempt = begun(self.db, key, request, lease_ms=lease, ttl_ms=ttl)
            number = row["number"] + 1 if row else 1
            assert attempt.number == number
            self.attempts.append(attempt)
            self.rows[key] = {"request": request, "answer": None, "lease": self.now + lease, "number": number,
                              "expires": self.now + max(ttl, lease), "token": attempt.token}  # fmt: skip

    def theirs(self, pick: int) -> tuple[idempotency.Attempt | None, dict[str, Any] | None]:
        """Some attempt, and its row if it still has the key."""
        if not self.attempts:
            return None, None
        attempt = self.attempts[pick % len(self.attempts)]
        row = self.rows.get(attempt.key)
        has = row is not None and row["token"] == attempt.token and row["answer"] is None
        return attempt, row if has else None

    @rule(pick=st.integers(0, 50))
    def finish(self, pick: int) -> None:
        attempt, row = self.theirs(pick)
        if row is not None:
            self.db.run(idempotency.finish, attempt, attempt.token)
            row["answer"] = attempt.token
        elif attempt is not None:
            assert lost(self.db, idempotency.finish, attempt, "x")

    @rule(pick=st.integers(0, 50), lease=st.sampled_from([LEASE // 4, LEASE, 4 * LEASE]))
    def renew(self, pick: int, lease: int) -> None:
        attempt, row = self.theirs(pick)
        if row is not None:
            self.db.run(idempotency.renew, attempt, lease_ms=lease)
            row["lease"] = max(row["lease"], self.now + lease)
            row["expires"] = max(row["expires"], self.now + lease)
        elif attempt is not None:
            assert lost(self.db, idempotency.renew, attempt)

    @rule(pick=st.integers(0, 50))
    def release(self, pick: int) -> None:
        attempt, row = self.theirs(pick)
        if row is not None:
            self.db.run(idempotency.release, attempt)
            row["token"], row["lease"] = None, self.now
        elif attempt is not None:
            assert lost(self.db, idempotency.release, attempt)

    @rule(ms=st.sampled_from([LEASE // 2, LEASE, 3 * LEASE]))
    def passes(self, ms: int) -> None:
        pass_ms(self.db, ms)
        self.now += ms

    @rule()
    def sweep(self) -> None:
        self.database.run(idempotency.sweep)
        self.rows = {key: row for key, row in self.rows.items() if row["expires"] > self.now}

    @invariant()
    def answers_are_told(self) -> None:
        for key in ("k1", "k2") if self.attempts else ():
            found = self.db.run(idempotency.answer_of, key, scope=SCOPE)
            row = self.row(key)
            assert (found.value if found else None) == (row["answer"] if row else None)


@pytest.mark.usefixtures("again")
def test_begin_and_finish_follow_the_model(db: Database) -> None:
    machine = type("CallersOnThisEngine", (Callers,), {"database": db})
    run_state_machine_as_test(machine, settings=settings(max_examples=40, stateful_step_count=25))
