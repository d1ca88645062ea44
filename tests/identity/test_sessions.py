"""Sessions: what is stored, what is refused, and when they end."""

from __future__ import annotations

from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

import onefold
from onefold import Database, Denied, Invalid, NotFound, Tx, sessions, tokens
from onefold.core.clock import FakeClock
from onefold.identity.sessions.ops import SWEEP_MAX, TTL_MS_MAX, sweep


def token(db: Database, **options: object) -> tokens.Token:
    _, digest = tokens.new_secret()
    return db.run(tokens.create, "Ana", digest=digest, rights=("jobs:*",), **options)  # type: ignore[arg-type]


def begun(db: Database, of: tokens.Token, **options: int) -> tuple[sessions.Session, str, str]:
    """A session, its secret, its digest."""
    secret, digest = sessions.new_secret()
    return db.run(sessions.begin, of.id, digest=digest, **options), secret, digest


def age(db: Database, ms: int) -> None:
    """Let `ms` pass for all sessions; the same on both engines, whoever has the clock."""
    db.run(lambda tx: tx.run(
        """UPDATE onefold.sessions SET created_at_ms = created_at_ms - :ms, expires_at_ms = expires_at_ms - :ms
           WHERE space = :space""", ms=ms))  # fmt: skip


def test_who_has_the_cookie_acts_for_the_token(db: Database) -> None:
    ana = token(db, space_name="tenant/7")
    session, secret, digest = begun(db, ana)
    sent = sessions.parse(sessions.cookie(session.id, secret))
    assert sent is not None
    assert sent[:2] == (session.id, digest)
    person = db.reader().run(sessions.verify, sent[0], digest=sent[1])
    assert (person.session, person.token) == (session, ana)
    assert db.reader().run(sessions.list_sessions).items == [session]


def test_the_form_token_is_another_for_each_secret_and_no_way_back() -> None:
    first, second = (sessions.parse(sessions.cookie("session_" + "0" * 32, sessions.new_secret()[0])) for _ in range(2))
    assert first is not None
    assert second is not None
    assert first[2] != second[2]
    assert first[1] != first[2]


@pytest.mark.parametrize("text", ["", ".", "x", "0" * 32 + ".", "0" * 32 + "." + "a" * 44, "G" * 32 + "." + "a" * 43, "0" * 32 + "." + "a" * 43 + "\n"])
def test_what_is_no_cookie_of_ours_is_not_read(text: str) -> None:
    assert sessions.parse(text) is None


def test_what_has_ended_is_denied_alike(db: Database) -> None:
    ana = token(db)
    session, _, digest = begun(db, ana)
    ended, _, ended_digest = begun(db, ana)
    db.run(sessions.end, ended.id)
    revoked = token(db)
    orphan, _, orphan_digest = begun(db, revoked)
    db.run(tokens.revoke, revoked.id)
    for session_id, shown in (
        (session.id, "0" * 64), (session.id, "\u00e9\udcff"), ("session_0", digest), (ended.id, ended_digest), (orphan.id, orphan_digest),
    ):  # fmt: skip
        with pytest.raises(Denied):
            db.reader().run(sessions.verify, session_id, digest=shown)
    with pytest.raises(Denied):
        db.at("tenant/7").reader().run(sessions.verify, session.id, digest=digest)
    with pytest.raises(NotFound):
        db.run(sessions.end, ended.id)
    with pytest.raises(Denied):
        begun(db, revoked)
    age(db, sessions.TTL_MS_DEFAULT)
    with pytest.raises(Denied):
        db.reader().run(sessions.verify, session.id, digest=digest)


@pytest.mark.parametrize("ttl_ms", [0, -1, TTL_MS_MAX + 1])
def test_a_life_out_of_range_is_refused(db: Database, ttl_ms: int) -> None:
    ana = token(db)
    with pytest.raises(Invalid):
        begun(db, ana, ttl_ms=ttl_ms)
    with pytest.raises(Invalid):
        db.run(sessions.begin, ana.id, digest="x")
    assert db.reader().run(sessions.list_sessions).items == []


def test_the_secret_is_nowhere_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "secret.db"
    with onefold.connect(path) as db:
        _, secret, digest = begun(db, token(db))
    stored = b"".join(file.read_bytes() for file in tmp_path.iterdir() if file.is_file())
    assert secret.encode() not in stored
    assert digest.encode() in stored


def test_what_is_over_is_swept_in_bounded_steps(db: Database) -> None:
    ana = token(db)

    def many(tx: Tx) -> None:
        for _ in range(SWEEP_MAX + 1):
            sessions.begin(tx, ana.id, digest="0" * 64, ttl_ms=1_000)

    db.run(many)
    age(db, 1_000)
    young, _, _ = begun(db, ana)
    assert db.run(sweep) is True
    assert db.run(sweep) is False
    assert db.reader().run(sessions.list_sessions).items == [young]


class Logins(RuleBasedStateMachine):
    """Logins, logouts, revocations and time against a dictionary."""

    url = ""

    @initialize()
    def opens(self) -> None:
        self.db = onefold.connect(self.url, clock=FakeClock())
        self.tokens = [token(self.db) for _ in range(2)]
        self.revoked: set[str] = set()
        self.model: dict[str, tuple[str, str, int]] = {}  # Digest, token and what is left of its life.

    @rule(which=st.integers(0, 1), ttl_ms=st.integers(1, 100))
    def begins(self, which: int, ttl_ms: int) -> None:
        ana = self.tokens[which]
        if ana.id in self.revoked:
            with pytest.raises(Denied):
                begun(self.db, ana)
            return
        # Days, because PostgreSQL's clock runs meanwhile.
        session, _, digest = begun(self.db, ana, ttl_ms=ttl_ms * 3_600_000)
        self.model[session.id] = (digest, ana.id, ttl_ms)

    @rule(data=st.data())
    def ends(self, data: st.DataObject) -> None:
        if self.model:
            session_id = data.draw(st.sampled_from(sorted(self.model)))
            self.db.run(sessions.end, session_id)
            del self.model[session_id]

    @rule(which=st.integers(0, 1))
    def revokes(self, which: int) -> None:
        self.db.run(tokens.revoke, self.tokens[which].id)
        self.revoked.add(self.tokens[which].id)

    @rule(hours=st.integers(1, 50))
    def passes(self, hours: int) -> None:
        age(self.db, hours * 3_600_000)
        left = {key: (digest, of, ttl - hours) for key, (digest, of, ttl) in self.model.items()}
        self.model = {key: value for key, value in left.items() if value[2] > 0}

    @rule()
    def sweeps(self) -> None:
        self.db.run(sweep)

    @rule()
    def agrees(self) -> None:
        listed = self.db.reader().run(sessions.list_sessions, limit=1_000).items
        assert {session.id for session in listed if session.token_id in {t.id for t in self.tokens}} == set(self.model)
        for session_id, (digest, of, _) in self.model.items():
            if of in self.revoked:
                with pytest.raises(Denied):
                    self.db.reader().run(sessions.verify, session_id, digest=digest)
            else:
                assert self.db.reader().run(sessions.verify, session_id, digest=digest).token.id == of

    def teardown(self) -> None:
        if hasattr(self, "db"):
            self.db.close()


@pytest.mark.usefixtures("again")
def test_histories_agree_with_the_model(db_url: str) -> None:
    class OfThisEngine(Logins):
        url = db_url

    OfThisEngine.TestCase.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)
    OfThisEngine.TestCase("runTest").runTest()
