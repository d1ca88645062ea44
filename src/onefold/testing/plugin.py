"""The pytest plugin: what this package has for tests, as fixtures. See README.md, "Under pytest".

pytest finds it by its entry point. It is imported into every run where Onefold is installed, so it imports nothing
that a test did not ask for, runs nothing by itself, and all its names begin with `onefold_`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import shlex
import shutil
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from onefold.engine.connect import connect, migrate
from onefold.engine.database import Database

if TYPE_CHECKING:
    from onefold.testing.browser import Browser
    from onefold.testing.cluster import Installation
    from onefold.testing.http import App, Caller
    from onefold.testing.postgres import Cluster
    from onefold.testing.receiver import Receiver
    from onefold.testing.toxiproxy import Toxiproxy

SEED_MAX = 1_000_000_000
SCALE_MAX = 10_000
TEMPLATE = "onefold_template"
MARKER = "onefold_scaled"

_numbers = itertools.count(1)
_installations = pytest.StashKey[list["Installation"]]()


# -- the run ----------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    """Two options; the seed may come from the environment, too."""
    group = parser.getgroup("onefold", "simulations of Onefold")
    group.addoption(
        "--onefold-seed", metavar="N",
        help='first seed of every @simulate: a number, or "random"; else that of ONEFOLD_SEED, else 0',
    )  # fmt: skip
    group.addoption(
        "--onefold-scale", metavar="N", type=int, default=1,
        help="so many times as many seeds for every @simulate; 1",
    )  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """Settle the seed: a worker of xdist has that of the process that started it."""
    config.addinivalue_line("markers", f"{MARKER}: grows with --onefold-scale; set by the plugin of Onefold")
    handed: dict[str, Any] | None = getattr(config, "workerinput", None)
    config.option.onefold_seed = handed["onefold_seed"] if handed else _seed(config.option.onefold_seed)
    if not 1 <= config.option.onefold_scale <= SCALE_MAX:
        raise pytest.UsageError(f"--onefold-scale is 1 to {SCALE_MAX:,}")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Hand the seed on to a worker of xdist."""
    node.workerinput["onefold_seed"] = node.config.option.onefold_seed


def _seed(given: str | None) -> int:
    text = given or os.environ.get("ONEFOLD_SEED") or "0"
    if text == "random":
        return secrets.randbelow(SEED_MAX)
    if not text.isdecimal() or not text.isascii() or int(text) > SEED_MAX:
        raise pytest.UsageError(f'--onefold-seed (or ONEFOLD_SEED) is 0 to {SEED_MAX:,} or "random", not {text!r}')
    return int(text)


def pytest_report_header(config: pytest.Config) -> str:
    """What repeats this run, and what cannot be run here."""
    from onefold.testing.browser import find_chromium

    seed = config.option.onefold_seed
    chromium = find_chromium() or "none on PATH, tests with a browser are skipped"
    return f"onefold: --onefold-seed {seed} --onefold-scale {config.getoption('onefold_scale')}; Chromium: {chromium}"


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark what grows, for `-m onefold_scaled`."""
    if "onefold_scale" in getattr(item, "fixturenames", ()):
        item.add_marker(MARKER)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Tell with a failure what the clusters of the test did, and how to repeat its simulation."""
    report = yield
    if report.failed and call.when != "teardown":
        for installation in item.stash.get(_installations, []):
            report.sections.append(("what the cluster did", installation.story()))
        if call.excinfo is not None and (again := _again(item, call.excinfo.value)):
            report.sections.append(("the same simulation again", again))
    return report


def _again(item: pytest.Item, error: BaseException) -> str | None:
    """What repeats a simulation that failed; None when something else did."""
    if "onefold.testing.simulation" not in sys.modules:
        return None
    from onefold.testing.simulation import SimulationFailed

    if not isinstance(error, SimulationFailed):
        return None
    file = os.path.relpath(item.path, item.config.invocation_params.dir)  # A node's id is relative to the root of all.
    again = f"python -m pytest {shlex.quote('::'.join([file, *item.nodeid.split('::')[1:]]))}"
    if "onefold_seeds" not in getattr(item, "fixturenames", ()):
        return again  # Its seeds are its own: those that it names, or of a unittest.TestCase, which takes no fixtures.
    if error.seed <= SEED_MAX:
        return f"{again} --onefold-seed {error.seed}"
    option = item.config.option
    return f"{again} --onefold-seed {option.onefold_seed} --onefold-scale {option.onefold_scale}"


# -- seeds ------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def onefold_seed(pytestconfig: pytest.Config) -> int:
    """The seed of this run, for dice of a test's own; the same in every worker of xdist."""
    return int(pytestconfig.option.onefold_seed)


