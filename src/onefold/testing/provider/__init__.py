"""A payment provider to test against: a process of its own, with a record of its own, and faults to switch on."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import Any, Self

import msgspec

from onefold.products.payments import HttpProvider, HttpTransport
from onefold.testing.listening import Listening

TOKEN = "sk_test_fake"  # noqa: S105  It guards play money on loopback.
SECRET = b"whsec_test_fake_provider"
DECLINED = "tok_declined"  # The card that is declined, faults or not.
CALL_S = 10.0


class FakeProvider(Listening):
    """Starts the process, and ends it at the end of the block.

        with FakeProvider(folder) as fake, fake.connect() as provider:
            fake.switch(unknown=0.2, duplicate=0.5, late=0.3)

    Args:
        folder: where its record is; the next one in the same folder goes on with it.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__("-m", "onefold.testing.provider", "--file", str(folder / "provider.db"))
        self._transport: HttpTransport | None = None

    def __enter__(self) -> Self:
        """Start; returns once it listens."""
        super().__enter__()
        self._transport = HttpTransport(self.base)
        return self

    def __exit__(self, *error: object) -> None:
        """End it."""
        if self._transport is not None:
            self._transport.close()
        super().__exit__(*error)

    @contextlib.contextmanager
    def connect(self) -> Generator[HttpProvider]:
        """The provider as payments see it."""
        provider = HttpProvider(self.base, token=TOKEN, callback_secret=SECRET)
        try:
            yield provider
        finally:
            provider.close()

    def switch(self, **faults: float) -> None:
        """Switch these faults on and all others off; see `Faults`."""
        self.call("PUT", "/faults", faults)

    def tell(self, url: str) -> None:
        """Send callbacks there."""
        self.call("PUT", "/callbacks", {"url": url})

    def waiting(self) -> int:
        """How many callbacks and late successes are still to come."""
        return int(self.call("GET", "/state")["waiting"])

    def totals(self) -> dict[str, int]:
        """By its journal: what was taken less what went back, by currency."""
        found: dict[str, int] = self.call("GET", "/totals")
        return found

    def dispute(self, key: str, minor: int, *, end: str = "") -> None:
        """Have a buyer's bank open a dispute, or `end` it: "won" or "lost"."""
        self.call("POST", f"/charges/{key}/dispute" + (f"/{end}" if end else ""), {"amount_minor": minor})

    def call(self, verb: str, path: str, value: object = None) -> Any:
        """One request as its operator; the answer."""
        assert self._transport is not None, "it is not started"
        body = None if value is None else msgspec.json.encode(value)
        status, answer = self._transport.request(
            verb, path, body, {"Authorization": f"Bearer {TOKEN}"}, timeout_s=CALL_S
        )
        if status != 200:
            raise RuntimeError(f"The fake provider answered {status} to {verb} {path}.")
        return msgspec.json.decode(answer)
