"""One request and its response, as both kinds of app have them: what is asked, stored, and said."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple, TypedDict

from onefold.core.errors import Conflict, Invalid, OnefoldError
from onefold.engine.database import Handle
from onefold.integrations.idempotent_routes.renewing import RUN_MS_DEFAULT, Renewals, log
from onefold.messaging.idempotency import LEASE_MS_DEFAULT, TTL_MS_DEFAULT, Answer, http
from onefold.server.problems import Refused, answer_to

REQUEST_BYTES_MAX = 1 << 20
WHERE = "idempotent route"

Keys = Literal["off", "optional", "required"]
Headers = list[tuple[str, str]]


def optional_on_post_and_patch(method: str, _path: str) -> Keys:
    """Which routes take a key unless told otherwise: the methods that are not idempotent by themselves."""
    return "optional" if method in {"POST", "PATCH"} else "off"


class Reply(NamedTuple):
    """A response that is ready."""

    status: int
    headers: Headers
    body: bytes


class Options(TypedDict, total=False):
    """What a middleware may be told, see `ASGI`; the defaults are those of `Rules`."""

    keys: Callable[[str, str], Keys]
    lease_ms: int
    run_ms_max: int
    ttl_ms: int
    request_bytes_max: int
    keep_headers: Iterable[str]


class Rules:
    """What a middleware was told; see `ASGI`."""

    def __init__(
        self, db: Handle, *, tenant: Callable[[Any], str | None],
        keys: Callable[[str, str], Keys] = optional_on_post_and_patch, lease_ms: int = LEASE_MS_DEFAULT,
        run_ms_max: int = RUN_MS_DEFAULT, ttl_ms: int = TTL_MS_DEFAULT, request_bytes_max: int = REQUEST_BYTES_MAX,
        keep_headers: Iterable[str] = (),
    ) -> None:
        http.check_times(lease_ms=lease_ms, ttl_ms=ttl_ms)
        if type(request_bytes_max) is not int or request_bytes_max < 1:
            raise Invalid("request_bytes_max is a whole number from 1 on.", code="range")
        more = frozenset(name.lower() for name in keep_headers)
        if wrong := sorted(more & http.UNKEPT_HEADERS):
            raise Invalid("A replay cannot repeat these headers.", code="header", headers=wrong)
        self.db = db
        self.request_bytes_max = request_bytes_max
        self.times = {"lease_ms": lease_ms, "ttl_ms": ttl_ms}
        self.keep = http.KEPT_HEADERS | more
        self.renewals = Renewals(db, lease_ms=lease_ms, run_ms_max=run_ms_max)
        self._tenant = tenant
        self._keys = keys

    def asked(self, request: Any, method: str, path: str, sent: list[bytes]) -> tuple[str, str] | None:
        """Key and scope of a request, or None when it goes to the app as it is.

        Args:
            request: what the framework's kind of app calls a request, for the program's `tenant`.
            method: of the request.
            path: as it was sent.
            sent: the values of its `Idempotency-Key` headers.

        Raises:
            Invalid: the key is missing where one is required, or malformed.
        """
        mode = self._keys(method, path)
        if mode == "off" or method == "HEAD":  # Its answer tells the length of a body that nobody has.
            return None
        key = http.key_of(sent)
        if key is None and mode == "optional":
            return None
        tenant = self._tenant(request)
        if tenant is None:
            return None  # Nobody that we know: the app refuses him, and leaves no row of ours behind.
        if key is None:
            raise Invalid("This route demands an Idempotency-Key.", code="idempotency_key_missing")
        return key, http.scope_of(method, path, tenant)

    def head(self, reply: Reply) -> http.Head:
        """What is stored of a final response; Invalid when it cannot be."""
        return http.head_of(reply.status, reply.headers, reply.body, keep=self.keep)


def replay(answer: Answer[http.Head]) -> Reply:
    """A stored response."""
    return Reply(answer.value.status, [*answer.value.headers, ("idempotent-replayed", "true")], answer.body)


def problem(error: Exception) -> Reply:
    """A problem document instead of the app's response."""
    status, headers, body = answer_to(error, WHERE, docs=False)
    found = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
    if isinstance(error, OnefoldError) and error.code == "lost":
        found.append(("retry-after", "1"))  # Whoever took over has the answer, or soon.
    return Reply(status, found, body)


def unstorable(error: Invalid) -> Reply:
    """What is said and stored instead of a response that no replay could give.

    Its effect is done and must not be done again, so this is final, though it blames the server.
    """
    log.error("the response of an idempotent route was withheld: %s", error)
    return problem(Refused(500, error.code, f"{error.text} What it did was done, once."))


def note_unreleased(error: OnefoldError) -> None:
    """Log why a key could not be given back, unless somebody else has it by now."""
    if not isinstance(error, Conflict):
        log.warning("a key was not given back, its lease has to lapse: %s", error)


def too_large(most: int) -> Refused:
    """The answer to a request that is larger than allowed."""
    return Refused(413, "body_too_large", "The body is too large.", facts={"most": most})


def sendable(reply: Reply) -> Headers:
    """The headers of a response whose length is known by now."""
    headers = [(n, v) for n, v in reply.headers if n.lower() not in {"content-length", "transfer-encoding"}]
    if reply.status not in {204, 304}:
        headers.append(("content-length", str(len(reply.body))))
    return headers
