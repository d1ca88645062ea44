"""`onefold keys` and `onefold webhooks rotate`: made, rotated, listed and retired without a key being shown."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from onefold import Database, webhooks
from onefold.cli.main import run


def test_a_key_lives_from_create_to_retire(
    db: Database, db_url: str, ask: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(tmp_path / "webhooks.key")
    code, made = ask("keys", "create", file)
    assert (code, made["newest"], Path(file).stat().st_mode & 0o777) == (0, "k1", 0o600)
    assert ask("keys", "create", file)[0] == 4
    keys = webhooks.Keys.open(file)
    endpoint = db.at("tenant/1").run(webhooks.create, "https://hooks.example.com/in", key_id=keys.newest)
    old = keys.secrets_of(endpoint, now_ms=0)[0]
    assert ask("keys", "rotate", file)[1]["keys"] == ["k1", "k2"]
    assert ask("keys", "retire", file, "k2")[1]["error"]["code"] == "newest"
    assert ask("keys", "retire", file, "k7")[0] == 3
    code, refused = ask("keys", "retire", file, "k1")
    assert (code, refused["error"]["code"], endpoint.id in refused["error"]["text"]) == (4, "key_in_use", True)

    code, turned = ask("webhooks", "rotate", endpoint.id, "--space", "tenant/1", "--keys", file, "--overlap-hours", "1")
    assert (code, turned["key_id"]) == (0, "k2")
    both = keys.secrets_of(db.at("tenant/1").run(webhooks.get, endpoint.id), now_ms=0)
    assert both == [turned["secret"], old], "the old one signs beside it"
    code, refused = ask("keys", "retire", file, "k1", "--dry-run")
    assert (code, refused["error"]["code"]) == (4, "key_in_use"), "for as long as it does"
    uses = {one["id"]: (one["endpoints"], one["in_overlap"], one["until_ms"]) for one in ask("keys", "ls", file, "--uses")[1]}
    assert uses == {"k1": (0, 1, turned["old_until_ms"]), "k2": (1, 0, None)}

    ask("webhooks", "rotate", endpoint.id, "--space", "tenant/1", "--keys", file, "--overlap-hours", "0")
    assert ask("keys", "retire", file, "k1", "--dry-run") == (0, {"dry_run": True, "file": file, "retired": "k1"})
    assert [one["id"] for one in ask("keys", "ls", file)[1]] == ["k1", "k2"], "a dry run changes nothing"
    held = [line.split()[1] for line in Path(file).read_text(encoding="ascii").splitlines()]
    said = [ask("keys", *words) for words in (("ls", file), ("ls", file, "--uses"), ("retire", file, "k1"))]
    for human in (("ls", file, "--uses"), ("rotate", file)):
        assert run(["keys", *human, "--url", db_url]) == 0
        said.append(capsys.readouterr())
    assert not any(key in str(said) or base64.b64decode(key).hex() in str(said) for key in held), "no key is shown"
    assert [one["id"] for one in ask("keys", "ls", file)[1]] == ["k2", "k3"]


def test_a_key_that_endpoints_need_and_the_file_lacks_is_told(
    db: Database, db_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(tmp_path / "webhooks.key")
    webhooks.Keys.create(file)
    db.run(webhooks.create, "https://hooks.example.com/in", key_id="k8")
    assert run(["keys", "ls", file, "--uses", "--url", db_url]) == 0
    head, row, warning = capsys.readouterr().out.splitlines()
    assert (head.split()[:4], row.split()[0]) == (["ID", "PRINT", "ENDPOINTS", "IN"], "k1")
    assert warning.startswith("Endpoints need the key k8")


def test_a_file_that_others_may_read_is_refused(ask: Any, tmp_path: Path) -> None:
    path = tmp_path / "webhooks.key"
    webhooks.Keys.create(path)
    path.chmod(0o604)
    for words in (("ls",), ("rotate",), ("retire", "k1")):
        code, said = ask("keys", words[0], str(path), *words[1:])
        assert (code, "chmod 600" in said["error"]["text"]) == (2, True)
    assert ask("keys", "ls", str(tmp_path / "none"))[0] == 3
