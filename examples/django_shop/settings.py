"""What Django needs to know; the database is the one that `onefold.connect` opens."""

from __future__ import annotations

import os

import onefold

URL = os.environ.get("ONEFOLD_URL", "django_shop.db")

DATABASES = {"default": onefold.django.database(URL)}
INSTALLED_APPS = ["examples.django_shop"]
ROOT_URLCONF = "examples.django_shop.views"
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
