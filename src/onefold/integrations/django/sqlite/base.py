"""Django's SQLite backend, made to wait its turn on our file.

An `atomic()` block takes the gate and begins IMMEDIATE; a write outside of one does so for itself. It
makes no checkpoints of its own. `inspectdb` shows the program's tables, not ours.
"""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db.backends.sqlite3 import base, introspection

from onefold.core.errors import Invalid
from onefold.engine.sqlite.gated import GatedConnection, GatedCursor

_Cursor: Any = base.SQLiteCursorWrapper  # Its parameters have names of their own.


class Cursor(GatedCursor, _Cursor):
    """Django's cursor, whose writes take the gate."""


class DatabaseIntrospection(introspection.DatabaseIntrospection):
    """What `inspectdb` sees."""

    def get_table_list(self, cursor: Any) -> list[Any]:
        """The tables that do not belong to Onefold."""
        return [table for table in super().get_table_list(cursor) if not table.name.startswith("onefold_")]


class DatabaseWrapper(base.DatabaseWrapper):
    """See above; Django finds it by its name."""

    introspection_class = DatabaseIntrospection
    connection: Any

    def get_connection_params(self) -> dict[str, Any]:
        """As Django's, and gated."""
        if self.is_in_memory_db():
            raise ImproperlyConfigured(
                "Onefold's SQLite is a file; in tests, too: give DATABASES['default']['TEST'] a NAME."
            )
        return {**super().get_connection_params(), "factory": GatedConnection}

    def create_cursor(self, name: Any = None) -> Any:  # noqa: ARG002  Django's signature.
        """A cursor whose writes take the gate."""
        return self.connection.cursor(factory=Cursor)

    def _start_transaction_under_autocommit(self) -> None:
        wrapping: Any = self.wrap_database_errors
        with wrapping:
            self.connection.begin_gated()

    def _set_autocommit(self, autocommit: bool) -> None:  # noqa: FBT001  Django's signature.
        if not autocommit:
            # The driver would begin by itself, without the gate.
            raise Invalid("Without autocommit nobody knows when to take the gate; use atomic().", code="autocommit")
        super()._set_autocommit(autocommit)
