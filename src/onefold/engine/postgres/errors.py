"""What PostgreSQL and the network say, in our words. No driver error leaves the engine."""

from __future__ import annotations

import psycopg
from psycopg import pq

from onefold.core.errors import Conflict, Invalid, OnefoldError, Retry

_FIELD = pq.DiagnosticField
POOLER = "pooler"
_STALE_PLAN = "RevalidateCachedQuery"  # What PostgreSQL calls it; the text of its error is translated.


class Again(Retry):
    """The transaction met another one; the same function may succeed at once."""


class Lost(Retry):
    """The connection broke. Whether a COMMIT was under way is known to the attempt."""


class Overdue(Retry):
    """The deadline came while the server worked; the statement was cancelled."""


FATAL = (Again, Lost, Overdue)  # After these no savepoint can save the transaction.


def lost(why: str = "") -> Lost:
    """The connection is gone."""
    return Lost("The connection to PostgreSQL was lost.", code="unavailable", retry_after_ms=100, why=why)


def overdue() -> Overdue:
    """The deadline is over."""
    return Overdue("The deadline passed; the call was undone.", code="deadline")


def translated(result: pq.abc.PGresult, *, cancelled: bool) -> OnefoldError:
    """The error that a result carries.

    Args:
        result: one with the status FATAL_ERROR.
        cancelled: we asked the server to cancel, because the deadline had come.
    """
    return _meaning(
        sqlstate(result), _field(result, _FIELD.SEVERITY_NONLOCALIZED),
        why=_field(result, _FIELD.MESSAGE_PRIMARY), constraint=_field(result, _FIELD.CONSTRAINT_NAME),
        source=_field(result, _FIELD.SOURCE_FUNCTION), cancelled=cancelled,
    )  # fmt: skip


def sqlstate(result: pq.abc.PGresult) -> str:
    """The five letters of an error, such as "23505"."""
    return _field(result, _FIELD.SQLSTATE)


def from_psycopg(error: BaseException) -> OnefoldError:
    """The same for an exception of psycopg's, as foreign connections raise them."""
    if not isinstance(error, psycopg.Error):
        return Invalid("The driver refuses the statement.", code="statement", why=type(error).__name__)
    diagnosis = error.diag
    if error.sqlstate is None:
        if isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)):
            return lost(first_line(error))
        return Invalid("The SQL text and its parameters do not fit.", code="statement", why=str(error))
    return _meaning(
        error.sqlstate, diagnosis.severity_nonlocalized or "", why=diagnosis.message_primary or "",
        constraint=diagnosis.constraint_name or "", source=diagnosis.source_function or "", cancelled=False,
    )  # fmt: skip


def _meaning(state: str, severity: str, *, why: str, constraint: str, source: str, cancelled: bool) -> OnefoldError:
    if severity in {"FATAL", "PANIC"} or state.startswith("08") or state == "40003":  # It may have been done.
        return lost(f"{state} {why}")
    if (ours := _transient(state, why, source=source, cancelled=cancelled)) is not None:
        return ours
    if state in {"23505", "23P01"}:
        return Conflict("A row with this key exists already.", code="unique", constraint=constraint, why=why)
    if state in {"23503", "23001"}:
        return Conflict(
            "A row that this one refers to is missing, or still referred to.", code="reference",
            constraint=constraint, why=why,
        )  # fmt: skip
    if state.startswith(("22", "23")):
        return Invalid("A constraint of the table refuses the row.", code="check", constraint=constraint, why=why)
    if state in {"26000", "42P05"}:
        return Invalid(
            "Prepared statements come and go on this connection, as behind a pooler in transaction mode."
            " Connect to PostgreSQL itself, or to a pooler in session mode.", code=POOLER, state=state, why=why,
        )  # fmt: skip
    if state == "25006":
        return Invalid("A reader cannot write.", code="read_only", why=why)
    return Invalid("PostgreSQL refuses the statement.", code="statement", state=state, why=why)


def refused(message: str) -> OnefoldError:
    """Why a connection could not be made; the password is in none of PostgreSQL's messages."""
    text = " ".join(message.split())
    # The server's SQLSTATE is not handed out for failed connections; its wording is.
    if any(word in text for word in ("authentication failed", "no password supplied", "no pg_hba.conf entry")):
        return Invalid("PostgreSQL refuses this user.", code="refused", why=text)
    if any(word in text for word in ("certificate", "private key", "does not support SSL")):
        return Invalid("PostgreSQL and we do not agree on TLS.", code="refused", why=text)
    if "for connection option" in text or "invalid " in text.split('"')[0]:
        return Invalid("This is not a PostgreSQL URL.", code="url")
    if 'database "' in text and "does not exist" in text:
        return Invalid("The database does not exist.", code="refused", why=text)
    if 'role "' in text and "does not exist" in text:
        return Invalid("The user does not exist.", code="refused", why=text)
    return Retry("PostgreSQL cannot be reached.", code="unavailable", retry_after_ms=200, why=text)


def first_line(error: Exception) -> str:
    """What a driver's error says; the rest are hints and places."""
    return str(error).partition("\n")[0]


def _transient(state: str, why: str, *, source: str, cancelled: bool) -> OnefoldError | None:
    if state in {"40001", "40P01"}:
        return Again("The transaction conflicts with others.", code="conflict", why=why)
    if state == "0A000" and source == _STALE_PLAN:
        return lost(why)  # A migration ran: a fresh connection has fresh plans.
    if state == "57014":
        if cancelled:
            return overdue()
        return Retry("An administrator cancelled the statement.", code="cancelled", why=why)
    if state == "55P03":
        return Retry("Another transaction holds the row for too long.", code="lock_timeout", retry_after_ms=50)
    if state in {"53100", "58030"}:
        return Retry("The disk is full; nothing was written. Make room and repeat.", code="disk_full", why=why)
    if state.startswith(("53", "57", "58")):
        return Retry("PostgreSQL lacks a resource.", code="unavailable", retry_after_ms=200, why=why)
    return None


def _field(result: pq.abc.PGresult, field: int) -> str:
    return (result.error_field(field) or b"").decode("utf-8", "replace")
