"""Logs to stderr: one line for people, or one JSON object for machines. Never a token, never a body."""

from __future__ import annotations

import logging
import sys
from typing import Any, Literal

import msgspec

Form = Literal["text", "json"]

# What our own calls add with `extra=`; nothing else of a record is written.
_EXTRA = ("error_id", "status", "ms", "token", "worker", "event")


class JsonFormatter(logging.Formatter):
    """One object per line: at, level, logger, message, what was added, and the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        fields: dict[str, Any] = {
            "at_ms": int(record.created * 1_000),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields |= {name: getattr(record, name) for name in _EXTRA if hasattr(record, name)}
        if record.exc_info:
            fields["trace"] = self.formatException(record.exc_info)
        return msgspec.json.encode(fields).decode()


class TextFormatter(logging.Formatter):
    """A line for people, with what was added at its end."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        line = super().format(record)
        added = " ".join(f"{name}={getattr(record, name)}" for name in _EXTRA if getattr(record, name, "") != "")
        head, mark, trace = line.partition("\n")
        return f"{head} {added}{mark}{trace}" if added else line


def configure(form: Form | None = None, *, access: bool = False, level: int = logging.INFO) -> None:
    """Send all logs to stderr.

    Args:
        form: None is text on a terminal and JSON elsewhere.
        access: one line for each request, with the path's template, not what the client sent.
        level: of everything but the access lines.
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
    # uvicorn tells the same as we do, in other words.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
