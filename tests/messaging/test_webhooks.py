"""Endpoints, sending, signing, keys, the schedule, and what a dispatcher writes; without any network."""

from __future__ import annotations

import os
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given
from racing import Step, until_somebody_waits
from standardwebhooks.webhooks import Webhook
from webhooks_ground import DAY_MS, attempts, failed, known, pending, send

import onefold
from onefold import Conflict, Database, Denied, Invalid, NotFound, Tx, webhooks
from onefold.core.clock import FakeClock
from onefold.messaging.webhooks import delivering, schedule
from onefold.messaging.webhooks.delivering import Item, Lane, Made
from onefold.messaging.webhooks.records import DETAIL_LENGTH_MAX

URL = "https://hooks.example.com/in"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def make(db: Any, **options: Any) -> str:
    return db.run(webhooks.create, URL, **{"key_id": "k1", **options}).id


def loops(db: Database) -> Any:
    return db.options(isolation="read_committed")


def take(db: Database, owner: str, endpoint_id: str, *, lease_ms: int = 30_000) -> Lane:
    (lane,) = loops(db).run(delivering.acquire, owner, [endpoint_id], lease_ms=lease_ms)
    return lane


def fetch(db: Database, lane: Lane, most: int = 100) -> list[Item]:
    _, ((endpoint, items),) = loops(db).run(delivering.due, [(lane, most)])
    assert endpoint is not None
    return items


def made(lane: Lane, item: Item, status: int | None = 500, **facts: Any) -> Made:
    outcome = "unreached" if status is None else "delivered" if status < 300 else "refused"
    return Made(lane, item, outcome, status, 3, "detail", **facts)


def set_column(db: Database, endpoint_id: str, text: Any, **values: Any) -> None:
    db.run(lambda tx: tx.run(text, id=endpoint_id, **values))


# -- sending ------------------------------------------------------------------------------------


def test_a_message_goes_to_whoever_wants_its_type(db: Database) -> None:
    every = make(db)
    exact = make(db, types=("order.placed",))
    below = make(db, types=("order.*", "invoice.paid"))
    other = make(db, types=("orders.*",))
    off = make(db)
    db.run(webhooks.disable, off)
    elsewhere = make(db.at("tenant/2"))
    placed, paid = send(db, "order.placed")[0], send(db, "order.paid")[0]
    got = {to: {one.message_id for one in pending(db, to)} for to in (every, exact, below, other, off)}
    assert got == {every: {placed, paid}, exact: {placed}, below: {placed, paid}, other: set(), off: set()}
    assert pending(db.at("tenant/2"), elsewhere) == []


def test_what_is_sent_commits_or_not_with_the_transaction(db: Database) -> None:
    to = make(db)

    def fails(tx: Tx) -> None:
        webhooks.send(tx, "order.placed", {})
        raise LookupError

    with pytest.raises(LookupError):
        db.run(fails)
    assert pending(db, to) == []
    assert known(db) == set()


@pytest.mark.parametrize(("type", "payload"), [
    ("", {}), ("a b", {}), ("a..b", {}), (".a", {}), ("a\n", {}), ("x" * 101, {}), ("order.placed", object()),
    ("order.placed", "x" * 65_536), ("order.*", {}),
])  # fmt: skip
def test_what_is_no_message_is_refused(db: Database, type: str, payload: object) -> None:
    with pytest.raises(Invalid):
        db.run(webhooks.send, type, payload)
    assert known(db) == set()


