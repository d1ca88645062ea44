"""Migrate both schemas, open the shop, serve it."""

from __future__ import annotations

import os
import sys

import django
import uvicorn
from django.core.asgi import get_asgi_application
from django.core.management import call_command
from django.db import connections
from examples.purchase import open_shop

import onefold


def main(port: str = "8000") -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "examples.django_shop.settings")
    django.setup()
    from django.conf import settings

    onefold.migrate(settings.URL)
    call_command("migrate", verbosity=0)
    connections.close_all()
    with onefold.connect(settings.URL) as db:
        db.run(open_shop, "ana")
    uvicorn.run(get_asgi_application(), host="127.0.0.1", port=int(port), lifespan="off")


if __name__ == "__main__":
    main(*sys.argv[1:2])
