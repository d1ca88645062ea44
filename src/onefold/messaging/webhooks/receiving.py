"""The receiving end: whose message it is, and what it asks for, done once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from onefold.core.errors import Invalid
from onefold.engine.tx import Tx, operation
from onefold.messaging import idempotency
from onefold.messaging.idempotency import Answer
from onefold.messaging.webhooks.signing import TOLERANCE_MS_DEFAULT, verify

SENDER_LENGTH_MAX = 100
RECEIVED_BYTES_MAX = 1 << 20  # Of other people's messages; ours are smaller.


@operation
def receive(
    tx: Tx,
    body: bytes,
    headers: Mapping[str, str],
    handle: Callable[[Any], object],
    *,
    sender: str,
    secrets: Sequence[str],
    tolerance_ms: int = TOLERANCE_MS_DEFAULT,
) -> Answer[Any]:
    """Verify a message, and handle it unless it was handled before; answer what was answered then.

    All that `handle` writes commits with the memory of the message's id, or nothing does. Of two that
    arrive at once one is handled. Answer 2xx to the sender after the commit; after an error it sends again.

    Args:
        tx: everything that `handle` does belongs in it.
        body: as it arrived, byte for byte, at most 1 MiB.
        headers: of the request; capitals do not count.
        handle: called with the body, read as JSON, when the id is new; its answer has a JSON form.
        sender: who sends with these secrets, in your words, so that two senders' ids cannot meet; 1 to 100
            characters.
        secrets: "whsec_...", 1 to 20: two while they are being rotated.
        tolerance_ms: how far the sender's clock may be from ours, to either side; 1 to 86,400,000.

    Raises:
        Denied: code "signature" or "timestamp": it is none of theirs. Answer 400 or 401.
        Invalid: an argument is out of range, or what was signed is no JSON. Nothing was written.
    """
    if not 1 <= len(sender) <= SENDER_LENGTH_MAX or len(body) > RECEIVED_BYTES_MAX:
        raise Invalid("sender or body is out of range.", sender=sender[:SENDER_LENGTH_MAX], body_bytes=len(body))
    message_id = verify(body, headers, secrets=secrets, tolerance_ms=tolerance_ms)
    try:
        payload = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Invalid("The body is no JSON.", code="json", why=str(error)) from error
    return idempotency.once(tx, message_id, lambda: handle(payload), scope=f"webhooks/{sender}", request=None)
