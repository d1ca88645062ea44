"""Bearer tokens: what is stored, what is refused, and when they end."""

from __future__ import annotations

from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from waiting import until

import onefold
from onefold import Database, Denied, Invalid, NotFound, Tx, tokens
from onefold.core.clock import FakeClock
from onefold.identity.tokens.ops import KEPT_MS, USED_EVERY_MS, sweep

DAY_MS = 86_400_000


def made(db: Database, name: str = "shop", **options: object) -> tuple[tokens.Token, str, str]:
    """A new token, its secret, its digest."""
    secret, digest = tokens.new_secret()
    arguments = {"rights": ("booking:*",), **options}
    return db.run(tokens.create, name, digest=digest, **arguments), secret, digest  # type: ignore[arg-type]


def test_who_has_the_secret_gets_the_token(db: Database) -> None:
    token, secret, _ = made(db, space_name="tenant/7")
    sent = tokens.parse(tokens.bearer(token.id, secret))
    assert sent is not None
    assert db.reader().run(tokens.verify, sent[0], digest=sent[1]) == token
    assert (token.name, token.rights, token.space_name) == ("shop", ("booking:*",), "tenant/7")


def test_a_revoked_or_expired_token_makes_no_other(db: Database) -> None:
    """Also while a server that has not heard of it yet still trusts it."""
    digest = tokens.digest_of("x")
    maker = made(db, rights=("*",))[0]
    assert db.run(tokens.create, "a", digest=digest, rights=("*",), by=maker.id).rights == ("*",)
    db.run(tokens.revoke, maker.id)
    ended = made(db, rights=("*",), ttl_ms=1_000)[0]

    def end(tx: Tx) -> None:
        tx.run("UPDATE onefold.tokens SET created_at_ms = 1, expires_at_ms = 2 WHERE space = :space AND id = :id", id=ended.id)

    db.run(end)
    for by in (maker.id, ended.id, "token_0", ""):
        with pytest.raises(Denied) as denied:
            db.run(tokens.create, "b", digest=digest, rights=("booking:read",), by=by)
        assert denied.value.code == "token"


