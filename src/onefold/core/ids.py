"""Identifiers: a prefix that says the kind, then 32 hexadecimal digits that sort by time.

48 bits of milliseconds, 16 bits counted within the transaction, 64 random bits drawn once
per transaction. Sortable ids keep inserts at the right edge of their index: random ones
halved the rate of the checkout. An id tells when it was made; do not use it as a secret.
"""

from __future__ import annotations

from onefold.core.errors import Invalid

PREFIX_LENGTH_MAX = 16
COUNT_MAX = 1 << 16


def make_id(prefix: str, *, now_ms: int, count: int, seed: int) -> str:
    """Build one id from the parts that a transaction owns.

    Args:
        prefix: the kind, for example "job"; letters only.
        now_ms: time of the transaction.
        count: how many ids this transaction made before, 0 to 65,535.
        seed: 64 random bits of the transaction.
    """
    if count >= COUNT_MAX:
        raise Invalid("A transaction makes at most 65,536 ids.", code="ids", most=COUNT_MAX)
    return f"{prefix}_{(now_ms << 80) | (count << 64) | (seed & 0xFFFF_FFFF_FFFF_FFFF):032x}"


def made_at_ms(identifier: str) -> int:
    """When the id was made, in ms since 1970."""
    return int(identifier.rpartition("_")[2][:12], 16)
