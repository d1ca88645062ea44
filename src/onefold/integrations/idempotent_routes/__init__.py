"""`Idempotency-Key` under the routes of an app: `ASGI` for FastAPI and Starlette, `WSGI` for Flask and Django."""

from onefold.integrations.idempotent_routes.asgi import ASGI
from onefold.integrations.idempotent_routes.wsgi import WSGI

__all__ = ["ASGI", "WSGI"]
