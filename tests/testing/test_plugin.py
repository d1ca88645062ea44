"""The pytest plugin in suites of other people: what they get, what they see, and that nothing else happens to them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from onefold.testing import plugin

pytest_plugins = ("pytester",)

FIXTURES = {name for name, value in vars(plugin).items() if isinstance(value, pytest.FixtureDef | type(plugin.onefold_seed))}

QUIET = ("-p", "no:cacheprovider", "-p", "no:schemathesis", "-p", "no:hypothesispytest", "-p", "no:timeout")

SHOP = """
    from onefold.testing.simulation import Faults, simulate

    def open_shop(tx):
        tx.run("CREATE TABLE stock (item TEXT PRIMARY KEY, pieces BIGINT NOT NULL)")
        tx.run("INSERT INTO stock (item, pieces) VALUES ('lamp', 100)")

    def buy(tx):
        tx.run("UPDATE stock SET pieces = pieces - 1 WHERE item = 'lamp'")

    @simulate(seeds=30, faults=Faults(crash_after=0.05))
    def test_everybody_buys_once(sim):
        sim.setup(open_shop)
        sim.clients(lambda client: client.run(buy), 2, least=2)
        sim.at_end(lambda tx: tx.one("SELECT pieces FROM stock")[0] >= 98)
"""


@pytest.fixture
def run(pytester: pytest.Pytester):
    """Run pytest on a file, in this process or (`apart`) in one of its own."""

    def run(source: str, *arguments: str, apart: bool = False) -> pytest.RunResult:
        pytester.makepyfile(test_theirs=source)
        started = pytester.runpytest_subprocess if apart else pytester.runpytest_inprocess
        return started(*QUIET, *arguments)

    return run


def header(result: pytest.RunResult) -> str:
    return next(line for line in result.outlines if line.startswith("onefold: "))


# -- seeds ------------------------------------------------------------------------------------


def test_the_header_says_what_repeats_the_run(run, monkeypatch: pytest.MonkeyPatch) -> None:
    asks = "def test_it(onefold_seed, onefold_scale, onefold_seeds): print('seeds', onefold_seeds(3)); assert {} == (onefold_seed, onefold_scale)"
    assert header(run(asks.format("(0, 1)"))).startswith("onefold: --onefold-seed 0 --onefold-scale 1; Chromium: ")
    result = run(asks.format("(7, 4)"), "--onefold-seed", "7", "--onefold-scale", "4", "-rP")
    assert result.parseoutcomes() == {"passed": 1}
    result.stdout.fnmatch_lines(["onefold: --onefold-seed 7 --onefold-scale 4;*", "seeds range(7, 19)"])
    monkeypatch.setenv("ONEFOLD_SEED", "8")
    assert run(asks.format("(8, 1)")).parseoutcomes() == {"passed": 1}
    assert run(asks.format("(9, 1)"), "--onefold-seed", "9").parseoutcomes() == {"passed": 1}


@pytest.mark.parametrize("wrong", [
    ("--onefold-seed", "-1"), ("--onefold-seed", "soon"), ("--onefold-seed", "1000000001"), ("--onefold-scale", "0"),
    ("--onefold-scale", "10001"), ("--onefold-seed", "²"),
])  # fmt: skip
def test_a_wrong_number_ends_the_run_before_it_begins(run, wrong: tuple[str, str]) -> None:
    result = run("def test_it(): pass", *(f"{wrong[0]}={wrong[1]}",))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert wrong[0] in result.stderr.str()


def test_a_simulation_that_failed_is_repeated_by_the_line_below_it(run) -> None:
    first = run(SHOP, "--onefold-seed", "1000")
    assert first.parseoutcomes() == {"failed": 1}
    first.stdout.fnmatch_lines(["*the same simulation again*", "python -m pytest *"])
    line = next(line for line in first.outlines if line.startswith("python -m pytest "))
    seed = re.fullmatch(r"python -m pytest test_theirs.py::test_everybody_buys_once --onefold-seed (\d+)", line)[1]
    assert 1_000 <= int(seed) < 1_030
    again = run(SHOP, *line.split()[3:])
    assert told(again) == told(first)
    assert f"seed {seed} breaks" in told(again)[0]
    assert "/onefold/" not in "".join(first.outlines).partition("test_everybody_buys_once")[2], "the way through the kit"


FAILS = """
    import unittest
    from onefold.testing.simulation import simulate

    class TestOf(unittest.TestCase):
        @simulate(seeds=2)
        def test_fails(self, sim):
            sim.clients(lambda client: client.sleep_ms(-1))

    @simulate(seeds=range(5, 6))
    def test_named(sim):
        sim.clients(lambda client: client.sleep_ms(-1))

    @simulate(seeds=2)
    def test_late(sim):
        if sim.choices.seed > 1_000_000_000:
            sim.clients(lambda client: client.sleep_ms(-1))
        sim.clients(lambda client: client.sleep_ms(1))
