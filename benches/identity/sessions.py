"""Sessions: what each request of a browser costs the database, and what a log-in does."""

from __future__ import annotations

from benches.harness import RATES, Size, Table, both_engines, rates
from onefold import Tx, sessions, tokens

NAME = "sessions"
PAGE = "src/onefold/identity/sessions/README.md"
PRESENT = 100_000
BATCH = 500


def run(size: Size) -> list[Table]:
    """Both engines, beside many other sessions."""
    present = size.of(PRESENT)
    table = Table("Durable operations on sessions; `verify` reads from a snapshot", RATES)
    with both_engines() as engines:
        for engine, db, callers in engines:
            token_id = db.run(tokens.create, "Ana", digest=tokens.new_secret()[1], rights=("jobs:*",)).id
            for start in range(0, present, BATCH):
                db.run(begin_many, token_id, min(BATCH, present - start))
            session_id, digest = db.run(begin, token_id)
            reader = db.reader()
            rates(
                table, engine, "verify", size, lambda _n, of=reader, key=session_id, sha=digest: of.run(sessions.verify, key, digest=sha),
                lambda _c, _n, of=reader, key=session_id, sha=digest: of.arun(sessions.verify, key, digest=sha), callers=callers, count=1_000,
            )
            rates(
                table, engine, "begin", size, lambda _n, db=db, key=token_id: db.run(begin, key),
                lambda _c, _n, db=db, key=token_id: db.arun(begin, key), callers=callers, count=1_000,
            )
    table.notes.append(f"Beside {present:,} other sessions.")
    return [table]


def begin(tx: Tx, token_id: str) -> tuple[str, str]:
    """Log in; answer the session's id and its secret's digest."""
    _, digest = sessions.new_secret()
    return sessions.begin(tx, token_id, digest=digest).id, digest


def begin_many(tx: Tx, token_id: str, count: int) -> None:
    """`count` log-ins in one transaction."""
    for _ in range(count):
        begin(tx, token_id)
