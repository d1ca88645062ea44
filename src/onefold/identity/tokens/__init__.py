"""Bearer tokens: rights in one space for whoever holds a secret. See README.md."""

from __future__ import annotations

from onefold.identity.tokens.client import LOOPS, bearer, digest_of, new_secret, parse
from onefold.identity.tokens.ops import (
    Token,
    allows,
    create,
    get,
    list_tokens,
    revoke,
    touch,
    verify,
)

__all__ = [
    "LOOPS", "Token", "allows", "bearer", "create", "digest_of", "get", "list_tokens", "new_secret", "parse", "revoke",
    "touch", "verify",
]  # fmt: skip
