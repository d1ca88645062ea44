"""Who asks: bearer tokens, looked up once and then trusted for `TRUST_MS`."""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from onefold.core.errors import Denied, OnefoldError
from onefold.engine.database import Database, Handle
from onefold.identity import tokens
from onefold.server.problems import Refused

_log = logging.getLogger("onefold.http")

TRUST_MS = 2_000  # A revocation holds everywhere after this; in the process that did it, within moments.
TRUSTED_MAX = 10_000
LOOKUPS_MAX = 256  # At once. Strangers with made-up tokens get no further than this.
TOUCH_MS = 3_600_000
TOUCHES_MAX = 64  # Notes of use on their way at once; more are left out.

_CHALLENGE = [(b"www-authenticate", b'Bearer realm="onefold"')]
_CHALLENGE_PAGE = [*_CHALLENGE, (b"www-authenticate", b'Basic realm="onefold: any name, the token as password"')]


@dataclass(slots=True)
class Caller:
    """A verified token and the handles of its space."""

    token: tokens.Token
    writer: Handle
    reader: Handle
    until: float

    def must(self, right: str) -> None:
        """Refuse with 403 unless the token carries `right`."""
        if not tokens.allows(self.token, right):
            raise Denied("The token does not carry the right.", code="right", needs=right)


class Gatekeeper:
    """Turns an Authorization header into a `Caller`."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._reader = db.reader()
        self._trusted: OrderedDict[bytes, Caller] = OrderedDict()
        self._asking: dict[tuple[str, str], asyncio.Future[tuple[tokens.Token, float]]] = {}
        self._touches: set[asyncio.Task[None]] = set()
        self.close = db.subscribe("tokens.revoked", self._forget)

    async def caller(self, header: bytes | None, *, page: bool = False) -> Caller:
        """The caller, or 401.

        Args:
            header: the value of Authorization, as it came.
            page: people ask with a browser: take the token as the password of HTTP Basic too.
        """
        challenge = _CHALLENGE_PAGE if page else _CHALLENGE
        if header is None:
            raise Refused(401, "token", "A token is needed: Authorization: Bearer ...", headers=challenge)
        known = self._trusted.get(header)
        if known is not None and known.until > time.monotonic() and (page or not _is_basic(header)):
            return known
        sent = tokens.parse(_bearer_of(header, page=page))
        if sent is None:
            raise Refused(401, "token", "The token is not valid.", headers=challenge)
        try:
            token, asked_at = await self._looked_up(*sent)
        except Denied:
            raise Refused(401, "token", "The token is not valid.", headers=challenge) from None
        return self._trust(header, token, asked_at)

    async def _looked_up(self, token_id: str, digest: str) -> tuple[tokens.Token, float]:
        """The token, and when it was asked for; who asks for the same at the same time shares the answer."""
        asking = self._asking.get((token_id, digest))
        if asking is None:
            if len(self._asking) >= LOOKUPS_MAX:
                raise Refused(
                    503, "overloaded", "Too many tokens are being looked up.", headers=[(b"retry-after", b"1")]
                )
            asking = self._asking[token_id, digest] = asyncio.ensure_future(self._asked(token_id, digest))
            asking.add_done_callback(lambda done: self._answered(token_id, digest, done))
        return await asyncio.shield(asking)  # One client that goes away takes nothing from the others.

    async def _asked(self, token_id: str, digest: str) -> tuple[tokens.Token, float]:
        asked_at = time.monotonic()
        return await self._reader.arun(tokens.verify, token_id, digest=digest), asked_at

    def _answered(self, token_id: str, digest: str, done: asyncio.Future[tuple[tokens.Token, float]]) -> None:
        self._asking.pop((token_id, digest), None)
        if not done.cancelled():
            done.exception()  # Seen, also when nobody waits any more.

    def _trust(self, header: bytes, token: tokens.Token, asked_at: float) -> Caller:
        handle = self._db.at(token.space_name)
        # From the question on: the answer may be as old as that, and was true then.
        caller = Caller(token, handle, handle.reader(), asked_at + TRUST_MS / 1_000)
        self._trusted[header] = caller
        self._trusted.move_to_end(header)
        if len(self._trusted) > TRUSTED_MAX:
            self._trusted.popitem(last=False)
        if (token.used_at_ms or 0) + TOUCH_MS < time.time() * 1_000 and len(self._touches) < TOUCHES_MAX:
            task = asyncio.get_running_loop().create_task(self._touch(token.id))
            self._touches.add(task)
            task.add_done_callback(self._touches.discard)
        return caller

    async def _touch(self, token_id: str) -> None:
        try:
            await self._db.arun(tokens.touch, token_id)
        except OnefoldError as error:
            _log.info("the use of a token was not noted: %s", error)

    async def drained(self) -> None:
        """Wait for the notes of use."""
        if self._touches:
            await asyncio.wait(self._touches, timeout=5)

    def _forget(self, _fact: str, facts: dict[str, Any]) -> None:
        # On the dispatcher's thread: entries may come meanwhile, and those are still verified.
        for header, caller in list(self._trusted.items()):
            if caller.token.id == facts["id"]:
                self._trusted.pop(header, None)


def _is_basic(header: bytes) -> bool:
    return header[:6].lower() == b"basic "


def _bearer_of(header: bytes, *, page: bool) -> str:
    if header[:7].lower() == b"bearer ":
        return header[7:].strip().decode("latin-1")
    if page and _is_basic(header):
        try:
            return base64.b64decode(header[6:].strip(), validate=True).decode("latin-1").partition(":")[2]
        except binascii.Error:
            return ""
    return ""
