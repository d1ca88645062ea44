"""HTTP: the only code that knows of it. `asgi(db)` serves every block's `ROUTES`."""

from __future__ import annotations

from onefold.server.app import App, asgi

__all__ = ["App", "asgi"]
