"""Signatures of Standard Webhooks, scheme `v1`: HMAC-SHA256 over id, timestamp and body.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence

from onefold.core.clock import SYSTEM, Clock
from onefold.core.errors import Denied, Invalid

SECRET_PREFIX = "whsec_"  # noqa: S105  How secrets begin, not one of them.
SECRET_BYTES_MIN, SECRET_BYTES_MAX = 24, 64  # As the specification says.
TOLERANCE_MS_DEFAULT = 300_000
TOLERANCE_MS_MAX = 86_400_000
SIGNATURES_MAX = 20  # In one header; more are not looked at.
SECRETS_MAX = 20
_ID_LENGTH_MAX = 255
_HEADER_LENGTH_MAX = 8_190

_SECONDS = re.compile(r"[0-9]{1,12}", re.ASCII)


def sign(message_id: str, at_s: int, body: bytes, secrets: Sequence[str]) -> dict[str, str]:
    """The three headers that a request carries; one signature for each secret."""
    made = (base64.b64encode(_signature(secret, message_id, str(at_s), body)).decode() for secret in secrets)
    signatures = " ".join(f"v1,{one}" for one in made)
    return {"webhook-id": message_id, "webhook-timestamp": str(at_s), "webhook-signature": signatures}


def verify(
    body: bytes, headers: Mapping[str, str], *, secrets: Sequence[str],
    tolerance_ms: int = TOLERANCE_MS_DEFAULT, clock: Clock = SYSTEM,
) -> str:  # fmt: skip
    """The id of a message that came from somebody who has one of the secrets, moments ago.

    The same id may come again, and rightly: handle it once (`idempotency.once` with the id as key).

    Args:
        body: as it arrived, byte for byte; not parsed and written again.
        headers: of the request; capitals do not count.
        secrets: "whsec_...", 1 to 20: two while they are being rotated.
        tolerance_ms: how far the sender's clock may be from ours, to either side; 1 to 86,400,000.
        clock: says what the time is; tests have their own.

    Raises:
        Denied: code "signature", or "timestamp" when only the time is wrong. Answer 400 or 401.
        Invalid: a secret is none, or the tolerance is out of range.
    """
    if not 1 <= tolerance_ms <= TOLERANCE_MS_MAX or not 1 <= len(secrets) <= SECRETS_MAX:
        raise Invalid("tolerance_ms or the number of secrets is out of range.", tolerance_ms=tolerance_ms)
    found = {name.lower(): value for name, value in headers.items()}
    message_id, at, given = (found.get(f"webhook-{name}", "") for name in ("id", "timestamp", "signature"))
    in_range = 1 <= len(message_id) <= _ID_LENGTH_MAX and len(given) <= _HEADER_LENGTH_MAX
    if not (in_range and message_id.isascii() and _SECONDS.fullmatch(at)):
        raise Denied("The request is not signed.", code="signature")
    parts = given.split(" ")[:SIGNATURES_MAX]
    candidates = [part[3:].encode("ascii", "replace") for part in parts if part.startswith("v1,")]
    good = False
    for secret in secrets:  # All of them, so that the time taken does not tell which one it was.
        expected = base64.b64encode(_signature(secret, message_id, at, body))
        for candidate in candidates:
            good |= hmac.compare_digest(expected, candidate)
    if not good:
        raise Denied("The request is not signed with this secret.", code="signature")
    if abs(int(at) * 1_000 - clock.now_ms()) > tolerance_ms:
        raise Denied("The request was signed at another time.", code="timestamp")
    return message_id


def _signature(secret: str, message_id: str, at_s: str, body: bytes) -> bytes:
    return hmac.digest(_bytes_of(secret), b".".join((message_id.encode(), at_s.encode(), body)), hashlib.sha256)


def _bytes_of(secret: str) -> bytes:
    try:
        raw = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if not SECRET_BYTES_MIN <= len(raw) <= SECRET_BYTES_MAX:
        raise Invalid('A secret is "whsec_" and 24 to 64 bytes in base64.')
    return raw
