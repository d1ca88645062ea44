"""A provider over HTTP: the protocol of `onefold.testing.provider`, and a pattern for real ones.

    POST /charges                 {key, amount_minor, currency, method, capture, reference}
    POST /charges/KEY/capture     {amount_minor}
    POST /charges/KEY/cancel
    POST /charges/KEY/refunds     {id, amount_minor}
    GET  /charges/KEY             404: never heard of
    GET  /charges?after=KEY

Each answer is the charge. Every POST carries its key as Idempotency-Key. Callbacks are signed as Standard
Webhooks have it (v1): HMAC-SHA256 over id, time and body.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import msgspec

from onefold.core.codec import decoder_of
from onefold.core.errors import Conflict, Denied, Invalid
from onefold.core.money import Money
from onefold.products.payments.provider import Callback, Charge, NoAnswer
from onefold.products.payments.transport import HttpTransport, Transport

CALLBACK_AGE_MS_MAX = 300_000
CALLBACK_BYTES_MAX = 262_144

_charge = decoder_of(Charge)
_page = decoder_of(list[Charge])


class HttpProvider:
    """Speaks to one provider; safe for any number of threads.

    Args:
        base: where it is, "https://api.provider.example".
        token: shown with every request.
        callback_secret: what the provider signs its callbacks with, at least 16 bytes.
        transport: how requests leave; by default over connections that are kept.
    """

    def __init__(self, base: str, *, token: str, callback_secret: bytes, transport: Transport | None = None) -> None:
        if len(callback_secret) < 16:
            raise Invalid("A callback secret has at least 16 bytes.", code="secret", length=len(callback_secret))
        self._transport: Transport = transport or HttpTransport(base)
        self._token = token
        self._secret = callback_secret

    def authorise(
        self, key: str, amount: Money, *, method: str, capture: bool, reference: str, timeout_s: float
    ) -> Charge:
        """See `Provider`."""
        asked = {
            "key": key, "amount_minor": amount.minor, "currency": amount.currency, "method": method,
            "capture": capture, "reference": reference,
        }  # fmt: skip
        return self._post("/charges", key, asked, timeout_s)

    def capture(self, key: str, amount: Money, *, timeout_s: float) -> Charge:
        """See `Provider`."""
        return self._post(f"/charges/{quote(key)}/capture", f"{key}/capture", {"amount_minor": amount.minor}, timeout_s)

    def cancel(self, key: str, *, timeout_s: float) -> Charge:
        """See `Provider`."""
        return self._post(f"/charges/{quote(key)}/cancel", f"{key}/cancel", {}, timeout_s)

    def refund(self, key: str, refund_id: str, amount: Money, *, timeout_s: float) -> Charge:
        """See `Provider`."""
        asked = {"id": refund_id, "amount_minor": amount.minor}
        return self._post(f"/charges/{quote(key)}/refunds", refund_id, asked, timeout_s)

    def query(self, key: str, *, timeout_s: float) -> Charge | None:
        """See `Provider`."""
        status, body = self._request("GET", f"/charges/{quote(key)}", None, {}, timeout_s)
        return None if status == 404 else _decoded(_charge, status, body)

    def charges(self, *, after: str | None, timeout_s: float) -> list[Charge]:
        """See `Provider`."""
        status, body = self._request("GET", f"/charges?after={quote(after or '')}", None, {}, timeout_s)
        return _decoded(_page, status, body)

    def callback(self, headers: Mapping[str, str], body: bytes, *, now_ms: int) -> Callback:
        """See `Provider`."""
        event_id, stamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
        wanted = signature(self._secret, event_id, stamp, body)
        shown = headers.get("webhook-signature", "").split()[:10]
        if not any(hmac.compare_digest(one.encode(), wanted.encode()) for one in shown):
            raise Denied("The callback is not signed by the provider.", code="signature")
        # The stamp is signed: whoever made it knew the secret.
        if not (stamp.isdecimal() and len(stamp) <= 12 and abs(int(stamp) * 1_000 - now_ms) <= CALLBACK_AGE_MS_MAX):
            raise Denied("The callback was signed too long ago.", code="signature_age")
        if len(body) > CALLBACK_BYTES_MAX:
            raise Invalid("The callback is too large.", code="callback", bytes=len(body), most=CALLBACK_BYTES_MAX)
        try:
            return Callback(event_id, _charge.decode(body))
        except msgspec.DecodeError as error:
            raise Invalid("The callback is no charge.", code="callback", why=str(error)) from None

    def close(self) -> None:
        """Close the connections that are kept."""
        self._transport.close()

    def _post(self, path: str, key: str, asked: dict[str, Any], timeout_s: float) -> Charge:
        body = msgspec.json.encode(asked)
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        status, answer = self._request("POST", path, body, headers, timeout_s)
        return _decoded(_charge, status, answer)

    def _request(
        self, verb: str, path: str, body: bytes | None, headers: dict[str, str], timeout_s: float
    ) -> tuple[int, bytes]:
        headers["Authorization"] = f"Bearer {self._token}"
        status, answer = self._transport.request(verb, path, body, headers, timeout_s=timeout_s)
        if status >= 500 or status in {408, 409, 425, 429}:
            raise NoAnswer(str(status))  # It may have been done; or be asked for right now, by ourselves.
        return status, answer


def signature(secret: bytes, event_id: str, stamp: str, body: bytes) -> str:
    """The v1 signature of Standard Webhooks; `stamp` is seconds since 1970."""
    signed = hmac.new(secret, f"{event_id}.{stamp}.".encode() + body, hashlib.sha256).digest()
    return "v1," + base64.b64encode(signed).decode()


def _decoded(decoder: msgspec.json.Decoder[Any], status: int, body: bytes) -> Any:
    if status != 200:
        raise Conflict("The provider refuses the request.", code="provider_refused", status=status)
    try:
        return decoder.decode(body)
    except msgspec.DecodeError as error:  # Something answered, but not what was asked.
        raise NoAnswer(str(error)) from error