def test_a_token_makes_none_that_outlasts_it(db: Database) -> None:
    digest = tokens.digest_of("x")
    maker = made(db, rights=("*",), ttl_ms=DAY_MS)[0]
    for ttl_ms in (None, 2 * DAY_MS):
        with pytest.raises(Denied) as denied:
            db.run(tokens.create, "b", digest=digest, rights=("*",), ttl_ms=ttl_ms, by=maker.id)
        assert denied.value.facts == {"lacks": "time"}
    shorter = db.run(tokens.create, "c", digest=digest, rights=("*",), ttl_ms=DAY_MS // 2, by=maker.id)
    assert shorter.expires_at_ms is not None
    assert maker.expires_at_ms is not None
    assert shorter.expires_at_ms < maker.expires_at_ms


def test_another_secret_an_unknown_id_and_another_space_are_denied_alike(db: Database) -> None:
    token, _, digest = made(db)
    wrong = tokens.digest_of("guess")
    texts = set()
    for handle, token_id, sent in [(db, token.id, wrong), (db, "token_0", digest), (db.at("tenant/7"), token.id, digest), (db, token.id, "\u00e9\udcff")]:
        with pytest.raises(Denied) as refused:
            handle.run(tokens.verify, token_id, digest=sent)
        texts.add(str(refused.value))
    assert len(texts) == 1, "the answer tells which part was right"


def test_a_revoked_token_stays_denied_and_revoking_again_keeps_the_time(db: Database, clock: FakeClock) -> None:
    token, _, digest = made(db)
    first = db.run(tokens.revoke, token.id)
    clock.advance(1_000)
    assert db.run(tokens.revoke, token.id) == first
    with pytest.raises(Denied):
        db.run(tokens.verify, token.id, digest=digest)
    with pytest.raises(NotFound):
        db.run(tokens.revoke, "token_unknown")


def test_a_token_ends_with_its_ttl(db: Database, clock: FakeClock) -> None:
    token, _, digest = made(db, ttl_ms=50)
    assert token.expires_at_ms == token.created_at_ms + 50
    clock.advance(50)  # On PostgreSQL the server's clock goes on by itself.
    with pytest.raises(Denied):
        until(lambda: db.run(tokens.verify, token.id, digest=digest) is None, "the end")


def test_the_secret_is_nowhere_in_the_file(tmp_path: Path) -> None:
    with onefold.connect(tmp_path / "t.db") as db:
        token, secret, digest = made(db)
        db.run(tokens.verify, token.id, digest=digest)
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert digest.encode() in stored, "the test looks in the wrong place"
    assert secret.encode() not in stored
    assert tokens.bearer(token.id, secret).encode() not in stored


def test_use_is_noted_once_an_hour(db: Database, clock: FakeClock) -> None:
    token, _, _ = made(db)

    def used() -> int | None:
        return db.reader().run(tokens.list_tokens).items[0].used_at_ms

    assert used() is None
    db.run(tokens.touch, token.id)
    first = used()
    assert first is not None
    clock.advance(USED_EVERY_MS - 1)
    db.run(tokens.touch, token.id)
    assert used() == first
    clock.advance(1)
    db.run(tokens.touch, token.id)
    assert used() == (first + USED_EVERY_MS if db.dialect == "sqlite" else first)


def test_the_list_comes_in_pages(db: Database) -> None:
    made_ids = sorted(made(db, f"n{number}")[0].id for number in range(5))
    seen: list[str] = []
    after = None
    while True:
        page = db.reader().run(tokens.list_tokens, after=after, limit=2)
        seen += [token.id for token in page.items]
        if (after := page.after) is None:
            break
    assert seen == made_ids


def test_what_ended_long_ago_is_swept(tmp_path: Path) -> None:
    clock = FakeClock()
    with onefold.connect(tmp_path / "t.db", rehearse=True, clock=clock) as db:
        revoked, expired, lasting = made(db)[0], made(db, ttl_ms=1)[0], made(db)[0]
        other = db.at("elsewhere")
        _, digest = tokens.new_secret()
        other.run(tokens.revoke, other.run(tokens.create, "x", digest=digest, rights=("*",)).id)
        db.run(tokens.revoke, revoked.id)
        clock.advance(KEPT_MS)
        assert not db.run(sweep)
        assert {t.id for t in db.run(tokens.list_tokens).items} >= {revoked.id, lasting.id}
        clock.advance(2)
        assert not db.run(sweep)
        assert [t.id for t in db.run(tokens.list_tokens).items] == [lasting.id]
        assert expired.id != lasting.id
        assert other.run(tokens.list_tokens).items == []


@pytest.mark.parametrize(
    "bad",
    [
        {"name": ""}, {"name": "x" * 201}, {"name": "a\0b"}, {"digest": "0" * 63}, {"digest": "Z" * 64},
        {"digest": "0" * 64 + "\n"}, {"rights": ()}, {"rights": ("a:b",) * 65}, {"rights": ("nonsense",)},
        {"rights": ("A:b",)}, {"rights": ("a:b\n",)}, {"space_name": "x" * 201}, {"space_name": "a\0"}, {"ttl_ms": 0},
        {"ttl_ms": -1}, {"ttl_ms": 1 << 62},
    ],
    ids=str,
)  # fmt: skip
def test_arguments_out_of_range_are_refused_and_nothing_is_written(db: Database, bad: dict[str, object]) -> None:
    arguments = {"name": "n", "digest": "0" * 64, "rights": ("*",), **bad}
    with pytest.raises(Invalid):
        db.run(lambda tx: tokens.create(tx, **arguments))  # type: ignore[arg-type]
    assert db.reader().run(tokens.list_tokens).items == []
    with pytest.raises(Invalid):
        db.run(tokens.list_tokens, after="x" * 61)


@pytest.mark.parametrize(
    ("rights", "right", "allowed"),
    [
        (("*",), "booking:write", True), (("booking:*",), "booking:write", True), (("booking:*",), "jobs:write", False),
        (("booking:read",), "booking:write", False), (("booking:write", "jobs:read"), "jobs:read", True),
        (("book:*",), "booking:write", False),
    ],
)  # fmt: skip
def test_rights_allow_what_they_name(rights: tuple[str, ...], right: str, *, allowed: bool) -> None:
    token = tokens.Token("token_1", "n", rights, "", 0, None, None, None)
    assert tokens.allows(token, right) is allowed


@pytest.mark.parametrize("text", ["", "onefold_", "Bearer x", "onefold_" + "0" * 32 + "_short", "x" * 100_000])
def test_what_is_no_token_is_not_looked_up(text: str) -> None:
    assert tokens.parse(text) is None


class TokensModel(RuleBasedStateMachine):
    """Random lives of tokens against a dictionary."""

    path: Path

    @initialize()
    def begin(self) -> None:
        self.clock = FakeClock()
        number = sum(1 for _ in self.path.glob("*.db"))
        self.db = onefold.connect(self.path / f"{number}.db", clock=self.clock, rehearse=True)
        self.known: list[tuple[str, str]] = []
        self.ends: dict[str, int] = {}

    @rule(ttl_ms=st.none() | st.integers(1, 3 * DAY_MS))
    def create(self, ttl_ms: int | None) -> None:
        token, _, digest = made(self.db, ttl_ms=ttl_ms)
        self.known.append((token.id, digest))
        self.ends[token.id] = self.clock.now_ms() + ttl_ms if ttl_ms else 1 << 62

    @rule(which=st.integers(0, 9))
    def revoke(self, which: int) -> None:
        if which < len(self.known):
            token_id = self.known[which][0]
            self.db.run(tokens.revoke, token_id)
            self.ends[token_id] = min(self.ends[token_id], self.clock.now_ms())

    @rule(ms=st.integers(0, 2 * DAY_MS))
    def wait(self, ms: int) -> None:
        self.clock.advance(ms)

    @rule(which=st.integers(0, 9), right=st.booleans())
    def verify(self, which: int, *, right: bool) -> None:
        if which < len(self.known):
            token_id, digest = self.known[which]
            try:
                self.db.run(tokens.verify, token_id, digest=digest if right else "0" * 64)
                accepted = True
            except Denied:
                accepted = False
            assert accepted == (right and self.clock.now_ms() < self.ends[token_id])

    def teardown(self) -> None:
        if hasattr(self, "db"):
            self.db.close()


@pytest.mark.usefixtures("again")
def test_tokens_behave_as_the_model_says(tmp_path: Path) -> None:
    machine = type("Machine", (TokensModel,), {"path": tmp_path})
    machine.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
    machine.TestCase("runTest").runTest()
