"""`onefold version`."""

from __future__ import annotations

import argparse
import platform
from importlib import metadata

from onefold.cli.answer import say
from onefold.engine.inspect import sqlite_version


def command(options: argparse.Namespace) -> int:
    """Say which versions run here."""
    versions = {"onefold": _of("onefold"), "python": platform.python_version(), "sqlite": sqlite_version()}
    versions |= {name: _of(name) for name in ("msgspec", "uvicorn", "uvloop", "psycopg")}
    say(options, versions, lambda: [f"{name} {version or 'not installed'}" for name, version in versions.items()])
    return 0


def _of(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
