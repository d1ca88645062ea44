"""Errors of any driver, also when a library wrapped them, in our words."""

from __future__ import annotations

from onefold.core.errors import OnefoldError
from onefold.engine.sql import Dialect


def translate(error: BaseException, dialect: Dialect) -> OnefoldError:
    """What `error` means; SQLAlchemy keeps the driver's own error in `orig`."""
    original: BaseException = getattr(error, "orig", None) or error
    if isinstance(original, OnefoldError):
        return original
    if dialect == "sqlite":
        from onefold.engine.sqlite.connection import translated

        return translated(original)
    from onefold.engine.postgres.errors import from_psycopg

    return from_psycopg(original)
