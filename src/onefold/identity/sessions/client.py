"""What happens to a session outside any transaction: its secret is made, sent, and read back."""

from __future__ import annotations

import hashlib
import re
import secrets

from onefold.core.loop import Loop
from onefold.identity.sessions.ops import sweep

SECRET_BYTES = 32

_COOKIE = re.compile(r"([0-9a-f]{32})\.([A-Za-z0-9_-]{43})")

LOOPS = (Loop("sessions.sweeper", sweep, every_ms=600_000),)


def new_secret() -> tuple[str, str]:
    """A new secret and its digest. Give `begin` the digest; send the browser `cookie(id, secret)`."""
    secret = secrets.token_urlsafe(SECRET_BYTES)
    return secret, hashlib.sha256(secret.encode()).hexdigest()


def cookie(session_id: str, secret: str) -> str:
    """The value of the cookie."""
    return f"{session_id.removeprefix('session_')}.{secret}"


def parse(text: str) -> tuple[str, str, str] | None:
    """`(session_id, digest, form_token)` of a cookie's value, or None when it is not of our making.

    The form token goes into every form and back: another site can make a browser send the cookie, but
    can read neither. It is derived from the secret, so nothing has to be stored for it.
    """
    found = _COOKIE.fullmatch(text)
    if found is None:
        return None
    secret = found[2].encode()
    form_token = hashlib.sha256(b"onefold form " + secret).hexdigest()
    return f"session_{found[1]}", hashlib.sha256(secret).hexdigest(), form_token
