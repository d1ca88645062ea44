"""A pytest plugin for `coverage run`: which lines each test runs, and how many seconds it takes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import coverage
import pytest

_seconds: dict[str, float] = {}
_failed: set[str] = set()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """All that happens from setup to teardown of a test is its."""
    measuring = coverage.Coverage.current()
    assert measuring is not None, "run under `coverage run`"
    measuring.switch_context(item.nodeid)
    try:
        return (yield)
    finally:
        measuring.switch_context("")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Setup, call and teardown add up; a test that fails without a mutant says nothing about one."""
    if not report.passed:
        _failed.add(report.nodeid)
    _seconds[report.nodeid] = _seconds.get(report.nodeid, 0.0) + report.duration


def pytest_sessionfinish() -> None:
    """Leave the seconds where the environment says, and what the tests imported of other people's."""
    seconds = {test: s for test, s in _seconds.items() if test not in _failed}
    modules = [name for name, module in sys.modules.items() if "site-packages" in (getattr(module, "__file__", None) or "")]
    Path(os.environ["MUTATION_SECONDS"]).write_text(json.dumps({"seconds": seconds, "modules": modules}), encoding="utf-8")
