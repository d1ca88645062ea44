"""Tokens: what a request of a program costs the database, and what making a token does."""

from __future__ import annotations

from benches.harness import RATES, Size, Table, both_engines, rates
from onefold import Tx, tokens

NAME = "tokens"
PAGE = "src/onefold/identity/tokens/README.md"
PRESENT = 100_000
BATCH = 500


def run(size: Size) -> list[Table]:
    """Both engines, beside many other tokens."""
    present = size.of(PRESENT)
    table = Table("Durable operations on tokens; `verify` reads from a snapshot", RATES)
    with both_engines() as engines:
        for engine, db, callers in engines:
            for start in range(0, present, BATCH):
                db.run(create_many, min(BATCH, present - start))
            token_id, digest = db.run(create)
            reader = db.reader()
            rates(
                table, engine, "verify", size, lambda _n, of=reader, key=token_id, sha=digest: of.run(tokens.verify, key, digest=sha),
                lambda _c, _n, of=reader, key=token_id, sha=digest: of.arun(tokens.verify, key, digest=sha), callers=callers, count=1_000,
            )
            rates(
                table, engine, "create", size, lambda _n, db=db: db.run(create), lambda _c, _n, db=db: db.arun(create),
                callers=callers, count=1_000,
            )
    table.notes.append(f"Beside {present:,} other tokens. A server asks at most once in two seconds for each token.")
    return [table]


def create(tx: Tx) -> tuple[str, str]:
    """Make a token; answer its id and its secret's digest."""
    _, digest = tokens.new_secret()
    return tokens.create(tx, "bench", digest=digest, rights=("booking:*",)).id, digest


def create_many(tx: Tx, count: int) -> None:
    """`count` tokens in one transaction."""
    for _ in range(count):
        create(tx)
