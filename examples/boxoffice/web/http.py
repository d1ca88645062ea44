"""HTTP as the shop reads and answers it: bounded bodies, who asks, errors for programs and people."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import parse_qs, urlsplit

import msgspec
from examples.boxoffice.visitors import Signer
from starlette.requests import Request
from starlette.responses import Response

from onefold import Denied, Invalid, OnefoldError, Retry
from onefold.server.problems import KINDS, Refused, answer_to

if TYPE_CHECKING:
    from examples.boxoffice.web.live import EventStream

_log = logging.getLogger("onefold.boxoffice")

BODY_BYTES_MAX = 16_384
FIELDS_MAX = 20
KEY_LENGTH_MAX = 200
COOKIE = "visitor"
BASKET = "basket"
COOKIE_S = 90 * 86_400

T = TypeVar("T")
Endpoint = Callable[[Request], Awaitable["Response | EventStream"]]
Frame = Callable[[Request, str, str, int], Awaitable[Response]]

_encode = msgspec.json.Encoder().encode


class Caller:
    """Who asks: by bearer token, by cookie, or a new visitor who gets a cookie with the answer."""

    def __init__(self, request: Request, signer: Signer) -> None:
        self._signer = signer
        self.new = False
        self.by_cookie = False
        bearer = request.headers.get("authorization", "")
        if bearer:
            found = signer.visitor(bearer.removeprefix("Bearer "))
            if found is None or not bearer.startswith("Bearer "):
                raise Refused(401, "token", "The token is not one of ours.")
            self.visitor = found
            return
        self.by_cookie = True
        known = signer.visitor(request.cookies.get(COOKIE, ""))
        self.new = known is None
        self.visitor = known or signer.new_visitor()

    @property
    def form_token(self) -> str:
        """For the forms of the page that is sent."""
        return self._signer.form_token(self.visitor)

    def remember(self, response: Response) -> None:
        """Give a new visitor the cookie."""
        if self.new:
            response.set_cookie(
                COOKIE, self._signer.token(self.visitor), max_age=COOKIE_S, httponly=True, samesite="lax"
            )

    def check_form(self, request: Request, form: dict[str, str]) -> None:
        """Denied unless the form is one of our pages', posted from there."""
        origin = request.headers.get("origin")
        site = request.headers.get("sec-fetch-site", "same-origin")
        own = origin is None or urlsplit(origin).netloc == request.headers.get("host")
        known = hmac.compare_digest(form.get("form", "").encode(), self.form_token.encode())
        if not own or site not in {"same-origin", "none"} or not known:
            raise Denied("The form is not from this shop, or too old; load the page again.", code="form")


async def body_of(request: Request) -> bytes:
    """The body, up to `BODY_BYTES_MAX`."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > BODY_BYTES_MAX:
            raise Refused(
                413, "too_large", "The body is too large.", headers=[(b"connection", b"close")],
                facts={"most_bytes": BODY_BYTES_MAX},
            )
        chunks.append(chunk)
    return b"".join(chunks)


async def form_of(request: Request) -> dict[str, str]:
    """The fields of a form; of one sent twice the last."""
    _check_type(request, "application/x-www-form-urlencoded")
    try:
        fields = parse_qs((await body_of(request)).decode("ascii"), max_num_fields=FIELDS_MAX, errors="strict")
    except ValueError:
        raise Refused(400, "form", "The form cannot be read.") from None
    return {name: values[-1] for name, values in fields.items()}


async def json_of(request: Request, kind: type[T]) -> T:
    """The JSON body as a `kind`."""
    _check_type(request, "application/json")
    try:
        return msgspec.json.decode(await body_of(request), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(400, "body", "The body does not fit.", facts={"where": str(error)[:200]}) from None


def key_of(request: Request) -> str | None:
    """The Idempotency-Key, or None."""
    keys = request.headers.getlist("idempotency-key")
    if not keys:
        return None
    key = keys[0].strip('"')
    if len(keys) > 1 or not (1 <= len(key) <= KEY_LENGTH_MAX and key.isascii() and key.isprintable()):
        raise Refused(400, "idempotency_key", "Idempotency-Key is one of 1 to 200 printable ASCII characters.")
    return key


def json_answer(value: object, status: int = 200) -> Response:
    """A JSON response that nobody keeps."""
    return Response(_encode(value), status, {"cache-control": "no-store"}, media_type="application/json")


def for_programs(endpoint: Endpoint) -> Endpoint:
    """Errors that leave the endpoint become problem documents."""

    async def answer(request: Request) -> Response | EventStream:
        try:
            return await endpoint(request)
        except Exception as error:
            return problem(request, error)

    return answer


def for_people(frame: Frame, endpoint: Endpoint) -> Endpoint:
    """Errors that leave the endpoint become pages."""

    async def answer(request: Request) -> Response | EventStream:
        try:
            return await endpoint(request)
        except Refused as error:
            return await frame(request, "That did not work", error.detail, error.status)
        except OnefoldError as error:
            if error.kind in {"error", "doomed"}:
                _log.exception("%s failed", request.url.path)
            status = KINDS.get(error.kind, (500, ""))[0]
            title = "Please try again in a moment" if isinstance(error, Retry) else "That did not work"
            return await frame(request, title, words_for(error), status)
        except Exception:
            _log.exception("%s failed", request.url.path)
            return await frame(request, "That is our fault", "Something failed that we did not expect.", 500)

    return answer


def problem(request: Request, error: BaseException) -> Response:
    """The problem document for an error."""
    status, headers, body = answer_to(error, f"{request.method} {getattr(request.scope.get('route'), 'path', '?')}")
    response = Response(body, status)
    response.raw_headers = [*headers, (b"content-length", str(len(body)).encode())]
    return response


_WORDS = {
    "seats_taken": "Somebody was faster: one of these seats is taken. Please choose others.",
    "no_seats": "There are not that many seats next to each other any more. Try fewer, or another section.",
    "too_many_holds": "You hold as many seats as you may. Buy them or give them back first.",
    "not_on_sale": "This performance is not on sale now.",
    "hold_gone": "These seats are not held any more: bought already, given back, or taken after your time was over.",
    "hold_lapsed": "Your five minutes were over, so the seats went back on sale.",
    "insufficient_funds": "There is not enough in your wallet. You can top it up on the orders page.",
    "intent_mismatch": "Another card is being asked for these seats. Look at your payment in a moment.",
    "intent_state": "This was paid at this very moment. Your order is on the orders page.",
    "tries_max": "Five cards were tried for these seats. Pay from your wallet, or give them back.",
    "in_flight": "This payment is being worked on. Look at your orders in a moment.",
}


def words_for(error: OnefoldError) -> str:
    """An error as one tells it to people."""
    return _WORDS.get(error.code) or str(error.text)


def whole_number(text: str, most: int) -> int:
    """The number that stands there; Invalid when it is none or larger than `most`."""
    if not (text.isascii() and text.isdigit() and len(text) <= 12) or int(text) > most:
        raise Invalid("That is no number that fits here.", most=most)
    return int(text)


def _check_type(request: Request, wanted: str) -> None:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != wanted:
        raise Refused(415, "content_type", "The body is not in a form that is read here.", facts={"wanted": wanted})
