"""`onefold webhooks`: endpoints and deliveries seen and steered without a server."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest

from onefold import Database, Tx, webhooks
from onefold.cli import webhooks as command
from onefold.cli.main import run


@pytest.fixture
def endpoint(db: Database, tmp_path: Path) -> str:
    keys = webhooks.Keys.create(tmp_path / "webhooks.key")
    return db.run(webhooks.create, "https://hooks.example.com/in", key_id=keys.newest).id


def given_up(db: Database, endpoint_id: str, count: int) -> list[str]:
    """As a dispatcher leaves them after the last attempt."""

    def give_up(tx: Tx) -> list[str]:
        ids = [webhooks.send(tx, "order.placed", {"n": n}) for n in range(count)]
        tx.run("DELETE FROM onefold.webhook_pending WHERE space = :space AND endpoint_id = :to", to=endpoint_id)
        tx.many(
            """INSERT INTO onefold.webhook_failed (space, endpoint_id, message_id, failed_at_ms)
               VALUES (:space, :to, :id, :now_ms)""",
            [{"to": endpoint_id, "id": one} for one in ids],
        )
        return ids

    return db.run(give_up)


def test_endpoints_are_listed_disabled_and_enabled(db: Database, endpoint: str, ask: Any, db_url: str, capsys: Any) -> None:
    assert [one["id"] for one in ask("webhooks", "ls")[1]["items"]] == [endpoint]
    assert ask("webhooks", "disable", endpoint, "--reason", "it moves")[1]["disabled_why"] == "it moves"
    assert run(["webhooks", "ls", "--url", db_url]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["ID", "URL", "TYPES", "STATE", "SINCE", "WHY"]
    assert ("disabled" in row, row.endswith("it moves")) == (True, True)
    assert ask("webhooks", "replay", endpoint, "--failed")[0] == 4
    assert ask("webhooks", "replay", endpoint, "--failed", "--dry-run")[0] == 4
    assert ask("webhooks", "enable", endpoint)[1]["disabled_at_ms"] is None
    assert ask("webhooks", "enable", "ep_none")[0] == 3
    assert ask("webhooks", "ls", "--space", "another")[1]["items"] == []


def test_an_endpoint_is_deleted_for_good(db: Database, endpoint: str, ask: Any) -> None:
    db.run(webhooks.send, "order.placed", {})
    for more, there in (("--dry-run",), True), ((), False):
        code, said = ask("webhooks", "delete", endpoint, *more)
        assert (code, said["dry_run"], said["id"], said["waiting"]) == (0, there, endpoint, 1)
        assert bool(db.run(webhooks.list_endpoints).items) == there
    assert ask("webhooks", "delete", endpoint)[0] == ask("webhooks", "delete", endpoint, "--dry-run")[0] == 3


def test_an_endpoint_is_made_with_the_newest_key_and_its_secret_shown_once(
    db: Database, ask: Any, tmp_path: Path, db_url: str, capsys: Any
) -> None:
    file = str(tmp_path / "webhooks.key")
    assert ask("webhooks", "create", "https://hooks.example.com/in", "--keys", file)[0] == 3, "no such file"
    webhooks.Keys.create(file)
    keys = webhooks.Keys.add(file)
    code, made = ask(
        "webhooks", "create", "https://hooks.example.com/in", "--keys", file, "--space", "tenant/1", "--type", "order.*",
        "--type", "order.placed", "--concurrency", "2", "--per-second", "5",
    )  # fmt: skip
    stored = db.at("tenant/1").run(webhooks.get, made["id"])
    assert (code, stored.key_id, stored.types) == (0, "k2", ("order.*", "order.placed"))
    assert (stored.concurrency, stored.per_second) == (2, 5)
    assert [made["secret"]] == keys.secrets_of(stored, now_ms=0)
    assert made["secret"] not in json.dumps(ask("webhooks", "ls", "--space", "tenant/1")[1])
    assert ask("webhooks", "create", "ftp://hooks.example.com/in", "--keys", file)[1]["error"]["code"] == "url"
    assert run(["webhooks", "create", "https://hooks.example.com/b", "--keys", file, "--url", db_url]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("whsec_")
    assert len(ask("webhooks", "ls")[1]["items"]) == 1, "what was refused made none"


def test_what_was_given_up_is_replayed_in_steps(
    db: Database, endpoint: str, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "STEP_MESSAGES", 2)
    ids = given_up(db, endpoint, 5)
    assert [one["message_id"] for one in ask("webhooks", "failed", endpoint)[1]["items"]] == ids
    assert ask("webhooks", "pending", endpoint)[1]["items"] == []
    assert ask("webhooks", "replay", endpoint, "--failed", "--dry-run")[1] == {
        "dry_run": True, "count": 5, "at_least": False, "sample": ids,
    }  # fmt: skip
    assert ask("webhooks", "replay", endpoint, ids[0], ids[1], "--dry-run")[1]["sample"] == ids[:2]
    assert ask("webhooks", "replay", endpoint, ids[0], "msg_none", "--dry-run")[0] == 3
    assert [one["message_id"] for one in ask("webhooks", "failed", endpoint)[1]["items"]] == ids, "nothing stays"
    assert ask("webhooks", "replay", endpoint, ids[0]) == (0, {"replayed": 1})
    assert ask("webhooks", "replay", endpoint, "--failed") == (0, {"replayed": 4})
    assert [one["message_id"] for one in ask("webhooks", "pending", endpoint)[1]["items"]] == ids
    assert ask("webhooks", "failed", endpoint)[1]["items"] == []
    assert ask("webhooks", "attempts", endpoint)[1]["items"] == []
    assert ask("webhooks", "replay", endpoint, "msg_none")[0] == 3


def test_what_was_sent_in_a_time_is_replayed(
    db: Database, endpoint: str, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "STEP_MESSAGES", 2)
    ids = given_up(db, endpoint, 3)
    now = dt.datetime.now(dt.UTC)
    since, until = ((now + dt.timedelta(hours=hours)).isoformat() for hours in (-1, 1))
    assert ask("webhooks", "replay", endpoint, "--since", since, "--until", until, "--dry-run")[1] == {
        "dry_run": True, "count": 3, "at_least": False, "sample": ids,
    }  # fmt: skip
    assert ask("webhooks", "pending", endpoint)[1]["items"] == []
    assert ask("webhooks", "replay", endpoint, "--since", since, "--until", until) == (0, {"replayed": 3})
    assert [one["message_id"] for one in ask("webhooks", "pending", endpoint)[1]["items"]] == ids


@pytest.mark.parametrize("words", [
    [], ["msg_1", "--failed"], ["--since", "2026-01-01T00:00Z"],
], ids=["nothing", "two ways", "no end"])  # fmt: skip
def test_one_way_is_asked_for(endpoint: str, ask: Any, words: list[str]) -> None:
    assert ask("webhooks", "replay", endpoint, *words)[0] == 2


@pytest.mark.parametrize("time", ["yesterday", "2026-01-01T00:00", "0001-01-01T00:00Z"])
def test_a_time_has_a_zone(endpoint: str, db_url: str, time: str) -> None:
    with pytest.raises(SystemExit) as ended:
        run(["webhooks", "replay", endpoint, "--since", time, "--until", time, "--url", db_url])
    assert ended.value.code == 2