@pytest.fixture(scope="session")
def onefold_scale(pytestconfig: pytest.Config) -> int:
    """How many times as much this run does as usual, 1 to 10,000; a test that asks for it is `onefold_scaled`."""
    return int(pytestconfig.option.onefold_scale)


@pytest.fixture(scope="session")
def onefold_seeds(onefold_seed: int, onefold_scale: int) -> Callable[[int], range]:
    """`onefold_seeds(20)`: the seeds of a simulation that takes 20 of them when nothing else is said."""
    return lambda count: range(onefold_seed, onefold_seed + count * onefold_scale)


# -- databases --------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def onefold_postgres() -> Iterator[Cluster]:
    """A PostgreSQL server for this process, listening on loopback too; it ends with the session."""
    try:
        from onefold.testing.postgres import Cluster
    except ImportError as error:
        raise RuntimeError("A PostgreSQL for tests needs more packages: install onefold[testing].") from error
    with Cluster(tcp=True) as cluster:
        migrate(cluster.create_database(TEMPLATE))
        yield cluster


@pytest.fixture
def onefold_postgres_url(onefold_postgres: Cluster) -> Iterator[str]:
    """The URL of a migrated, empty database on PostgreSQL: a copy, gone with the test."""
    name = f"test_{next(_numbers)}"
    yield onefold_postgres.create_database(name, template=TEMPLATE)
    onefold_postgres.drop_database(name)


@pytest.fixture(scope="session")
def onefold_sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty SQLite file to copy: that is done in a hundredth of the time of a migration."""
    path = tmp_path_factory.mktemp("onefold") / "template.db"
    migrate(path)
    return path


@pytest.fixture
def onefold_sqlite_url(tmp_path: Path, onefold_sqlite_template: Path) -> str:
    """The URL of a migrated, empty database on SQLite: a file in the test's own folder."""
    return str(shutil.copy(onefold_sqlite_template, tmp_path / "onefold.db"))


@pytest.fixture(params=["sqlite", "postgres"])
def onefold_url(request: pytest.FixtureRequest) -> str:
    """The URL of a migrated, empty database, on each engine in turn."""
    return str(request.getfixturevalue(f"onefold_{request.param}_url"))


@pytest.fixture
def onefold_db(onefold_url: str) -> Iterator[Database]:
    """An empty database, on each engine in turn. Every function is run twice (see `rehearse` of `connect`)."""
    with connect(onefold_url, rehearse=True) as db:
        yield db


# -- the world outside ------------------------------------------------------------------------


@pytest.fixture
def onefold_cluster(request: pytest.FixtureRequest) -> Iterator[Callable[..., Installation]]:
    """`onefold_cluster("sqlite", nodes=2)` starts an installation; see `cluster`. It ends with the test.

    When the test fails, what happened in it is a section of the report.
    """
    from onefold.testing.cluster import cluster

    made: list[Installation] = request.node.stash.setdefault(_installations, [])
    with contextlib.ExitStack() as stack:

        def start(*engine: Any, **how: Any) -> Installation:
            made.append(stack.enter_context(cluster(*engine, **how)))
            return made[-1]

        yield start


@pytest.fixture
def onefold_toxiproxy(onefold_seed: int) -> Iterator[Toxiproxy]:
    """A proxy that fails as told, with the dice of the run's seed."""
    from onefold.testing.toxiproxy import Toxiproxy

    with Toxiproxy(seed=onefold_seed) as toxiproxy:
        yield toxiproxy


@pytest.fixture
def onefold_receiver(tmp_path: Path) -> Iterator[Receiver]:
    """Somebody who receives webhooks; `receiver.deliveries(tmp_path)` is what came."""
    from onefold.testing.receiver import Receiver

    with Receiver(tmp_path) as receiver:
        yield receiver


@pytest.fixture
def onefold_http() -> Iterator[Callable[..., Caller]]:
    """Call any ASGI app in this process, as a server would; see `Caller`.

    `call = onefold_http(app, token=bearer)` and then `call("GET", "/")`.
    """
    from onefold.testing.http import Caller

    with contextlib.ExitStack() as stack:

        def reach(app: App, *, token: str = "") -> Caller:
            return stack.enter_context(Caller(app, token=token))

        yield reach


@pytest.fixture
def onefold_browser() -> Iterator[Callable[..., Browser]]:
    """`onefold_browser(width=390, dark=True)` starts headless Chromium; see `Browser`. It ends with the test.

    Without Chromium on PATH the test is skipped, and the header of the run says so.
    """
    from onefold.testing.browser import NAMES, Browser, find_chromium

    if find_chromium() is None:
        pytest.skip(f"no Chromium on PATH ({', '.join(NAMES)})")
    with contextlib.ExitStack() as stack:

        def start(**how: Any) -> Browser:
            return stack.enter_context(Browser(**how))

        yield start
