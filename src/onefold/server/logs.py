"""Logs to stderr: one line for people, or one JSON object for machines. Never a secret, never a body."""

from __future__ import annotations

import logging
import re
import secrets
import sys
from contextvars import ContextVar
from typing import Any, Literal

import msgspec

from onefold.core.errors import OnefoldError
from onefold.engine import told

Form = Literal["text", "json"]

TEXT_LENGTH_MAX = 32_768  # Of a message or a traceback; more is cut.
FACT_LENGTH_MAX = 500

#: The id of the request that is being answered; "" outside of one.
request_id: ContextVar[str] = ContextVar("onefold_request_id", default="")

# What our own calls add with `extra=`; nothing else of a record is written.
_EXTRA = ("error_id", "status", "outcome", "ms", "token", "worker", "event", "facts")
_SECRET_NAMES = re.compile(r"passw|secret|authorization|credential|api_?key|private_?key", re.IGNORECASE)
# What looks like a secret, whoever logged it: our tokens, headers, passwords in URLs and in key=value.
_SECRETS = re.compile(
    r"""(onefold_[0-9a-f]{8,32}_)[A-Za-z0-9_-]{8,}
      | (\b(?:bearer|basic)\s+)[A-Za-z0-9+/=._~-]{8,}
      | (://[^\s/:@]*:)[^\s/@]+(?=@)
      | (\b\w*(?:passw(?:or)?d|secret|api_?key|authorization)\w*["']?\s*[=:]\s*(?:bearer\s|basic\s)?)
        (?:"[^"]*"|'[^']*'|[^\s"'&,;)]+)""",
    re.IGNORECASE | re.VERBOSE,
)
# What a name in a line of text must not do: begin another line, or steer the terminal that shows it.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if code not in b"\t\n"}
_BREAKS = {0x0A: "\\n", 0x2028: "\\u2028", 0x2029: "\\u2029"}
_GIVEN_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_PROCESS = secrets.token_hex(6)
_requests = 0


def new_request_id(given: bytes | None) -> str:
    """The id of a request: what the client or a proxy calls it, when that is fit to be logged, else a new one."""
    global _requests  # noqa: PLW0603  On the loop's thread; a number told twice would be no harm.
    if given is not None and _GIVEN_ID.fullmatch(given):
        found = given.decode()
    else:
        _requests += 1
        found = f"{_PROCESS}-{_requests:x}"
    request_id.set(found)
    return found


def redacted(text: str) -> str:
    """The text without what looks like a secret; at most `TEXT_LENGTH_MAX` characters."""
    return _SECRETS.sub(lambda found: f"{next(filter(None, found.groups()), '')}***", text[:TEXT_LENGTH_MAX])


class JsonFormatter(logging.Formatter):
    """One object per line: at_ms, level, logger, message, request_id, what was added, the error, the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        fields: dict[str, Any] = {
            "at_ms": int(record.created * 1_000),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redacted(record.getMessage()).encode("utf-8", "replace").decode(),
        }
        if request := request_id.get():
            fields["request_id"] = request
        fields |= {name: _plain(name, getattr(record, name)) for name in _EXTRA if hasattr(record, name)}
        if record.exc_info:
            error = record.exc_info[1]
            if isinstance(error, OnefoldError):
                fields["error"] = {"code": error.code, "text": error.text, "facts": _plain("facts", error.facts)}
            fields["trace"] = redacted(self.formatException(record.exc_info)).encode("utf-8", "replace").decode()
        return msgspec.json.encode(fields).decode()


class TextFormatter(logging.Formatter):
    """A line for people, with what was added at its end."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text; only a traceback has lines of its own."""
        return redacted(super().format(record)).translate(_CONTROLS)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  The name is logging's.
        """The first line."""
        added = " ".join(
            f"{name}={_plain(name, getattr(record, name))}" for name in _EXTRA if getattr(record, name, "") != ""
        )
        line = super().formatMessage(record)
        return (f"{line} {added}" if added else line).translate(_BREAKS)


def configure(
    form: Form | None = None, *, access: bool = False, transactions: bool = False, level: int = logging.INFO
) -> None:
    """Send all logs to stderr.

    Args:
        form: None is text on a terminal and JSON elsewhere.
        access: one line for each request, with the path's template, not what the client sent.
        transactions: one line for each transaction of a request, and for each that failed in a background loop.
        level: of everything but those lines.
    """
    handler = logging.StreamHandler(sys.stderr)
    if (form or ("text" if sys.stderr.isatty() else "json")) == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(TextFormatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.getLogger("onefold.access").setLevel(logging.INFO if access else logging.CRITICAL)
    told.transactions.setLevel(logging.DEBUG if transactions else logging.WARNING)
    told.transactions.addFilter(_of_requests)
    # uvicorn tells the same as we do, in other words.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)


def _of_requests(record: logging.LogRecord) -> bool:
    """What a background loop does every second, without failing, would hide the rest."""
    return bool(request_id.get()) or getattr(record, "outcome", "") not in {told.COMMITTED, told.READ}


def _plain(name: str, value: Any) -> Any:
    """A value that JSON can hold and a log may: short, and no secret by its name or its looks."""
    if _SECRET_NAMES.search(name):
        return "***"
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, dict):
        return {str(key): _plain(str(key), inner) for key, inner in list(value.items())[:20]}
    text = value if isinstance(value, str) else repr(value)
    # A lone surrogate has no JSON form; the rest of the text is still worth telling.
    return redacted(text[:FACT_LENGTH_MAX]).encode("utf-8", "replace").decode()
