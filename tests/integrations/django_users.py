"""Django in a test process: configured once, with a database of its own for each test."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import django
from django.conf import settings
from django.db import connections, models

import onefold

if not settings.configured:
    settings.configure(INSTALLED_APPS=[], DATABASES={}, USE_TZ=True)
    django.setup()

_numbers = itertools.count(1)


class User(models.Model):
    name = models.TextField(unique=True)

    class Meta:
        app_label = "users"


@contextmanager
def alias_of(url: str, **more: object) -> Iterator[str]:
    """An alias for `url` with a table of users; its connection in this thread is closed at the end."""
    alias = f"test{next(_numbers)}"
    connections.databases[alias] = {**onefold.django.database(url), **more}
    connections.configure_settings(connections.databases)
    try:
        with connections[alias].schema_editor() as editor:
            editor.create_model(User)
        yield alias
    finally:
        connections[alias].close()
        del connections[alias], connections.databases[alias]


def names(alias: str) -> list[str]:
    return list(User.objects.using(alias).order_by("name").values_list("name", flat=True))
