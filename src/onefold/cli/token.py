"""`onefold token create | list | revoke`: straight to the database, so the first one needs no token."""

from __future__ import annotations

import argparse

import msgspec

from onefold.cli.answer import moment, opened, say, table
from onefold.cli.undone import undone
from onefold.engine.connect import connect
from onefold.identity import tokens


def create(options: argparse.Namespace) -> int:
    """Create a token and show it, once."""
    secret, digest = tokens.new_secret()
    with connect(options.url) as db:
        token = db.run(
            tokens.create, options.name, digest=digest, rights=tuple(options.rights), space_name=options.space,
            ttl_ms=options.ttl_ms,
        )
    shown = tokens.bearer(token.id, secret)
    say(
        options,
        {**msgspec.structs.asdict(token), "bearer": shown},
        lambda: [shown, f"Send it as: Authorization: Bearer ... It is not stored; its id is {token.id}."],
    )
    return 0


def list_all(options: argparse.Namespace) -> int:
    """List all tokens, page by page."""
    found: list[tokens.Token] = []
    with connect(options.url) as db:
        reader = db.reader()
        page = reader.run(tokens.list_tokens, limit=1_000)
        found += page.items
        while page.after is not None:
            page = reader.run(tokens.list_tokens, after=page.after, limit=1_000)
            found += page.items
    head = ("ID", "NAME", "RIGHTS", "SPACE", "CREATED", "USED", "STATE")
    say(options, found, lambda: table(head, [_row(token) for token in found]))
    return 0


def revoke(options: argparse.Namespace) -> int:
    """Revoke one token."""
    with opened(options.url) as db:
        if options.dry_run:
            token = undone(db, tokens.revoke, options.token_id)
            said = f"{token.id} ({token.name}) would be revoked, and whoever is logged in with it logged out."
            say(options, {"dry_run": True, "count": 1, "sample": [token]}, lambda: [said])
            return 0
        token = db.run(tokens.revoke, options.token_id)
    say(options, token, lambda: [f"Revoked {token.id} ({token.name})."])
    return 0


def _row(token: tokens.Token) -> tuple[str, ...]:
    return (
        token.id, token.name, " ".join(token.rights), token.space_name or "(root)", moment(token.created_at_ms),
        moment(token.used_at_ms), _state(token),
    )  # fmt: skip


def _state(token: tokens.Token) -> str:
    if token.revoked_at_ms is not None:
        return f"revoked {moment(token.revoked_at_ms)}"
    return f"until {moment(token.expires_at_ms)}" if token.expires_at_ms is not None else "valid"
