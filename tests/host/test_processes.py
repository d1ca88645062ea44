"""What a process knows of itself and of what it runs on."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from onefold.host import processes


@pytest.mark.skipif(sys.platform != "linux", reason="processors are chosen on Linux")
def test_threads_stay_where_they_began_and_their_starter_does_not() -> None:
    allowed, seen = os.sched_getaffinity(0), list[set[int]]()
    with processes.threads_on_one_processor():
        [here] = os.sched_getaffinity(0)
        thread = threading.Thread(target=lambda: seen.append(os.sched_getaffinity(0)))
        thread.start()
    thread.join()
    assert seen == [{here}]
    assert os.sched_getaffinity(0) == allowed


@pytest.mark.skipif(sys.platform != "linux", reason="processors are chosen on Linux")
@pytest.mark.parametrize("why", ["it does not tell", "it refuses"])
def test_where_the_system_has_no_such_thing_threads_go_where_they_like(
    monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    allowed, policy = os.sched_getaffinity(0), os.sched_getscheduler(0)
    if why == "it refuses":
        monkeypatch.setattr(os, "sched_setaffinity", refuse)
        monkeypatch.setattr(os, "sched_setscheduler", refuse)
    else:
        monkeypatch.setattr(processes, "_sched_getcpu", lambda: None)
        monkeypatch.delattr(os, "sched_setscheduler")
    with processes.threads_on_one_processor():
        processes.never_push_others_out()
        assert os.sched_getaffinity(0) == allowed
    assert (os.sched_getaffinity(0), os.sched_getscheduler(0)) == (allowed, policy)


def refuse(*_: object) -> None:
    raise PermissionError
