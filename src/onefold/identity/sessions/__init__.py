"""Sessions of people who logged in with a token. See README.md."""

from __future__ import annotations

from onefold.identity.sessions.client import LOOPS, cookie, new_secret, parse
from onefold.identity.sessions.ops import (
    ID_LENGTH_MAX,
    TTL_MS_DEFAULT,
    Person,
    Session,
    begin,
    end,
    list_sessions,
    verify,
)

__all__ = [
    "ID_LENGTH_MAX", "LOOPS", "TTL_MS_DEFAULT", "Person", "Session", "begin", "cookie", "end", "list_sessions",
    "new_secret", "parse", "verify",
]  # fmt: skip
