"""`onefold keys create | rotate | ls | retire`: the file that secrets of webhooks are derived from. Shows no key."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import msgspec

from onefold.cli.answer import moment, opened, say, table
from onefold.core.errors import Conflict
from onefold.core.page import LIMIT_MAX
from onefold.messaging.webhooks import Keys, KeyUse, list_key_uses

USES_SHOWN = 10


class Key(msgspec.Struct, frozen=True):
    """A key as it is listed; what it is needed for is None when nobody asked."""

    id: str
    print: str
    newest: bool
    endpoints: int | None = None
    in_overlap: int | None = None
    until_ms: int | None = None


def create(options: argparse.Namespace) -> int:
    """Make a key file."""
    return _say_newest(options, Keys.create(options.file), "made, with one key")


def rotate(options: argparse.Namespace) -> int:
    """Add a key to the file, which is the newest then."""
    return _say_newest(options, Keys.add(options.file), "has a new key")


def ls(options: argparse.Namespace) -> int:
    """List the keys of the file by fingerprint; with --uses how many endpoints at --url have secrets of them."""
    keys = Keys.open(options.file)
    uses = list(_uses(options)) if options.uses else None
    newest, prints = keys.newest, keys.prints
    found = [_key(name, shown, uses, newest=name == newest) for name, shown in prints.items()]

    def lines() -> Iterator[str]:
        if uses is None:
            yield from table(("ID", "PRINT", ""), [(one.id, one.print, "newest" * one.newest) for one in found])
            return
        rows = [
            (one.id, one.print, "newest" * one.newest, str(one.endpoints), str(one.in_overlap), moment(one.until_ms))
            for one in found
        ]
        yield from table(("ID", "PRINT", "", "ENDPOINTS", "IN OVERLAP", "UNTIL"), rows)
        for missing in sorted({name for use in uses for name in _of(use)} - prints.keys()):
            yield f"Endpoints need the key {missing}, which the file does not have: nothing is signed for them."

    say(options, found, lines)
    return 0


def retire(options: argparse.Namespace) -> int:
    """Take a key out of the file, when no endpoint at --url has a secret of it."""
    Keys.open(options.file).check_retirable(options.key_id)
    needed = [use for use in _uses(options) if options.key_id in _of(use)]
    if needed:
        raise Conflict(
            "Secrets of endpoints are derived from the key; rotate them first, and let their overlap end.",
            code="key_in_use", key_id=options.key_id, endpoints=len(needed),
            some=[f"{use.endpoint_id} in {use.space!r}" for use in needed[:USES_SHOWN]],
            until=moment(max((use.old_until_ms or 0 for use in needed if use.key_id != options.key_id), default=None)),
        )  # fmt: skip
    if not options.dry_run:
        Keys.retire(options.file, options.key_id)
    said = {"dry_run": options.dry_run, "file": options.file, "retired": options.key_id}
    word = "would be" if options.dry_run else "is"
    say(options, said, lambda: [f"{options.key_id} {word} out of {options.file}; no endpoint at --url needs it."])
    return 0


def _say_newest(options: argparse.Namespace, keys: Keys, what: str) -> int:
    newest = keys.newest
    said = {"file": options.file, "newest": newest, "print": keys.prints[newest], "keys": list(keys.prints)}
    say(options, said, lambda: [f"{options.file} {what}: {newest}, fingerprint {keys.prints[newest]}."])
    return 0


def _uses(options: argparse.Namespace) -> Iterator[KeyUse]:
    with opened(options.url) as db:
        reader = db.at("").reader()
        after = None
        while True:
            page = reader.run(list_key_uses, after=after, limit=LIMIT_MAX)
            yield from page.items
            if (after := page.after) is None:
                return


def _of(use: KeyUse) -> set[str]:
    return {use.key_id} | ({use.old_key_id} if use.old_key_id is not None else set())


def _key(name: str, shown: str, uses: list[KeyUse] | None, *, newest: bool) -> Key:
    if uses is None:
        return Key(name, shown, newest)
    old = [use.old_until_ms or 0 for use in uses if use.old_key_id == name]
    return Key(name, shown, newest, sum(use.key_id == name for use in uses), len(old), max(old, default=None))
