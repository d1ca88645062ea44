"""Endpoints over HTTP name a key: one that the server's key file lacks is refused, when it has a file."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from http_calls import Direct, bearer_for
from processes import command, environment, running

import onefold
from onefold import Database, webhooks
from onefold.server import asgi

PATH = "/v1/webhooks/endpoints"
URL = "https://hooks.example.com/in"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    webhooks.Keys.create(tmp_path / "webhooks.key")
    return tmp_path / "webhooks.key"


@pytest.fixture
def keyed(db: Database, file: Path) -> Iterator[Direct]:
    """A server with a key file."""
    caller = Direct(asgi(db, keys=webhooks.Keys.open(file)), db)
    yield caller
    caller.close()


def refused(keyed: Direct, path: str, key_id: str, **more: Any) -> tuple[int, str, Any]:
    said = keyed("POST", path, send={"key_id": key_id, **more})
    return said.status, said.json.get("code"), said.json.get("facts")


def test_a_key_that_the_file_lacks_is_refused_and_nothing_written(keyed: Direct, db: Database, file: Path) -> None:
    assert refused(keyed, PATH, "k2", url=URL) == (400, "key_id", {"key_id": "k2", "newest": "k1"})
    assert refused(keyed, PATH, "k" * 9_000, url=URL)[0] == 400
    assert db.run(webhooks.list_endpoints).items == []
    made = keyed("POST", PATH, send={"key_id": "k1", "url": URL}).json
    rotate = f"{PATH}/{made['id']}/rotate"
    assert refused(keyed, rotate, "k2") == (400, "key_id", {"key_id": "k2", "newest": "k1"})
    assert db.run(webhooks.get, made["id"]).generation == 1
    webhooks.Keys.add(file)
    assert keyed("POST", rotate, send={"key_id": "k2"}).json["generation"] == 2, "the file as it is now"


def test_what_was_answered_stays_answered_when_its_key_is_retired(keyed: Direct, db: Database, file: Path) -> None:
    """A client that never got the answer asks again, however long after: it is told what was done."""
    headers = {"Idempotency-Key": "make"}
    made = keyed("POST", PATH, send={"key_id": "k1", "url": URL}, headers=headers)
    webhooks.Keys.add(file)
    webhooks.Keys.retire(file, "k1")
    again = keyed("POST", PATH, send={"key_id": "k1", "url": URL}, headers=headers)
    assert (made.status, again.status, again.json, again.headers["idempotent-replayed"]) == (200, 200, made.json, "true")
    other = keyed("POST", PATH, send={"key_id": "k1", "url": f"{URL}/2"}, headers=headers)
    assert (other.status, other.json["code"]) == (422, "idempotency_mismatch")
    for _ in range(2):  # A refusal takes no key.
        new = keyed("POST", PATH, send={"key_id": "k1", "url": URL}, headers={"Idempotency-Key": "new"})
        assert (new.status, new.json["code"]) == (400, "key_id")
    assert [one.id for one in db.run(webhooks.list_endpoints).items] == [made.json["id"]]
    assert keyed("POST", PATH, send={"key_id": "k2", "url": URL}, headers={"Idempotency-Key": "new"}).status == 200


def test_without_a_file_any_well_formed_name_is_taken(direct: Direct) -> None:
    assert direct("POST", PATH, send={"key_id": "k9", "url": URL}).json["key_id"] == "k9"
    assert direct("POST", PATH, send={"key_id": "K 9", "url": URL}).status == 400


def test_serve_takes_the_file(file: Path, tmp_path: Path) -> None:
    """What is told about the file does not depend on the engine."""
    url = str(tmp_path / "test.db")
    with onefold.connect(url) as db:
        token = bearer_for(db)
    with running("--keys", str(file), url=url, folder=tmp_path) as process:
        statuses = [
            process.request("POST", PATH, token=token, send={"key_id": name, "url": URL})[0] for name in ("k1", "k2")
        ]
        assert statuses == [200, 400]
        assert process.end() == 0
    file.chmod(0o604)
    done = subprocess.run(
        command("serve", "--port", "0", "--url", url, "--keys", str(file)),
        capture_output=True, text=True, timeout=60, check=False, env=environment(),
    )  # fmt: skip
    assert (done.returncode, "chmod 600" in done.stderr) == (2, True)
