"""Every block has a scenario under simulated faults and a test under real ones; here they stand by name, and are looked up."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import NamedTuple

import pytest

from onefold.index import BLOCKS

ROOT = Path(__file__).parent.parent
SIMULATED = ROOT / "tests" / "testing"
KILLERS = {"SIGKILL", "kill", "kill9", "kill_after", "left_behind"}  # Names that a real death goes by.
BOTH_ENGINES = {"db", "db_url", "real"}  # Fixtures that stand for SQLite and PostgreSQL in turn.


class Proof(NamedTuple):
    """A scenario of `test_simulated_blocks.py`, and a test in which real processes die of kill -9."""

    scenario: str
    real: str


PROOFS = {
    "locks": Proof("guarded_counter", "coordination/test_locks_hold.py::test_a_killed_holder_is_taken_over_with_a_larger_token"),
    "idempotency": Proof("asked_again", "messaging/test_idempotency_races.py::test_a_killed_process_leaves_no_half"),
    "jobs": Proof("work_once", "messaging/test_jobs_crash.py::test_workers_killed_at_random_do_each_job_once"),
    "events": Proof("view_of_events", "messaging/test_events_crash.py::test_a_subscriber_killed_at_random_handles_each_event_once"),
    "webhooks": Proof("told_at_least_once", "messaging/test_webhooks_crash.py::test_dispatchers_killed_at_random_lose_nothing"),
    "ledger": Proof("money_moves_once", "products/test_ledger_races.py::test_a_killed_bank_loses_nothing_acknowledged"),
    "booking": Proof("box_office", "products/test_booking_races.py::test_a_killed_shop_loses_no_order_and_tears_none"),
    "payments": Proof("paid_once", "products/test_payments_crash.py::test_a_worker_killed_anywhere_loses_and_doubles_nothing"),
    "tokens": Proof("revoked_is_over", "identity/test_identity_crash.py::test_processes_killed_at_random_lose_and_double_nothing"),
    "sessions": Proof("ended_is_over", "identity/test_identity_crash.py::test_processes_killed_at_random_lose_and_double_nothing"),
    "audit": Proof("nothing_is_done_unseen", "identity/test_identity_crash.py::test_processes_killed_at_random_lose_and_double_nothing"),
}  # fmt: skip


def functions_of(path: Path) -> dict[str, ast.FunctionDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}


def simulated() -> set[str]:
    """The scenarios that the suite runs on both simulators."""
    names: set[str] = set()
    for path in (SIMULATED / "scenarios.py", SIMULATED / "test_simulated_blocks.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "SCENARIOS":
                assert isinstance(node.value, ast.Dict)
                names |= {key.id for key in node.value.keys if isinstance(key, ast.Name)}
    return names


def faults_of(path: Path, block: str, name: str) -> list[str]:
    """What this test lacks to be one of the block under real deaths, on both engines, in every run of the suite."""
    test = functions_of(path).get(name)
    if test is None:
        return ["it is not there"]
    text = path.read_text(encoding="utf-8")
    missing = [] if re.search(rf"\b{block}\b", text) else ["the block"]
    if not KILLERS & set(re.findall(r"\w+", text)):
        missing.append("a death")
    if not BOTH_ENGINES & {argument.arg for argument in test.args.args}:
        missing.append("an engine")
    if any(word in ast.unparse(mark) for mark in test.decorator_list for word in ("soak", "skip")):
        missing.append("a run of the suite")
    return missing


def test_every_block_has_both() -> None:
    assert list(PROOFS) == list(BLOCKS), "in the order of the index"


@pytest.mark.parametrize("block", BLOCKS)
def test_its_scenario_is_run_and_uses_it(block: str) -> None:
    scenario = PROOFS[block].scenario
    assert scenario in simulated()
    (home,) = [path for path in SIMULATED.glob("*.py") if scenario in functions_of(path)]
    assert re.search(rf"\b{block}\.\w+", home.read_text(encoding="utf-8"))


@pytest.mark.parametrize("block", BLOCKS)
def test_its_scenario_finds_a_planted_bug(block: str) -> None:
    """Or nobody knows that it can fail. `test_a_mutant_is_found` shows that it does."""
    planted = ast.parse((SIMULATED / "mutants.py").read_text(encoding="utf-8"))
    named = {node.attr for node in ast.walk(planted) if isinstance(node, ast.Attribute)}
    assert PROOFS[block].scenario in named


@pytest.mark.parametrize("block", BLOCKS)
def test_its_processes_die_in_every_run_of_the_suite(block: str) -> None:
    path, _, name = PROOFS[block].real.partition("::")
    assert faults_of(ROOT / "tests" / path, block, name) == []


def test_what_is_lacking_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "test_a.py"
    path.write_text("import pytest\n@pytest.mark.soak\ndef test_b(tmp_path): pass\n", encoding="utf-8")
    assert faults_of(path, "locks", "test_b") == ["the block", "a death", "an engine", "a run of the suite"]
    assert faults_of(path, "locks", "test_c") == ["it is not there"]
    assert "on_call" not in simulated(), "a scenario that no block's test runs"
