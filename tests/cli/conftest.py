"""The command line is tested on the ground that the blocks' own tests stand on."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import onefold
from onefold import Database
from onefold.cli.main import run

_TESTS = Path(__file__).parent.parent
sys.path += [str(_TESTS / "messaging"), str(_TESTS / "engine")]  # jobs_ground, events_kinds, postgres_proxy


@pytest.fixture
def db(db_url: str) -> Iterator[Database]:
    """By the machine's clock, as the commands have it."""
    with onefold.connect(db_url) as database:
        yield database


@pytest.fixture
def ask(db_url: str, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, Any]]:
    """Run a command with --json; answers the exit code and the document."""

    def call(*arguments: str) -> tuple[int, Any]:
        code = run([*arguments, "--url", db_url, "--json"])
        captured = capsys.readouterr()
        return code, json.loads((captured.out or captured.err).splitlines()[-1])

    return call
