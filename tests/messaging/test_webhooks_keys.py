"""The key file: whole whatever dies while it is written, taken over by running processes, tidied when nothing needs it."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from line_deaths import left_behind

import onefold
from onefold import Conflict, Database, Denied, Invalid, NotFound, Retry, webhooks
from onefold.core.clock import FakeClock
from onefold.host import files
from onefold.messaging.webhooks import keys as keys_module

URL = "https://hooks.example.com/in"
BODY = b'{"type":"order.placed"}'
AT_S = 1_700_000_000
CALLS = {"create": "Keys.create(path)", "add": "Keys.add(path)", "retire": "Keys.retire(path, 'k1')"}

# Signs whenever it is asked, as of a time that it is told: two processes know the server's clock by some ms each.
SIGNER = """
import sys
import onefold
from onefold import webhooks

keys = webhooks.Keys.open(sys.argv[2])
with onefold.connect(sys.argv[1]) as db:
    for line in sys.stdin:
        endpoint_id, now_ms = line.split()
        found = keys.secrets_of(db.run(webhooks.get, endpoint_id), now_ms=int(now_ms))
        print(keys.newest, webhooks.sign("msg_1", int(sys.argv[3]), sys.argv[4].encode(), found)["webhook-signature"].replace(" ", "|"), flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "webhooks.key"


@pytest.mark.parametrize("call", list(CALLS))
def test_a_file_whose_writer_is_killed_is_the_old_or_the_new_one(tmp_path: Path, call: str) -> None:
    ground = tmp_path / "ground"
    ground.mkdir()
    old: list[str] = []
    if call != "create":
        webhooks.Keys.create(ground / "webhooks.key")
        old = list(webhooks.Keys.add(ground / "webhooks.key").prints.values())
    act = f"from onefold.messaging.webhooks.keys import Keys\ndef act(folder):\n    path = folder + '/webhooks.key'\n    {CALLS[call]}\n"
    found = {"old": 0, "new": 0}
    for at, folder in left_behind(ground, tmp_path / "dead", act, keys_module, files):
        path = folder / "webhooks.key"
        if call == "create" and not path.exists():
            webhooks.Keys.create(path)
            found["old"] += 1
            continue
        assert path.stat().st_mode & 0o777 == 0o600, at
        prints = list(webhooks.Keys.open(path).prints.values())
        new = {"create": prints[:1], "add": [*old, *prints[2:3]], "retire": old[1:]}[call]
        assert prints in (old, new), at
        found["old" if prints == old else "new"] += 1
        assert list(webhooks.Keys.add(path).prints.values())[:-1] == prints, "the next one is not kept from it"
        assert [one.name for one in folder.iterdir()] == ["webhooks.key"], "and nothing is left lying about"
    assert min(found.values()) > 0, found


def holds(headers: dict[str, str], secret: str) -> bool:
    """Whether a receiver that knows this secret takes the request."""
    try:
        return webhooks.verify(BODY, headers, secrets=[secret], clock=FakeClock(AT_S * 1_000)) == "msg_1"
    except Denied:
        return False


def test_a_running_process_takes_a_rotated_file_and_both_signatures_hold(db_url: str, path: Path) -> None:
    keys = webhooks.Keys.create(path)
    with (
        onefold.connect(db_url) as db,
        subprocess.Popen(
            [sys.executable, "-c", SIGNER, db_url, str(path), str(AT_S), BODY.decode()], stdin=-1, stdout=-1, text=True
        ) as signer,
    ):
        endpoint = db.run(webhooks.create, URL, key_id=keys.newest)

        def signed(now_ms: int) -> tuple[str, dict[str, str]]:
            assert signer.stdin is not None
            assert signer.stdout is not None
            print(endpoint.id, now_ms, file=signer.stdin, flush=True)
            newest, signatures = signer.stdout.readline().split()
            head = {"webhook-id": "msg_1", "webhook-timestamp": str(AT_S)}
            return newest, {**head, "webhook-signature": signatures.replace("|", " ")}

        (first,) = keys.secrets_of(endpoint, now_ms=0)
        newest, headers = signed(0)
        assert (newest, holds(headers, first)) == ("k1", True)
        webhooks.Keys.add(path)  # By this process; nobody tells the other one.
        turned = db.run(webhooks.rotate, endpoint.id, key_id=keys.newest, overlap_ms=600_000)
        second = keys.secrets_of(turned, now_ms=0)[0]
        newest, headers = signed(turned.old_until_ms - 1)
        assert (newest, turned.key_id) == ("k2", "k2")
        assert (holds(headers, first), holds(headers, second)) == (True, True), "receivers change over in their own time"
        over = db.run(webhooks.rotate, endpoint.id, key_id="k2", overlap_ms=0)
        webhooks.Keys.retire(path, "k1")
        (third,) = keys.secrets_of(over, now_ms=over.old_until_ms)
        newest, headers = signed(over.old_until_ms)
        assert [holds(headers, one) for one in (first, second, third)] == [False, False, True]
        signer.communicate()
        assert signer.returncode == 0


def test_a_file_that_cannot_be_read_any_more_is_told_once_and_its_keys_go_on(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = webhooks.Keys.create(path)
    prints = keys.prints
    caplog.set_level(logging.ERROR, logger="onefold.webhooks")
    for change in (lambda: path.chmod(0o644), lambda: path.write_text("nonsense\n"), path.unlink):
        caplog.clear()
        change()
        assert (keys.prints, keys.newest) == (prints, "k1")
        assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
            "the key file cannot be read any more, the keys of before go on"
        ]
    webhooks.Keys.create(path)
    assert keys.prints == webhooks.Keys.open(path).prints != prints, "and a file that is there again is taken"


def test_a_key_is_added_and_retired_by_one_at_a_time(path: Path) -> None:
    keys = webhooks.Keys.create(path)
    with path.open("r+b") as file:
        assert files.try_lock(file.fileno())
        for change in (lambda: webhooks.Keys.add(path), lambda: webhooks.Keys.retire(path, "k1")):
            with pytest.raises(Retry):
                change()
    assert list(keys.prints) == ["k1"]
    for key_id, error in (("k1", Conflict), ("k9", NotFound)):
        with pytest.raises(error):
            webhooks.Keys.retire(path, key_id)
    link = path.with_name("link.key")
    link.symlink_to(path)
    webhooks.Keys.add(link)
    assert (link.is_symlink(), list(keys.prints)) == (True, ["k1", "k2"]), "the file behind the link is replaced"
    assert list(webhooks.Keys.retire(path, "k1").prints) == ["k2"]
    assert webhooks.Keys.add(path).newest == "k3", "a name is not given twice in a row"
    while len(keys.prints) < keys_module.KEYS_MAX:
        webhooks.Keys.add(path)
    with pytest.raises(Invalid):
        webhooks.Keys.add(path)
    with pytest.raises(NotFound):
        webhooks.Keys.add(path.with_name("none.key"))
    path.chmod(0o640)
    with pytest.raises(Invalid, match="chmod 600"):
        webhooks.Keys.add(path)
    assert not list(path.parent.glob("*.partial-*"))


def test_the_keys_in_use_are_listed_over_all_spaces_page_by_page(db: Database) -> None:
    made = [(space, db.at(space).run(webhooks.create, URL, key_id="k1").id) for space in ("", "tenant/1", "tenant/2")]
    space, turned = made[1]
    db.at(space).run(webhooks.rotate, turned, key_id="k2", overlap_ms=60_000)
    found: list[webhooks.KeyUse] = []
    after = None
    while True:
        page = db.run(webhooks.list_key_uses, after=after, limit=1)
        found += page.items
        if (after := page.after) is None:
            break
    assert sorted((use.space, use.endpoint_id) for use in found) == sorted(made)
    assert [(use.key_id, use.old_key_id) for use in found if use.space == space] == [("k2", "k1")]
    db.at(space).run(webhooks.rotate, turned, key_id="k3", overlap_ms=0)
    over = db.run(webhooks.list_key_uses).items
    assert [(use.key_id, use.old_key_id, use.old_until_ms) for use in over if use.space == space] == [("k3", None, None)]
    for wrong in ("", "x", "1", "99999999999999999999/ep"):
        with pytest.raises(Invalid):
            db.run(webhooks.list_key_uses, after=wrong)