@pytest.mark.parametrize("options", [
    {"headers": {"Host": "inside"}}, {"headers": {"X-A": "b\r\nX-C: d"}}, {"headers": {"X A": "b"}},
    {"headers": {"X-A": ""}}, {"headers": {"X-A": "1", "x-a": "2"}}, {"headers": {f"X-{n}": "1" for n in range(21)}},
    {"headers": {"Webhook-Id": "1"}}, {"headers": {"Transfer-Encoding": "chunked"}}, {"headers": {"X-A": "x" * 1_001}},
    {"headers": {"X-A": "\u00e4"}}, {"types": ("a b",)}, {"types": ("*",)}, {"types": ("a",) * 65}, {"concurrency": 0},
    {"concurrency": 101}, {"per_second": -1}, {"per_second": 10_001}, {"key_id": ""}, {"key_id": "K 1"},
])  # fmt: skip
def test_what_is_no_endpoint_is_refused(db: Database, options: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        make(db, **options)
    assert db.run(webhooks.list_endpoints).items == []


def test_a_space_has_a_limit_of_endpoints(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onefold.messaging.webhooks.endpoints.ENDPOINTS_MAX", 2)
    off, _ = make(db), make(db)
    db.run(webhooks.disable, off)  # It may come back, and then every message has to go to it as well.
    with pytest.raises(Conflict):
        make(db)
    assert len(db.run(webhooks.list_endpoints).items) == 2
    db.run(webhooks.delete, off)
    make(db)


def test_those_that_pass_the_limit_together_get_every_message(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [make(db) for _ in range(5)]
    monkeypatch.setattr("onefold.messaging.webhooks.endpoints.ENDPOINTS_MAX", 3)  # As if they had come at once.
    (sent,) = send(db)
    assert [[one.message_id for one in pending(db, to)] for to in ids] == [[sent]] * 5


def test_an_endpoint_is_changed_listed_and_deleted(db: Database) -> None:
    first, second = sorted((make(db, headers={"X-A": "1"}), make(db, headers={"X-A": "1"})))
    changed = db.run(webhooks.update, first, types=("a.*",), per_second=7)
    assert (changed.types, changed.per_second, changed.headers, changed.url) == (("a.*",), 7, {"X-A": "1"}, URL)
    assert db.run(webhooks.get, first) == changed
    page = db.run(webhooks.list_endpoints, limit=1)
    assert [one.id for one in page.items] == [first]
    assert [one.id for one in db.run(webhooks.list_endpoints, after=page.after).items] == [second]
    db.run(webhooks.delete, first)
    gone = (webhooks.get, webhooks.backlog, webhooks.list_pending, webhooks.list_failed)
    for call in (*gone, webhooks.enable, webhooks.disable, webhooks.delete, webhooks.update):
        with pytest.raises(NotFound):
            db.run(call, first)
    assert db.run(webhooks.list_attempts, first).items == []  # What was tried is told all the same.
    with pytest.raises(NotFound):
        db.run(webhooks.rotate, first, key_id="k1")


# -- signatures and keys --------------------------------------------------------------------------


@given(body=st.binary(max_size=200).filter(lambda b: b.decode("utf-8", "ignore").encode() == b), at_s=st.integers(0, 10**10))
def test_our_signature_is_that_of_the_library(body: bytes, at_s: int) -> None:
    mine = webhooks.sign("msg_1", at_s, body, [SECRET])["webhook-signature"]
    at = datetime.fromtimestamp(at_s, UTC).replace(tzinfo=None)
    assert mine == Webhook(SECRET).sign("msg_1", at, body.decode())


def test_a_message_is_verified_and_anything_changed_is_not() -> None:
    clock = FakeClock()
    body, at_s = b'{"a":1}', clock.now_ms() // 1_000
    other = "whsec_" + "B" * 32
    headers = webhooks.sign("msg_1", at_s, body, [other, SECRET])
    assert webhooks.verify(body, headers, secrets=[SECRET], clock=clock) == "msg_1"
    assert webhooks.verify(body, {k.title(): v for k, v in headers.items()}, secrets=["whsec_" + "C" * 32, other], clock=clock)
    changes: list[tuple[bytes, dict[str, str]]] = [
        (b'{"a":2}', headers), (body, {**headers, "webhook-id": "msg_2"}), (body, {**headers, "webhook-id": ""}),
        (body, {**headers, "webhook-timestamp": str(at_s + 1)}), (body, {**headers, "webhook-timestamp": "x"}),
        (body, {**headers, "webhook-timestamp": f" {at_s}"}), (body, {**headers, "webhook-signature": ""}),
        (body, {**headers, "webhook-signature": headers["webhook-signature"].replace("v1,", "v2,")}),
        (body, {**headers, "webhook-signature": "v1," + "A" * 44}), (body, {**headers, "webhook-signature": "v1,\u00e9"}),
        (body, {**headers, "webhook-signature": "v1, " * 2_000 + headers["webhook-signature"]}), (body, {}),
    ]  # fmt: skip
    for changed, told in changes:
        with pytest.raises(Denied) as refused:
            webhooks.verify(changed, told, secrets=[SECRET], clock=clock)
        assert refused.value.code == "signature"


@pytest.mark.parametrize("off_ms", [-300_001, 301_000])
def test_a_message_of_another_time_is_refused(off_ms: int) -> None:
    clock = FakeClock()
    headers = webhooks.sign("msg_1", clock.now_ms() // 1_000, b"{}", [SECRET])
    clock.advance(off_ms)
    with pytest.raises(Denied) as refused:
        webhooks.verify(b"{}", headers, secrets=[SECRET], clock=clock)
    assert refused.value.code == "timestamp"
    assert webhooks.verify(b"{}", headers, secrets=[SECRET], clock=clock, tolerance_ms=400_000) == "msg_1"


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_short", "whsec_!!!!", "x" * 500])
def test_a_bad_secret_is_an_error_of_the_program(secret: str) -> None:
    with pytest.raises(Invalid):
        webhooks.verify(b"", {"webhook-id": "a", "webhook-timestamp": "1", "webhook-signature": "v1,x"}, secrets=[secret])


def test_the_key_file_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "webhooks.key"
    with pytest.raises(NotFound):
        webhooks.Keys.open(path)
    created = webhooks.Keys.create(path)
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(Conflict):
        webhooks.Keys.create(path)
    assert created.newest == webhooks.Keys.open(path).newest == "k1"
    assert webhooks.Keys.add(path).newest == webhooks.Keys.open(path).newest == "k2"
    path.chmod(0o640)
    with pytest.raises(Invalid):
        webhooks.Keys.open(path)
    for text in ("", "k1\n", "k1 AAAA\n", "K1 " + "A" * 43 + "=\n", ("k1 " + "A" * 43 + "=\n") * 2, "k1 " + "=" * 44):
        path.write_text(text)
        path.chmod(0o600)
        with pytest.raises(Invalid):
            webhooks.Keys.open(path)
    assert os.listdir(tmp_path) == ["webhooks.key"]


def test_secrets_differ_by_endpoint_generation_and_key(db: Database, tmp_path: Path) -> None:
    path = tmp_path / "webhooks.key"
    keys = webhooks.Keys.create(path)
    first, second = (db.run(webhooks.get, make(db)) for _ in range(2))
    (old,) = keys.secrets_of(first, now_ms=0)
    webhooks.Keys.add(path)
    turned = db.run(webhooks.rotate, first.id, key_id=keys.newest, overlap_ms=60_000)
    now, before = keys.secrets_of(turned, now_ms=turned.old_until_ms - 1)
    assert before == old
    assert len({now, before, keys.secrets_of(second, now_ms=0)[0]}) == 3
    assert keys.secrets_of(turned, now_ms=turned.old_until_ms) == [now]
    with pytest.raises(NotFound):
        keys.secrets_of(msgspec.structs.replace(turned, key_id="k9"), now_ms=0)
    stored = repr(db.run(lambda tx: tx.all("SELECT * FROM onefold.webhook_endpoints WHERE space = :space")))
    assert not any(secret.removeprefix("whsec_") in stored for secret in (now, before))


# -- the schedule -----------------------------------------------------------------------------------


def test_the_schedule_takes_three_days_and_scatters() -> None:
    dice = random.Random(1)
    assert 3 * DAY_MS < sum(schedule.SCHEDULE_MS) < 4 * DAY_MS
    for failures, pause in enumerate(schedule.SCHEDULE_MS, 1):
        drawn = {schedule.pause_ms(failures, 0, dice) for _ in range(200)}
        assert len(drawn) > 100
        assert pause * 0.8 <= min(drawn) <= max(drawn) <= pause * 1.2
    assert schedule.pause_ms(schedule.ATTEMPTS_MAX, 0, dice) is None
    assert schedule.pause_ms(1, 10 * DAY_MS, dice) == DAY_MS
    assert schedule.pause_ms(1, 60_000, dice) == 60_000


@pytest.mark.parametrize(("value", "ms"), [
    (None, 0), ("7", 7_000), (" 7 ", 7_000), ("-7", 0), ("7.5", 0), ("99999999", DAY_MS), ("x" * 9_999, 0),
    ("Tue, 14 Nov 2023 22:13:30 GMT", 10_000), ("Tue, 14 Nov 2023 22:13:30", 10_000), ("Mon, 01 Jan 2001 00:00:00 GMT", 0),
    ("Tue, 99 Nov 2023 22:13:30 GMT", 0), ("\u0667", 0),
])  # fmt: skip
def test_retry_after_is_read_within_bounds(value: str | None, ms: int) -> None:
    assert schedule.retry_after_ms(value, now_ms=1_700_000_000_000) == ms


# -- what a dispatcher writes -------------------------------------------------------------------------


def test_a_replay_during_the_last_attempt_is_not_lost(db: Database) -> None:
    to = make(db)
    (sent,) = send(db)
    set_column(
        db, to, "UPDATE onefold.webhook_pending SET failures = :most WHERE space = :space AND endpoint_id = :id",
        most=schedule.ATTEMPTS_MAX - 1,
    )  # fmt: skip
    lane = take(db, "a", to)
    (last,) = fetch(db, lane)
    assert last.failures == schedule.ATTEMPTS_MAX - 1
    db.run(webhooks.replay, to, message_id=sent)
    for _ in range(2):  # Noting twice is noting once.
        assert loops(db).run(delivering.note, [made(lane, last)]) == set()
        assert [(one.message_id, one.attempt, one.failures) for one in pending(db, to)] == [(sent, 2, 1)]
        assert failed(db, to) == []


def test_what_is_no_text_is_kept_as_far_as_it_is(db: Database) -> None:
    to = make(db)
    send(db)
    lane = take(db, "a", to)
    (item,) = fetch(db, lane)
    said = "no /in/\udcff\0" + "x" * DETAIL_LENGTH_MAX
    loops(db).run(delivering.note, [Made(lane, item, "unreached", None, 3, said)])
    assert attempts(db, to)[0].detail == "no /in/?" + "x" * (DETAIL_LENGTH_MAX - 9)


def test_a_message_is_given_up_after_the_last_attempt(db: Database) -> None:
    to = make(db)
    (sent,) = send(db)
    lane = take(db, "a", to)
    for attempt in range(1, schedule.ATTEMPTS_MAX + 1):
        set_column(db, to, "UPDATE onefold.webhook_pending SET at_ms = 0 WHERE space = :space AND endpoint_id = :id")
        (item,) = fetch(db, lane)
        assert (item.attempt, item.failures) == (attempt, attempt - 1)
        assert loops(db).run(delivering.note, [made(lane, item)]) == set()
    assert pending(db, to) == []
    assert failed(db, to) == [sent]
    assert [one.attempt for one in attempts(db, to)] == list(range(1, schedule.ATTEMPTS_MAX + 1))
    db.run(webhooks.replay, to, message_id=sent)
    (item,) = fetch(db, lane)
    assert (item.attempt, item.failures) == (schedule.ATTEMPTS_MAX + 1, 0), "numbered on, with the whole schedule"
    assert failed(db, to) == []


def test_an_attempt_under_a_lost_lane_leaves_nothing(db: Database) -> None:
    to, kept = make(db), make(db)
    send(db)
    old, mine = take(db, "a", to, lease_ms=1_000), take(db, "a", kept)
    (item,), (other,) = fetch(db, old), fetch(db, mine)
    assert loops(db).run(delivering.acquire, "b", [to, kept], lease_ms=1_000) == [], "a lease holds"
    set_column(db, to, "UPDATE onefold.webhook_lanes SET expires_at_ms = 0 WHERE space = :space AND endpoint_id = :id")
    new = take(db, "b", to)
    assert new.token == old.token + 1
    assert loops(db).run(delivering.note, [made(old, item, 200), made(mine, other, 200)]) == {to}
    assert len(pending(db, to)) == 1
    assert attempts(db, to) == []
    assert pending(db, kept) == []
    assert loops(db).run(delivering.renew, "a", lease_ms=1_000) == {kept}
    assert loops(db).run(delivering.note, [made(new, item, 200)]) == set()
    assert pending(db, to) == []


def test_noting_twice_is_noting_once(db: Database) -> None:
    to = make(db)
    send(db, count=2)
    lane = take(db, "a", to)
    first, second = fetch(db, lane)
    batch = [made(lane, first, 200), made(lane, second, 500)]
    for _ in range(2):
        assert loops(db).run(delivering.note, batch) == set()
    assert [(one.attempt, one.failures) for one in pending(db, to)] == [(2, 1)]
    assert len(attempts(db, to)) == 2


def test_days_of_failures_disable_and_one_success_ends_them(db: Database) -> None:
    to = make(db)
    send(db, count=4)
    lane = take(db, "a", to)
    items = fetch(db, lane)
    long_ago = "UPDATE onefold.webhook_endpoints SET failing_since_ms = 1 WHERE space = :space AND id = :id"
    set_column(db, to, long_ago)
    loops(db).run(delivering.note, [made(lane, items[0], 500), made(lane, items[1], 200)])
    assert db.run(webhooks.get, to).failing_since_ms is None
    loops(db).run(delivering.note, [made(lane, items[2])])
    assert db.run(webhooks.get, to).disabled_at_ms is None
    set_column(db, to, long_ago)
    loops(db).run(delivering.note, [made(lane, items[3])])
    assert db.run(webhooks.get, to).disabled_why == "it failed for five days"
    _, ((endpoint, found),) = loops(db).run(delivering.due, [(lane, 10)])
    assert (endpoint, found) == (None, [])


def test_a_deleted_endpoint_takes_its_lane_along(db: Database) -> None:
    to = make(db)
    send(db)
    lane = take(db, "a", to)
    (item,) = fetch(db, lane)
    db.run(webhooks.delete, to)
    assert loops(db).run(delivering.note, [made(lane, item, 200)]) == {to}
    assert loops(db).run(delivering.acquire, "b", [to], lease_ms=1_000) == []


def test_the_survey_goes_from_endpoint_to_endpoint(db: Database) -> None:
    many = sorted(make(db.at(f"tenant/{n % 3}")) for n in range(9))
    for n in range(3):
        send(db.at(f"tenant/{n}"), count=3)
    _, first = loops(db).run(delivering.survey, "", most=5)
    _, rest = loops(db).run(delivering.survey, first[-1].endpoint_id, most=5)
    assert [one.endpoint_id for one in (*first, *rest)] == many
    assert all(one.enabled and one.lease_ms <= 0 for one in first)
    take(db, "a", many[0])
    set_column(db.at(name_of(db, many[1])), many[1], "UPDATE onefold.webhook_endpoints SET disabled_at_ms = 1 WHERE space = :space AND id = :id")
    _, (mine, off) = loops(db).run(delivering.survey, "", most=2)
    assert (mine.owner, mine.lease_ms > 0, off.enabled) == ("a", True, False)


def name_of(db: Database, endpoint_id: str) -> str:
    for name in ("tenant/0", "tenant/1", "tenant/2"):
        if any(one.id == endpoint_id for one in db.at(name).run(webhooks.list_endpoints).items):
            return name
    raise AssertionError(endpoint_id)


def test_a_range_is_replayed_page_by_page(db: Database) -> None:
    to = make(db, types=("order.*",))
    sent = send(db, count=5)
    send(db, "invoice.paid")
    lane = take(db, "a", to)
    loops(db).run(delivering.note, [made(lane, item, 200) for item in fetch(db, lane)])
    times = db.run(lambda tx: tx.all("SELECT created_at_ms FROM onefold.webhook_messages WHERE space = :space"))
    ends = {"since_ms": min(times)[0], "until_ms": max(times)[0] + 1}
    found: list[str] = []
    after: str | None = None
    for _ in range(10):
        page = db.run(webhooks.replay_range, to, **ends, after=after, limit=2)
        found += page.items
        if (after := page.after) is None:
            break
    assert found == sent
    assert [(one.message_id, one.attempt) for one in pending(db, to)] == [(one, 2) for one in sent]
    assert db.run(webhooks.replay_range, to, since_ms=0, until_ms=ends["since_ms"]).items == []
    for bad in ({"since_ms": 2, "until_ms": 1}, {"since_ms": -1, "until_ms": 1}, {"since_ms": 0, "until_ms": 2**60}):
        with pytest.raises(Invalid):
            db.run(webhooks.replay_range, to, **bad)
    db.run(webhooks.disable, to)
    with pytest.raises(Conflict):
        db.run(webhooks.replay_range, to, **ends)


def test_replay_wants_a_message_and_an_endpoint(db: Database) -> None:
    to = make(db)
    (sent,) = send(db)
    with pytest.raises(NotFound):
        db.run(webhooks.replay, to, message_id="msg_1")
    with pytest.raises(NotFound):
        db.run(webhooks.replay, "ep_1", message_id=sent)


def test_what_is_old_is_swept(db: Database) -> None:
    to = make(db)
    send(db, count=3)
    lane = take(db, "a", to)
    items = fetch(db, lane)
    loops(db).run(delivering.note, [made(lane, items[0], 200), made(lane, items[1], final=True)])
    assert not loops(db).run(webhooks.sweep)
    assert (len(pending(db, to)), len(failed(db, to)), len(attempts(db, to)), len(known(db))) == (1, 1, 2, 3)
    for age in (
        "UPDATE onefold.webhook_pending SET put_at_ms = 1 WHERE space = :space AND endpoint_id = :id",
        "UPDATE onefold.webhook_failed SET failed_at_ms = 1 WHERE space = :space AND endpoint_id = :id",
        "UPDATE onefold.webhook_attempts SET at_ms = 1 WHERE space = :space AND endpoint_id = :id",
        "UPDATE onefold.webhook_messages SET created_at_ms = 1 WHERE space = :space AND :id <> ''",
    ):
        set_column(db, to, age)
    assert not loops(db).run(webhooks.sweep)
    assert (pending(db, to), failed(db, to), attempts(db, to), known(db)) == ([], [], [], set())


def test_a_message_over_its_retention_is_fetched_without_a_body(db: Database) -> None:
    to = make(db)
    send(db)
    set_column(db, to, "DELETE FROM onefold.webhook_messages WHERE space = :space AND :id <> ''")
    assert [item.body for item in fetch(db, take(db, "a", to))] == [None]


def test_a_take_over_waits_for_what_is_being_noted(postgres_url: str, threads: Any) -> None:
    """Below SERIALIZABLE too: whoever notes holds the lane until the commit, so the new owner starts after it."""
    with onefold.connect(postgres_url) as db, Step() as step:
        to = make(db)
        send(db)
        lane = take(db, "a", to)
        (item,) = fetch(db, lane)
        set_column(db, to, "UPDATE onefold.webhook_lanes SET expires_at_ms = 0 WHERE space = :space AND endpoint_id = :id")

        def slowly(tx: Tx) -> set[str]:
            lost = delivering.note(tx, [made(lane, item, 200)])
            tx.one("SELECT 1 -- :space")  # So that all was sent.
            step.stop()
            return lost

        noting = threads.submit(loops(db).run, slowly)
        assert step.reached.wait(30)
        taking = threads.submit(take, db, "b", to)
        until_somebody_waits(db)
        step.go.set()
        assert noting.result(30) == set()
        assert fetch(db, taking.result(30)) == [], "the new owner sees what was noted"
