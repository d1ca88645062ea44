"""The simulators themselves: what they find, that they find it again, and that they hurt whom they say."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from registers import count_up, get, increase, put
from waiting import until

from onefold import Conflict, Invalid, OnefoldError, Retry, Tx, Unknown
from onefold.testing.postgres import Cluster
from onefold.testing.simulation import (
    Client,
    Crashed,
    Faults,
    Postgres,
    Simulation,
    SimulationFailed,
    explore,
    scheduler,
    simulate,
    worlds,
)
from onefold.testing.simulation.choices import from_text, to_text
from onefold.testing.simulation.sqlite import SqliteWorld

QUIET = Faults.none()


@pytest.fixture(params=["sqlite", "serializable", "read_committed"])
def on(request: pytest.FixtureRequest):
    """Each simulator in turn."""
    if request.param == "sqlite":
        return "sqlite"
    return Postgres(request.param, request.getfixturevalue("postgres_cluster"))


def lost_update(sim: Simulation) -> None:
    """The canary: it reads in one transaction and writes in another."""
    told: list[int] = []

    def adder(client: Client) -> None:
        for _ in client.rounds(6):
            seen = client.run(get, "n")
            client.run(put, "n", seen + 1)
            told.append(1)

    def nothing_is_lost(tx: Tx) -> None:
        assert get(tx, "n") >= len(told)

    sim.clients(adder, 4)
    sim.at_end(nothing_is_lost)


def failure(scenario, *, shrink_runs_max: int | None = 0, **options) -> SimulationFailed:
    with pytest.raises(SimulationFailed) as caught:
        explore(scenario, shrink_runs_max=shrink_runs_max, **options)
    return caught.value


# -- finding, repeating, making smaller ----------------------------------------------------------


@pytest.mark.parametrize("scheduling", ["random", "pct"])
def test_the_canary_is_found_made_small_and_repeated(scheduling) -> None:
    found = failure(lost_update, scheduling=scheduling, shrink_runs_max=None)
    assert found.what == "nothing is lost"
    asked = [entry for entry in found.history if entry["type"] == "invoke"]
    assert len({entry["client"] for entry in asked}) == 2
    assert len(asked) == 4, "two clients, each reads and writes once"
    again = failure(lost_update, replay=found.replay, scheduling=scheduling)
    assert again.history == found.history
    assert found.replay in str(found)
    assert str(found).splitlines()[-1].startswith("replay with lost_update")


def test_a_seed_alone_repeats_a_run_too(on) -> None:
    def run(seed: int) -> list[object]:
        kept: list[object] = []

        def scenario(sim: Simulation) -> None:
            kept[:] = [sim.history]

            def counter(client: Client) -> None:
                for _ in client.rounds(8):
                    try:
                        client.run(count_up, client.random.choice("ab"))
                    except OnefoldError:
                        client.sleep_ms(client.random.randrange(100))

            sim.clients(counter, 3 if on == "sqlite" else 2)  # Who of two waiters goes on first is the server's choice.

        explore(scenario, seeds=range(seed, seed + 1), on=on)
        return list(kept[0])  # pyright: ignore[reportArgumentType]

    seeds = range(40 if on == "sqlite" else 6)
    first = [run(seed) for seed in seeds]
    assert first == [run(seed) for seed in seeds]
    assert len({json.dumps(history) for history in first}) > len(seeds) / 2, "seeds differ"


def test_a_replay_text_is_checked() -> None:
    script = {"order": [0, 2, 1], "faults of a-1": [0, 0, 7, 1_500]}
    assert from_text(to_text(7, script)) == (7, script)
    assert from_text("12") == (12, None)
    for wrong in ("", "x", "1:", "1:####", "1:" + to_text(1, script)[2:-6]):
        with pytest.raises(Invalid):
            from_text(wrong)


def test_read_committed_loses_updates_and_serializable_does_not(on) -> None:
    def scenario(sim: Simulation) -> None:
        told: list[int] = []

        def adder(client: Client) -> None:
            for _ in client.rounds(3):
                client.run(increase, "n")
                told.append(1)

        def nothing_is_lost(tx: Tx) -> None:
            assert get(tx, "n") >= len(told)

        sim.clients(adder, 3)
        sim.at_end(nothing_is_lost)

    if on == "sqlite" or on.isolation == "serializable":
        assert explore(scenario, seeds=30, on=on).transactions > 60
        return
    found = failure(scenario, seeds=30, on=on, shrink_runs_max=60)
    assert failure(scenario, replay=found.replay, on=on).history == found.history
    assert sum(entry["type"] == "invoke" for entry in found.history) == 2


def test_whoever_waits_for_a_lock_lets_others_go_on_and_deadlocks_end(on) -> None:
    waited: list[int] = []

    def scenario(sim: Simulation) -> None:
        def both(tx: Tx, first: str, second: str) -> None:
            count_up(tx, first)
            count_up(tx, second)

        def crosser(client: Client) -> None:
            for _ in range(2):
                client.run(both, *("ab" if client.number % 2 else "ba"))

        def all_counted(tx: Tx) -> None:
            assert get(tx, "a") == get(tx, "b") == 6
            waited.append(1)

        sim.clients(crosser, 3, least=3)
        sim.at_end(all_counted)

    explore(scenario, seeds=10, on=on, faults=QUIET)
    assert len(waited) == 10


# -- what befalls clients ------------------------------------------------------------------------


def test_crashes_and_unknown_outcomes_leave_what_they_say(on) -> None:
    seen: Counter[str] = Counter()

    def scenario(sim: Simulation) -> None:
        told: Counter[str] = Counter()

        def counter(client: Client) -> None:
            for number in range(4):
                key = f"{client.name}/{client.incarnation}/{number}"
                try:
                    client.run(count_up, key)
                except Unknown:
                    told[key] = -1
                except Crashed:
                    told[key] = -1
                    raise
                except Retry:
                    told[key] = 0
                else:
                    told[key] = 1

        def as_told(tx: Tx) -> None:
            for key, what in told.items():
                there = get(tx, key)
                assert there == what or (what < 0 and there in {0, 1}), key
                seen[f"{what} {there}"] += 1

        sim.clients(counter, 3)
        sim.at_end(as_told)

    heavy = Faults(crash_before=0.05, crash_after=0.05, unknown=0.2, refused=0.1, again=0.1)
    explore(scenario, seeds=60 if on == "sqlite" else 10, on=on, faults=heavy)
    assert seen.keys() == {"1 1", "0 0", "-1 0", "-1 1"}


def test_faults_come_as_often_as_they_say() -> None:
    def scenario(sim: Simulation) -> None:
        def counter(client: Client) -> None:
            for _ in range(200):
                try:
                    client.run(count_up, "n")
                except (Unknown, Retry):
                    client.sleep_ms(1)

        sim.clients(counter, 2)

    faults = Faults(pause_ms=10, crashes_max=1_000, crash_before=0, crash_after=0)
    report = explore(scenario, seeds=20, faults=faults)
    assert report.transactions == 8_000
    for name, chance in [("pause", 0.03), ("clock step", 0.01), ("refused", 0.01), ("unknown, committed", 0.01)]:
        assert chance / 2 < report.faults[name] / 8_000 < chance * 2, name
    assert not explore(scenario, seeds=1, faults=QUIET).faults


def test_an_impure_function_is_told_on() -> None:
    def scenario(sim: Simulation) -> None:
        calls: list[int] = []

        def impure(tx: Tx) -> int:
            calls.append(1)
            return len(calls)

        def caller(client: Client) -> None:
            for _ in range(20):
                client.run(impure)

        sim.clients(caller)

    assert "not_repeatable" in repr(failure(scenario, faults=QUIET.but(again=0.2)).__cause__.code)


def test_clocks_differ_and_step_but_go_back_in_no_life() -> None:
    differences: set[int] = set()

    def scenario(sim: Simulation) -> None:
        def watcher(client: Client) -> None:
            last = 0
            for _ in range(30):
                now_ms = client.run(lambda tx: tx.now_ms)
                assert now_ms >= last
                last = now_ms
                differences.add(now_ms - sim.time.now_ms)

        sim.clients(watcher, 3)

    explore(scenario, seeds=10, faults=QUIET.but(clock_step=0.1, drift_ppm=10_000, pause=0.1))
    assert min(differences) < -1_000
    assert max(differences) > 1_000


def test_clocks_drift_apart_by_no_more_than_they_may() -> None:
    """Without a step: after a million seconds a drift of 200 millionths is 200 seconds."""
    differences: list[int] = []

    def scenario(sim: Simulation) -> None:
        def watcher(client: Client) -> None:
            client.sleep_ms(1_000_000_000)
            differences.append(client.run(lambda tx: tx.now_ms) - sim.time.now_ms)

        sim.clients(watcher, 3, least=3)

    explore(scenario, seeds=10, faults=QUIET.but(drift_ppm=200))
    assert len(differences) == 30
    assert min(differences) < -50_000
    assert max(differences) > 50_000
    assert max(map(abs, differences)) <= 200_001
    differences.clear()
    explore(scenario, seeds=2, faults=QUIET)
    assert set(differences) == {0}


def test_a_pause_lasts_until_a_lease_is_over() -> None:
    pauses: list[int] = []

    def scenario(sim: Simulation) -> None:
        def sleeper(client: Client) -> None:
            for _ in range(20):
                client.run(count_up, "n")
            pauses.extend(int(e["value"].split()[0]) for e in sim.history if e["f"] == "pause")

        sim.clients(sleeper)

    explore(scenario, seeds=20, faults=QUIET.but(pause=0.3, pause_ms=1_000, lease_ms=(30_000,)))
    assert {29_999, 30_000, 30_001} == {ms for ms in pauses if ms > 1_000}


def test_wakes_are_prompt_late_or_lost(on) -> None:
    heard: list[tuple[bool, int]] = []

    def scenario(sim: Simulation) -> None:
        def waker(client: Client) -> None:
            client.sleep_ms(1_000)
            client.run(lambda tx: tx.wake("door"))

        def waiter(client: Client) -> None:
            woken = client.waiter("door").wait(60)
            heard.append((woken, sim.history._time.now_ms))

        sim.clients(waiter, 3)
        sim.clients(waker)

    explore(scenario, seeds=20, on=on, faults=QUIET.but(lost_wake=0.3, late_wake=0.3, late_wake_ms=5_000))
    woken = [at for yes, at in heard if yes]
    began = 1_700_000_001_000
    assert 0 < len(woken) < len(heard), "some were lost"
    assert any(at - began > 1_000 for at in woken), "some were late"
    assert any(at - began < 1_000 for at in woken), "some were prompt"


# -- what a scenario may do wrong -------------------------------------------------------------------


def test_a_run_without_end_and_one_that_waits_for_ever_fail() -> None:
    def endless(sim: Simulation) -> None:
        def runner(client: Client) -> None:
            while True:
                client.run(count_up, "n")

        sim.clients(runner)

    def waits(sim: Simulation) -> None:
        def waiter(client: Client) -> None:
            client.waiter("never").wait(10**17)

        sim.clients(waiter)

    assert "no end" in str(failure(endless, steps_max=300, faults=QUIET))
    assert "will not come" in str(failure(waits))


def test_a_failure_of_long_runs_is_made_smaller_for_so_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(sim: Simulation) -> None:
        def runner(client: Client) -> None:
            while True:
                client.run(get, "n")

        sim.clients(runner, 2)

    monkeypatch.setattr(sys.modules[explore.__module__], "SHRINK_STEPS_MAX", 1_000)
    assert "in 4 runs" in str(failure(endless, steps_max=300, faults=QUIET, shrink_runs_max=None))


def test_what_would_not_run_is_refused() -> None:
    async def coroutine(client: Client) -> None:
        await client.arun(put, "n", 1)

    def generator(client: Client):
        yield client.run(put, "n", 1)

    async def scenario(sim: Simulation) -> None:
        sim.clients(lambda client: client.run(put, "n", 1))

    for program in (coroutine, generator):
        assert "nothing of it ran" in str(failure(lambda sim, program=program: sim.clients(program)))
    with pytest.raises(Invalid, match="nothing of it ran"):
        explore(scenario)


def test_a_scenario_to_which_nothing_could_happen_is_refused() -> None:
    def worker(client: Client) -> None:
        while True:
            client.sleep_ms(10)

    for scenario in (lambda sim: sim.background(worker), lambda _: None):
        with pytest.raises(Invalid, match="has clients"):
            explore(scenario)


def test_programs_of_one_name_are_different_clients() -> None:
    seen: list[tuple[str, int, str, float]] = []

    def scenario(sim: Simulation) -> None:
        def program_for(_item: str):
            def buyer(client: Client) -> None:
                id = client.run(lambda tx: tx.new_id("order"))
                seen.append((client.name, client.number, id, client.random.random()))

            return buyer

        for item in ("lamp", "chair"):
            sim.clients(program_for(item), 2, least=2)

    explore(scenario, seeds=1, faults=QUIET)
    assert sorted(number for _, number, _, _ in seen) == [1, 2, 3, 4]
    for of_each in zip(*seen, strict=True):
        assert len(set(of_each)) == 4


def test_a_client_does_one_thing_at_a_time() -> None:
    def twice(client: Client) -> None:
        with client.operation("outer"), client.operation("inner"):
            client.run(put, "n", 1)

    assert "one thing at a time" in str(failure(lambda sim: sim.clients(twice)))


def test_background_goes_on_in_calm_and_then_ends() -> None:
    def scenario(sim: Simulation) -> None:
        def asker(client: Client) -> None:
            client.run(put, "asked", 1)

        def worker(client: Client) -> None:
            while True:
                client.sleep_ms(50_000)
                client.run(put, "done", client.run(get, "asked"))

        def done(tx: Tx) -> bool:
            return get(tx, "done") == 1

        sim.clients(asker)
        sim.background(worker)
        sim.at_end(done)

    assert explore(scenario, seeds=30).transactions > 60
    assert "it answered False" in str(failure(scenario, calm_ms=10_000))


def test_what_always_holds_is_checked_at_every_commit(on) -> None:
    def scenario(sim: Simulation) -> None:
        def mover(client: Client) -> None:
            client.run(put, "n", 1)
            client.run(put, "n", 0)

        def is_zero(tx: Tx) -> bool:
            return get(tx, "n") == 0

        sim.clients(mover)
        sim.always(is_zero)

    assert failure(scenario, on=on, faults=QUIET).what == "is zero"


def test_what_a_program_expects_fails_the_run_and_its_refusals_do_not() -> None:
    def scenario(sim: Simulation) -> None:
        def refuses(tx: Tx) -> None:
            raise Conflict("No.", code="no")

        def asker(client: Client) -> None:
            with pytest.raises(Conflict):
                client.run(refuses)
            assert client.number < 2, "there is a second"

        sim.clients(asker, 2)

    found = failure(scenario, faults=QUIET)
    assert found.what == "what asker expects"
    assert [entry["type"] for entry in found.history if entry["client"] == "asker-2"] == ["invoke", "fail"]


def test_the_history_is_one_that_checkers_read() -> None:
    kept: list[dict] = []

    def scenario(sim: Simulation) -> None:
        def counter(client: Client) -> None:
            with client.operation("add", 2) as op:
                client.run(count_up, "n")
                op["value"] = client.run(count_up, "n")

        def keep(_tx: Tx) -> None:
            kept.extend(dict(entry) for entry in sim.history)

        sim.clients(counter, 2)
        sim.at_end(keep)

    explore(scenario, seeds=1, faults=QUIET.but(unknown=0.5))
    assert {"index", "time", "process", "type", "f", "value"} <= kept[0].keys()
    assert [entry["index"] for entry in kept] == list(range(len(kept)))
    open_now: dict[int, str] = {}
    for entry in kept:
        if entry["process"] == "nemesis":
            continue
        if entry["type"] == "invoke":
            assert entry["process"] not in open_now, "one thing at a time, and nothing after info"
            open_now[entry["process"]] = entry["f"]
        else:
            assert open_now[entry["process"]] == entry["f"]
            if entry["type"] != "info":
                del open_now[entry["process"]]
    assert {entry["f"] for entry in kept if entry["process"] != "nemesis"} == {"add"}


@pytest.mark.parametrize("wrong", [
    {"seeds": 0}, {"seeds": range(-1, 3)}, {"on": "oracle"}, {"replay": "nonsense"}, {"scheduling": "PCT"},
    {"steps_max": 0}, {"calm_ms": -1}, {"shrink_runs_max": -1},
])  # fmt: skip
def test_wrong_arguments_are_refused(wrong) -> None:
    with pytest.raises(Invalid):
        explore(lost_update, **wrong)


@pytest.mark.parametrize("wrong", [
    {"unknown": 1.5}, {"pause": -0.1}, {"crash_before": 0.6, "crash_after": 0.6}, {"pause_ms": -1}, {"lease_ms": (0,)},
])  # fmt: skip
def test_wrong_faults_are_refused(wrong) -> None:
    with pytest.raises(Invalid):
        Faults(**wrong)


# -- as a test ------------------------------------------------------------------------------------


@simulate(seeds=20)
def test_a_scenario_is_a_test(sim: Simulation) -> None:
    def adder(client: Client) -> None:
        client.run(count_up, "n")

    def is_counted(tx: Tx) -> None:
        assert get(tx, "n") >= 3

    sim.clients(adder, 3, least=3)
    sim.at_end(is_counted)


@simulate(seeds=3, faults=QUIET)
def test_a_scenario_takes_fixtures(sim: Simulation, tmp_path) -> None:
    assert tmp_path.is_dir()
    sim.clients(lambda client: client.run(put, "n", 1))


class TestOfAClass:
    """Its methods are scenarios as well."""

    @simulate(seeds=3, faults=QUIET)
    def test_a_scenario_may_be_a_method(self, sim: Simulation, tmp_path) -> None:
        assert tmp_path.is_dir()
        assert isinstance(self, TestOfAClass)
        sim.clients(lambda client: client.run(put, "n", 1))


def test_the_job_that_the_tutorial_has_readers_move_is_found() -> None:
    page = (Path(__file__).parents[2] / "docs/test-your-checkout.md").read_text()
    mended = page.split("```python\n")[2].partition("\n\n\ntest_checkout = ")[0]
    put_here, here = '        jobs.put(tx, Receipt(order), unique=f"receipt/{order}")\n', "return db.run(checkout, key, buyer, item)"
    moved = f'order = db.run(checkout, key, buyer, item)\n            {put_here.strip().replace("jobs.put(tx", "db.run(jobs.put")}\n            return order'
    assert mended.count(put_here) == mended.count(here) == 1
    names: dict[str, Any] = {"__name__": "the_tutorial"}
    exec(mended.replace(put_here, "").replace(here, moved), names)
    assert failure(names["scenario"], seeds=300).what == "every order gets its receipt"


def test_a_server_that_was_started_anew_is_used_again() -> None:
    with Cluster() as server:
        for _ in range(2):
            explore(lambda sim: sim.clients(lambda client: client.run(put, "n", 1)), seeds=1, on=Postgres(cluster=server))
            server.restart(immediate=True)
    explore(lambda sim: sim.clients(lambda client: client.run(put, "n", 1)), seeds=1)
    assert server not in {where.cluster for where in worlds._idle if where != "sqlite"}, "its connections stay open for ever"


def test_tables_of_the_user_are_gone_with_the_run(on) -> None:
    def scenario(sim: Simulation) -> None:
        sim.setup(lambda tx: tx.run("CREATE TABLE carts (id BIGINT PRIMARY KEY, items BIGINT NOT NULL) -- :space"))
        sim.setup(lambda tx: tx.run("CREATE TEMPORARY TABLE scratch (id BIGINT) -- :space"))

        def shopper(client: Client) -> None:
            client.run(lambda tx: tx.run("INSERT INTO carts VALUES (:id, 1) -- :space", id=client.number))

        def is_filled(tx: Tx) -> None:
            assert tx.one("SELECT count(*) FROM carts -- :space") == (2,)

        sim.clients(shopper, 2, least=2)
        sim.at_end(is_filled)

    assert explore(scenario, seeds=3, on=on, faults=QUIET).seeds == 3


def test_a_program_that_tries_on_while_it_is_stopped_is_stopped(on) -> None:
    def scenario(sim: Simulation) -> None:
        def stubborn(client: Client) -> None:
            try:
                while True:
                    client.run(count_up, "n")
            finally:
                client.run(count_up, "cleaned up")

        def is_small(tx: Tx) -> bool:
            return get(tx, "n") < 5

        sim.clients(stubborn, 3)
        sim.always(is_small)

    assert failure(scenario, on=on, faults=QUIET).what == "is small"
    assert failure(scenario, on=on, faults=QUIET.but(crash_after=0.3), seeds=3).what == "is small"


def test_what_a_program_makes_of_its_end_is_no_failure() -> None:
    """Of a crash, and of the end of the run: neither is an error that its code could get otherwise."""

    def scenario(sim: Simulation) -> None:
        def worker(client: Client) -> None:
            try:
                while True:
                    client.run(count_up, "n")
                    client.sleep_ms(10)
            except BaseException as error:
                raise ValueError("I give up") from error

        def shopper(client: Client) -> None:
            client.run(count_up, "n")

        sim.background(worker, 2)
        sim.clients(shopper)

    report = explore(scenario, seeds=3, faults=QUIET.but(crash_after=0.3), calm_ms=100)
    assert report.faults["crash after commit"]


class Interrupted(Exception):
    """What a signal's handler raises in the main thread: Ctrl-C, or a test's time limit."""


def simulated_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("simulated-")]


@pytest.mark.parametrize("on", ["sqlite", "serializable"], indirect=True)
def test_a_run_that_is_interrupted_ends_with_that_and_leaves_no_thread(on) -> None:
    def interrupt(*_: object) -> None:
        raise Interrupted

    def scenario(sim: Simulation) -> None:
        def counter(client: Client) -> None:
            for count in range(500):
                client.run(count_up, f"n{client.number}")
                if count == 2 and client.number == 1:
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

        sim.clients(counter, 4)

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        for seed in range(4):
            with pytest.raises(Interrupted):
                explore(scenario, seeds=range(seed, seed + 1), on=on, faults=QUIET)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert simulated_threads() == []


@pytest.mark.parametrize("comes_back", [True, False])
def test_a_client_that_waits_for_something_real_is_named(monkeypatch: pytest.MonkeyPatch, *, comes_back: bool) -> None:
    """Not as a failure, of which hundreds of runs would try to make a smaller one, each as slow as this one."""
    monkeypatch.setattr(scheduler, "STUCK_S", 0.05)
    monkeypatch.setattr(scheduler, "AT_REST_S", 0.05)
    monkeypatch.setattr(SqliteWorld, "patience_s", 0.01)
    over, runs = threading.Event(), 0

    def scenario(sim: Simulation) -> None:
        nonlocal runs
        runs += 1

        def sleeper(client: Client) -> None:
            client.run(count_up, "n")
            until(lambda: over.is_set() or (comes_back and client._actor.stopping))

        def others(client: Client) -> None:
            while True:
                client.run(count_up, "n")

        sim.clients(sleeper)
        sim.background(others, 3)

    with pytest.raises(TimeoutError, match="sleeper-1 waits for something that is not simulated"):
        explore(scenario, seeds=1, faults=QUIET)
    assert runs == 1
    assert simulated_threads() == ([] if comes_back else ["simulated-sleeper-1"])
    over.set()
