"""Who is there: a visitor is a random name, signed, in a cookie or as a bearer token.

There are no passwords: whoever has the token is the visitor. The secret that signs stands in a
file that only its owner can read.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import time
from pathlib import Path

SECRET_BYTES = 32
_TOKEN = re.compile(r"(v[0-9a-f]{22})\.([0-9a-f]{40})")


class Signer:
    """Makes tokens and knows its own."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def new_visitor(self) -> str:
        """A name that nobody had before; it sorts by time, which keeps tables compact."""
        return f"v{time.time_ns() // 1_000_000:012x}{secrets.token_hex(5)}"

    def token(self, visitor: str) -> str:
        """The name with its signature."""
        return f"{visitor}.{self._sign('visitor', visitor)}"

    def visitor(self, token: str) -> str | None:
        """Whose token it is; None when we did not make it."""
        found = _TOKEN.fullmatch(token)
        if found is None or not hmac.compare_digest(found[2], self._sign("visitor", found[1])):
            return None
        return found[1]

    def form_token(self, visitor: str) -> str:
        """What forms of this visitor carry, so that no other site can post them."""
        return self._sign("form", visitor)

    def _sign(self, purpose: str, text: str) -> str:
        return hmac.new(self._secret, f"{purpose}/{text}".encode(), hashlib.sha256).hexdigest()[:40]


def signer(folder: Path) -> Signer:
    """The signer whose secret stands in the folder; made now if there is none.

    Several processes may ask at once: the first link wins, and all read what it linked.
    """
    path = folder / "visitors.secret"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        mine = folder / f"visitors.secret.{os.getpid()}.{secrets.token_hex(4)}"
        descriptor = os.open(mine, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(SECRET_BYTES))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(mine, path)
        except FileExistsError:
            pass
        finally:
            mine.unlink()
    secret = path.read_bytes()
    if len(secret) != SECRET_BYTES:
        raise RuntimeError(f"{path} is damaged; remove it, and every visitor starts anew.")
    return Signer(secret)
