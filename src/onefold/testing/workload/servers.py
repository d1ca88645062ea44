"""The servers of an installation as a client over HTTP sees them: asked, one after the other, until one answers."""

from __future__ import annotations

import http.client
import itertools
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from onefold.core.errors import Conflict, Denied, Invalid, NotFound, OnefoldError, Retry, Unknown

TRY_S_MAX = 1.0  # Then the next server is asked: this one may sleep.
PAUSE_S = 0.02  # Between two tries.
_REFUSALS: dict[int, type[OnefoldError]] = {
    400: Invalid, 403: Denied, 404: NotFound, 409: Conflict, 422: Invalid,
}  # fmt: skip
_NOT_DONE, _PERHAPS_DONE = (429, 503), (504,)


class Servers:
    """Asks them over one connection at a time, kept as long as it lives.

    Args:
        doors: their ports on loopback.
        token: of all that is asked.
        first: which of them is asked first.
    """

    def __init__(self, doors: Sequence[int], token: str, *, first: int = 0) -> None:
        self._doors = itertools.cycle([*doors[first % len(doors) :], *doors[: first % len(doors)]])
        self._headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        self._connection: http.client.HTTPConnection | None = None

    def ask(self, method: str, path: str, value: object, *, key: str, deadline_ms: int) -> Any:
        """What a server answers, as JSON; see `Client.ask`."""
        give_up = time.monotonic() + deadline_ms / 1_000
        body = None if value is None else msgspec.json.encode(value)
        headers = {**self._headers, "idempotency-key": key} if key else self._headers
        again = bool(key) or method == "GET"
        perhaps = False
        while (left_s := give_up - time.monotonic()) > 0:
            status, answer, sent = self._once(method, path, body, headers, min(left_s, TRY_S_MAX))
            if status and status < 300:
                return answer
            code = answer.get("code", "") if isinstance(answer, dict) else ""
            busy = bool(key) and code == "in_flight"  # With our own try before, as far as we can know.
            if status in _REFUSALS and not busy:
                if perhaps and method != "GET":
                    break  # An earlier try may run yet, and find another state than this one did.
                raise _REFUSALS[status]("The server refused it.", code=code, status=status, answer=answer)
            if status not in {0, *_NOT_DONE, *_PERHAPS_DONE} and not busy:
                raise RuntimeError(f"{method} {path}: {status} {answer}")
            perhaps |= status in _PERHAPS_DONE or (status == 0 and sent)
            if perhaps and not again:
                break
            time.sleep(min(PAUSE_S, max(0.0, give_up - time.monotonic())))
        if perhaps and method != "GET":
            raise Unknown("No server said what became of it.", code="no_answer")
        raise Retry("No server took it.", code="no_answer")

    def close(self) -> None:
        """End the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _once(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str], seconds: float
    ) -> tuple[int, Any, bool]:
        """Status (0 when none came), answer, and whether it may have been heard."""
        sent = False
        try:
            connection = self._connection
            if connection is None:
                connection = http.client.HTTPConnection("127.0.0.1", next(self._doors), timeout=seconds)
                self._connection = connection
                connection.connect()
            connection.sock.settimeout(seconds)
            sent = True
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != 204 and answer.getheader("content-length") is None and not answer.chunked:
                raise http.client.IncompleteRead(text)  # Cut in its head, which the library takes for the end of it.
            if answer.will_close or answer.status in _NOT_DONE:
                self.close()
            return answer.status, msgspec.json.decode(text) if text else None, True
        except (OSError, http.client.HTTPException, msgspec.DecodeError):
            self.close()
            return 0, None, sent
