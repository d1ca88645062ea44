"""What happens to a token outside any transaction: the secret is made, shown once, and read back."""

from __future__ import annotations

import hashlib
import re
import secrets

from onefold.core.loop import Loop
from onefold.identity.tokens.ops import sweep

SECRET_BYTES = 32

# A fixed beginning lets scanners of leaked secrets know one when they see it.
_BEARER = re.compile(r"onefold_([0-9a-f]{32})_([A-Za-z0-9_-]{43})")

LOOPS = (Loop("tokens.sweeper", sweep, every_ms=3_600_000),)


def new_secret() -> tuple[str, str]:
    """A new secret and its digest. Give `create` the digest; show the holder `bearer(id, secret)`."""
    secret = secrets.token_urlsafe(SECRET_BYTES)
    return secret, digest_of(secret)


def digest_of(secret: str) -> str:
    """What is stored of a secret: its SHA-256, in hexadecimal digits."""
    return hashlib.sha256(secret.encode()).hexdigest()


def bearer(token_id: str, secret: str) -> str:
    """What the holder sends after "Authorization: Bearer "."""
    return f"onefold_{token_id.removeprefix('token_')}_{secret}"


def parse(text: str) -> tuple[str, str] | None:
    """`(token_id, digest)` of what a holder sent, or None when it is not of our making."""
    found = _BEARER.fullmatch(text)
    return (f"token_{found[1]}", digest_of(found[2])) if found else None
