"""Errors as HTTP says them: one map from kinds to statuses, and RFC 9457 problem documents."""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Mapping
from typing import Any

import msgspec

from onefold.core.errors import OnefoldError, Retry

_log = logging.getLogger("onefold.http")

Headers = list[tuple[bytes, bytes]]

#: By kind: status and title. "unknown" is 504: the request may have taken effect.
KINDS: dict[str, tuple[int, str]] = {
    "invalid": (400, "The request is not valid."),
    "denied": (403, "The token does not carry the right."),
    "not_found": (404, "There is no such thing."),
    "conflict": (409, "The present state does not allow it."),
    "retry": (503, "Not now; the same request may succeed later."),
    "unknown": (504, "Whether it took effect cannot be told; query before repeating it."),
    "doomed": (500, "The server failed."),
    "error": (500, "The server failed."),
}
#: By code, where a status says more than the kind's.
CODES: dict[str, int] = {"closed": 503, "idempotency_mismatch": 422, "rate_limited": 429}

FACT_LENGTH_MAX = 500
FACTS_MAX = 20
# Facts for whoever runs the server: file names, driver messages, Python names.
_FACTS_HIDDEN = frozenset({
    "why", "path", "folder", "url", "holder", "scope", "fn", "inner", "outer", "first", "second",
})  # fmt: skip

_encode = msgspec.json.Encoder().encode


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """An RFC 9457 problem document.

    Attributes:
        type: a reference to the description of the kind, relative to the root of the server.
        title: the same for all problems of the kind.
        status: the HTTP status.
        code: stable; what programs compare.
        detail: what was wrong this time, for people.
        facts: what varies: limits, names, counts.
        error_id: stands in the server's log beside the cause, for status 500.
    """

    type: str
    title: str
    status: int
    code: str
    detail: str = ""
    facts: dict[str, Any] = {}
    error_id: str = ""


class Refused(Exception):  # noqa: N818  Not an error of ours: the answer to one request.
    """HTTP itself refuses the request, before any function over `tx` is asked."""

    def __init__(
        self, status: int, code: str, detail: str, *, headers: Headers | None = None,
        facts: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers: Headers = headers or []
        self.facts = facts or {}


_TITLES = {
    400: KINDS["invalid"][1],
    401: "Who are you?",
    403: KINDS["denied"][1],
    404: KINDS["not_found"][1],
    405: "The path knows other methods.",
    408: "The request came too slowly.",
    413: "The request is too large.",
    415: "The body is not in a form that the server reads.",
    422: "The key was used for another request.",
    429: "Too many requests.",
    431: "The head of the request is too large.",
    500: KINDS["error"][1],
    503: KINDS["retry"][1],
}


def answer_to(error: BaseException, where: str, *, docs: bool = True) -> tuple[int, Headers, bytes]:
    """Status, headers and body for an error; one that nobody expected is logged under an id.

    Args:
        error: what left the function or the server's own checks.
        where: method and path template, for the log; never what the client sent.
        docs: whether this server's page of problems stands behind the same host; other apps have none.
    """
    if isinstance(error, Refused):
        problem = Problem(
            type=_type(error.code, docs=docs), title=_TITLES[error.status], status=error.status, code=error.code,
            detail=error.detail, facts=error.facts,
        )  # fmt: skip
        return error.status, [*_PROBLEM, *error.headers], _encode(problem)
    if isinstance(error, OnefoldError) and error.kind not in {"doomed", "error"}:
        return _ours(error, where, docs=docs)
    error_id = secrets.token_hex(8)
    _log.error("%s failed", where, exc_info=error, extra={"error_id": error_id})
    problem = Problem(
        type=_type("error", docs=docs), title=KINDS["error"][1], status=500, code="error", error_id=error_id,
        detail="An error that nobody expected; nothing was written.",
    )  # fmt: skip
    return 500, list(_PROBLEM), _encode(problem)


_PROBLEM: Headers = [
    (b"content-type", b"application/problem+json"),
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
]


def _ours(error: OnefoldError, where: str, *, docs: bool) -> tuple[int, Headers, bytes]:
    status, title = KINDS[error.kind]
    status = CODES.get(error.code, status)
    headers = list(_PROBLEM)
    after_ms = error.retry_after_ms if isinstance(error, Retry) else error.facts.get("retry_after_ms")
    if after_ms is not None:
        headers.append((b"retry-after", str(max(1, math.ceil(after_ms / 1_000))).encode()))
    if status >= 500 and not isinstance(error, Retry):
        _log.error("%s: %s", where, error)
    problem = Problem(
        type=_type(error.kind, docs=docs), title=title if status not in CODES.values() else _TITLES[status],
        status=status, code=error.code, detail=error.text, facts=safe_facts(error.facts),
    )  # fmt: skip
    return status, headers, _encode(problem)


def _type(kind: str, *, docs: bool) -> str:
    return f"/docs#problem-{kind}" if docs and kind in KINDS else "about:blank"


def safe_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts that may leave the server: short, plain, and not about its insides."""
    found: dict[str, Any] = {}
    for name, value in list(facts.items())[:FACTS_MAX]:
        if name in _FACTS_HIDDEN:
            continue
        if value is None or isinstance(value, (bool, int, float)):
            found[name] = value
        else:
            text = value if isinstance(value, str) else repr(value)
            # A lone surrogate has no JSON form; the rest of the text is still worth telling.
            found[name] = text[:FACT_LENGTH_MAX].encode("utf-8", "replace").decode()
    return found
