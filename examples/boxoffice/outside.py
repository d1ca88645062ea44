"""The world outside: a payment provider, and a partner who hears of orders by webhook; each a process of its own.

`make run` starts both beside the shop, on loopback and free ports; they end with it. What they have seen stands in
files of their own, so that an audit can compare.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from onefold import Conflict, Database, Tx, payments, webhooks
from onefold.host.outgoing import Policy
from onefold.messaging.webhooks import Endpoint, Keys
from onefold.testing.provider import SECRET, TOKEN, FakeProvider
from onefold.testing.receiver import Receiver, tell

PARTNER = "partner"
CALLBACKS = "/callbacks/fake"
THINKS_MS = 700  # A card payment takes a moment; here, so that people see it.
LEASE_MS = 5_000  # What a killed process was delivering is taken over after this.
DRAIN_MS = 5_000

_LOOPBACK = Policy(allow=("127.0.0.0/8",), http=True, ports=None)


@dataclass(frozen=True, slots=True)
class Outside:
    """Where they are.

    Attributes:
        provider: URL of the payment provider.
        partner: URL of the receiver of webhooks.
    """

    provider: str
    partner: str


@contextlib.contextmanager
def provider_in(folder: Path) -> Generator[FakeProvider]:
    """The provider whose record stands in the folder."""
    home = folder / "provider"
    home.mkdir(parents=True, exist_ok=True)
    with FakeProvider(home) as provider:
        yield provider


@contextlib.contextmanager
def neighbours(folder: Path, shop: str) -> Generator[Outside]:
    """Both of them, for as long as a shop at the URL `shop` is open."""
    with provider_in(folder) as provider, Receiver(folder) as receiver:
        provider.switch(slow=1.0, slow_ms=THINKS_MS)
        provider.tell(shop + CALLBACKS)
        yield Outside(provider.base, receiver.base)


def connect(provider: str) -> payments.HttpProvider:
    """The provider as payments see it."""
    return payments.HttpProvider(provider, token=TOKEN, callback_secret=SECRET)


def introduce(db: Database, folder: Path, partner: str) -> None:
    """Make the partner's endpoint, or tell it where the partner is now; and tell the partner the secret."""
    with contextlib.suppress(Conflict):  # It is there already.
        Keys.create(key_file(folder))
    keys = Keys.open(key_file(folder))
    endpoint = db.run(_endpoint, f"{partner}/{PARTNER}/ok", keys.newest)
    tell(partner, PARTNER, keys.secrets_of(endpoint, now_ms=0)[0])


def key_file(folder: Path) -> Path:
    """What webhooks are signed with."""
    return folder / "webhooks.key"


def _endpoint(tx: Tx, url: str, key_id: str) -> Endpoint:
    for known in webhooks.list_endpoints(tx).items:
        if known.types == ("order.*",):
            return webhooks.update(tx, known.id, url=url)
    return webhooks.create(tx, url, key_id=key_id, types=("order.*",))


class Deliveries:
    """A dispatcher of webhooks in a thread of its own: the server's loop has requests to answer."""

    def __init__(self, db: Database, folder: Path) -> None:
        self._dispatcher = webhooks.Dispatcher(
            db, Keys.open(key_file(folder)), policy=_LOOPBACK, lease_ms=LEASE_MS, drain_ms=DRAIN_MS
        )
        self._thread = threading.Thread(target=self._run, name="boxoffice-webhooks", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end = asyncio.Event()
        self._started = threading.Event()
        self._failed: BaseException | None = None

    def __enter__(self) -> Self:
        """Start; raises what starting raised."""
        self._thread.start()
        self._started.wait()
        if self._loop is None and self._failed is not None:
            raise self._failed
        return self

    def __exit__(self, *_: object) -> None:
        """Drain and stop."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # It has ended by itself.
                self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(timeout=2 * DRAIN_MS / 1_000)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._failed = error
            raise
        finally:
            self._started.set()

    async def _serve(self) -> None:
        async with self._dispatcher:
            self._loop = asyncio.get_running_loop()
            self._started.set()
            await self._end.wait()
