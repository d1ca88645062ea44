"""A receiver of webhooks to test against: a process of its own that shares no code with the sender.

It verifies with the `standardwebhooks` library, and writes down what it took before it says so.
"""

from __future__ import annotations

import http.client
from pathlib import Path
from typing import Any

import msgspec

from onefold.testing.listening import Listening

PROGRAM = Path(__file__).with_name("__main__.py")  # Run as a file: nothing of Onefold is imported with it.
CALL_S = 20.0


class Delivery(msgspec.Struct, frozen=True):
    """A request that came, as the receiver wrote it down; `id` and `body` are None when the signature was wrong."""

    name: str
    id: str | None
    body: Any


class Receiver(Listening):
    """Starts the process, and ends it at the end of the block.

        with Receiver(folder) as receiver:
            endpoint = db.run(webhooks.create, receiver.url("shop"), key_id=keys.newest)
            tell(receiver.base, "shop", keys.secrets_of(endpoint, now_ms=0)[0])

    Args:
        folder: where it writes down what came; the next one in the same folder goes on with it. None keeps
            it in memory only.
    """

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__(str(PROGRAM), *([] if folder is None else ["--file", str(_file_in(folder))]))

    def url(self, name: str, mode: str = "ok") -> str:
        """An endpoint; what the modes do stands in the program."""
        return f"{self.base}/{name}/{mode}"

    def seen(self, name: str) -> dict[str, Any]:
        """Which ids came, how often, how many were not rightly signed, the last one, and how many came at once."""
        found: dict[str, Any] = msgspec.json.decode(_call(self.base, "GET", f"/seen/{name}", None))
        return found


def tell(base: str, name: str, secret: str) -> None:
    """Tell the receiver at `base` what the requests for `name` are signed with."""
    _call(base, "PUT", f"/secret/{name}", secret.encode())


def deliveries(folder: Path) -> list[Delivery]:
    """All that the receiver of the folder wrote down, in the order in which it came."""
    file = _file_in(folder)
    lines = file.read_bytes().splitlines() if file.exists() else []
    return [msgspec.json.decode(line, type=Delivery) for line in lines]


def _file_in(folder: Path) -> Path:
    return folder / "received.jsonl"


def _call(base: str, verb: str, path: str, body: bytes | None) -> bytes:
    connection = http.client.HTTPConnection(base.removeprefix("http://"), timeout=CALL_S)
    try:
        connection.request(verb, path, body)
        answer = connection.getresponse()
        told = answer.read()
    finally:
        connection.close()
    if not 200 <= answer.status < 300:
        raise RuntimeError(f"The receiver answered {answer.status} to {verb} {path}.")
    return told