"""


def test_the_line_is_for_the_folder_one_is_in_and_names_a_seed_where_the_test_takes_it(
    run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makeini("[pytest]")
    monkeypatch.chdir(pytester.mkdir("inside"))
    failed = run(FAILS, "--onefold-seed", "1000000000", "..")
    assert failed.parseoutcomes() == {"failed": 3}
    assert [line for line in failed.outlines if line.startswith("python -m pytest ")] == [
        "python -m pytest ../test_theirs.py::TestOf::test_fails",
        "python -m pytest ../test_theirs.py::test_named",
        "python -m pytest ../test_theirs.py::test_late --onefold-seed 1000000000 --onefold-scale 1",
    ]


def told(result: pytest.RunResult) -> list[str]:
    """The failed run, as the simulator tells it."""
    lines = [line.removeprefix("E").strip() for line in result.outlines]
    first = next(place for place, line in enumerate(lines) if "breaks" in line and "seed" in line)
    last = next(place for place, line in enumerate(lines) if line.startswith("replay with"))
    return [re.sub(r"^.*?(?=seed \d)", "", lines[first]), *lines[first + 1 : last + 1]]


def test_scale_multiplies_counted_seeds_and_leaves_named_ones_alone(run) -> None:
    source = """
        from onefold.testing.simulation import simulate

        runs = []

        @simulate(seeds=2)
        def test_counted(sim):
            runs.append(sim.choices.seed)
            sim.clients(lambda client: None)

        @simulate(seeds=range(5, 6))
        def test_named(sim):
            runs.append(sim.choices.seed)
            sim.clients(lambda client: None)

        @simulate(seeds=1)
        def test_with_fixtures(sim, tmp_path, onefold_seeds):
            assert onefold_seeds(1) == range(40, 43)
            runs.append(sim.choices.seed)
            sim.clients(lambda client: None)

        def test_plain():
            test_counted()
            assert runs == [40, 41, 42, 43, 44, 45, 5, 0, 0, 1]
    """
    assert run(source, "--onefold-seed", "40", "--onefold-scale", "3").parseoutcomes() == {"passed": 4}
    chosen = run(source, "-m", "onefold_scaled", "--strict-markers", "--collect-only", "-q")
    assert [line for line in chosen.outlines if "::" in line] == ["test_theirs.py::test_counted", "test_theirs.py::test_with_fixtures"]


# -- what they get ----------------------------------------------------------------------------


def test_workers_share_a_drawn_seed_and_no_database(run, pytester: pytest.Pytester) -> None:
    result = run("""
        import os
        from pathlib import Path
        import pytest
        from onefold import locks

        @pytest.mark.parametrize("n", range(2))
        def test_locks(onefold_seed, onefold_db, n):
            assert onefold_db.run(locks.try_acquire, "till", owner="ana", ttl_ms=60_000)
            assert onefold_db.run(locks.try_acquire, "till", owner="bob", ttl_ms=60_000) is None
            with Path(os.environ["PYTEST_XDIST_WORKER"]).open("a") as noted:
                noted.write(f"{onefold_seed}\\n")

        def test_urls(onefold_sqlite_url, onefold_postgres_url, onefold_postgres):
            assert onefold_sqlite_url.endswith("onefold.db")
            assert onefold_postgres_url.startswith("postgresql://")
            assert onefold_postgres.running
    """, "-n", "2", "--onefold-seed", "random", apart=True)
    assert result.parseoutcomes() == {"passed": 5}
    shown = re.search(r"--onefold-seed (\d+)", header(result))[1]
    noted = {path.name: set(path.read_text().split()) for path in pytester.path.glob("gw*")}
    assert noted == {"gw0": {shown}, "gw1": {shown}}


def test_the_first_test_of_the_page_works(run) -> None:
    page = (Path(plugin.__file__).parent / "README.md").read_text(encoding="utf-8")
    block = re.search(r"^## Under pytest.*?^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)[1]
    assert run(block, "-k", "sqlite").parseoutcomes() == {"passed": 1, "deselected": 1}


def test_every_fixture_and_option_is_on_the_page() -> None:
    page = (Path(plugin.__file__).parent / "README.md").read_text(encoding="utf-8")
    assert {name for name in [*FIXTURES, "--onefold-seed", "--onefold-scale", "-m " + plugin.MARKER] if f"`{name}" not in page} == set()


def test_the_world_outside_is_at_hand(run) -> None:
    assert run("""
        import socket
        from onefold.testing.receiver import deliveries

        def test_http(onefold_http):
            async def echo(scope, receive, send):
                asked = await receive()
                await send({"type": "http.response.start", "status": 201, "headers": [(b"x-path", scope["raw_path"])]})
                await send({"type": "http.response.body", "body": asked["body"]})
                assert (await receive())["type"] == "http.disconnect"

            answer = onefold_http(echo)("POST", "/a%20b?c", send={"n": 1})
            assert (answer.status, answer.headers, answer.json) == (201, {"x-path": "/a%20b"}, {"n": 1})

        def test_toxiproxy(onefold_toxiproxy):
            with socket.create_server(("127.0.0.1", 0)) as server:
                port = onefold_toxiproxy.create("theirs", upstream=f"127.0.0.1:{server.getsockname()[1]}")
                with onefold_toxiproxy.down("theirs"):
                    try:
                        socket.create_connection(("127.0.0.1", port), timeout=5)
                    except OSError:
                        return
            raise AssertionError("it was let in")

        def test_receiver(onefold_receiver, tmp_path):
            assert onefold_receiver.seen("shop")["ids"] == {}
            assert deliveries(tmp_path) == []

        def test_cluster(onefold_cluster):
            made = onefold_cluster("sqlite", nodes=1)
            assert made.nodes[0].request("GET", "/readyz")[0] == 200
    """).parseoutcomes() == {"passed": 4}


def test_a_failure_tells_what_the_cluster_did(run) -> None:
    result = run("""
        def test_it(onefold_cluster):
            for name in ("one", "two"):
                onefold_cluster(nodes=0).timeline.note("till", f"falls out of window {name}")
            assert 1 == 2
    """)
    assert result.parseoutcomes() == {"failed": 1}
    result.stdout.fnmatch_lines([
        "*what the cluster did*", "*till * falls out of window one", "*what the cluster did*", "*till * falls out of window two",
    ])  # fmt: skip


def test_without_a_browser_tests_are_skipped_and_the_header_says_so(run, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = run("def test_it(onefold_browser): onefold_browser()", "-rs")
    assert result.parseoutcomes() == {"skipped": 1}
    assert header(result).endswith("Chromium: none on PATH, tests with a browser are skipped")
    result.stdout.fnmatch_lines(["*no Chromium on PATH (chromium, *"])


def test_a_machine_without_psycopg_is_told_what_to_install(run) -> None:
    result = run("""
        import sys

        sys.modules["psycopg"] = None

        def test_it(onefold_url):
            assert onefold_url
    """, apart=True)
    assert result.parseoutcomes() == {"passed": 1, "errors": 1}
    result.stdout.fnmatch_lines(["*install onefold?testing?*"])


# -- what happens to them otherwise -----------------------------------------------------------


def test_nothing_happens_to_who_asks_for_nothing(run) -> None:
    result = run("""
        import pytest

        @pytest.fixture
        def db():
            return "theirs"

        def test_it(request, db):
            assert (db, request.fixturenames) == ("theirs", ["request", "db"])
    """, "--strict-markers", "-W", "error")
    assert result.parseoutcomes() == {"passed": 1}


def test_all_its_names_are_its_own() -> None:
    assert len(FIXTURES) == 14
    assert {name for name in FIXTURES if not name.startswith("onefold_")} == set()
    assert plugin.MARKER.startswith("onefold_")


def test_it_imports_nothing_that_was_not_asked_for() -> None:
    program = """if True:
        import sys, onefold.testing.plugin
        dear = ("psycopg", "uvicorn", "onefold.server", "onefold.testing.")
        print(*sorted(name for name in sys.modules if name.startswith(dear)))
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["onefold.testing.plugin"]
