"""`onefold serve` as processes: starting, ending, dying, and several on one database."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from http_calls import bearer_for
from processes import Process, command, environment, is_running, running
from waiting import until

import onefold
from onefold import events
from onefold.host.gate import Gate

READY_S_MAX = 5.0  # The bar is 1.0 on an idle machine; this one is shared with other tests.
RSS_MIB_MAX = 100.0


def token_for(url: str) -> str:
    with onefold.connect(url) as db:
        return bearer_for(db)


def rss_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def test_it_is_ready_soon_and_small(db_url: str, tmp_path: Path) -> None:
    token = token_for(db_url)
    with running(url=db_url, folder=tmp_path) as process:
        assert process.request("GET", "/readyz")[0] == 200
        assert process.request("GET", "/v1/tokens", token=token)[0] == 200
        rss = rss_mib(process.pids[0])
        print(f"ready after {process.ready_s:.2f} s, {rss:.0f} MiB")
        assert process.ready_s < READY_S_MAX
        assert rss < RSS_MIB_MAX
        assert process.end() == 0
        assert "Traceback" not in process.errors()


def test_it_makes_its_own_file_and_hints_at_tokens(tmp_path: Path) -> None:
    url = str(tmp_path / "fresh.db")
    with running(url=url, folder=tmp_path) as process:
        assert process.request("GET", "/v1/tokens")[0] == 401
        assert process.request("GET", "/v1/tokens", token=token_for(url))[0] == 200, "made while it runs"


def test_sigterm_finishes_what_runs_and_says_not_ready_first(tmp_path: Path) -> None:
    url = str(tmp_path / "t.db")
    token = token_for(url)
    with running("--lame-duck-ms", "3000", url=url, folder=tmp_path) as process:
        gate = Gate(Path(url))
        gate.acquire()  # Nobody can commit now.
        answers: list[tuple[int, object]] = []
        placed = {"stream": "order/1", "events": [{"kind": "order.placed", "data": {}}]}
        slow = threading.Thread(
            target=lambda: answers.append(process.request("POST", "/v1/events", token=token, send=placed))
        )
        slow.start()
        until(lambda: gate_is_wanted(url), "the request never reached the writer")
        process.popen.send_signal(signal.SIGTERM)
        until(lambda: process.request("GET", "/readyz")[0] == 503, "still ready after SIGTERM")
        assert process.request("GET", "/livez")[0] == 200
        until(lambda: refuses(process.port), "still takes connections")
        assert slow.is_alive()
        gate.release()
        slow.join(20)
        gate.close()
        assert answers[0][0] == 200
        assert process.popen.wait(20) == 0


def gate_is_wanted(url: str) -> bool:
    """Whether somebody waits for the gate, which is to say holds the turn."""
    other = Gate(Path(url))
    try:
        import fcntl

        fcntl.flock(other._turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(other._turn, fcntl.LOCK_UN)
    except BlockingIOError:
        return True
    finally:
        other.close()
    return False


def refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def test_ctrl_c_ends_it_at_once(tmp_path: Path) -> None:
    with running("--lame-duck-ms", "600000", url=str(tmp_path / "t.db"), folder=tmp_path) as process:
        assert process.end(signal.SIGINT) == 0
        assert "Traceback" not in process.errors()


def test_two_that_start_at_once_on_a_fresh_file_both_serve(tmp_path: Path) -> None:
    url = str(tmp_path / "t.db")
    with ThreadPoolExecutor(2) as threads:
        starting = [threads.submit(Process, url=url, log=tmp_path / f"{number}.log") for number in range(2)]
        both = [future.result() for future in starting]
    try:
        token = token_for(url)
        for number, process in enumerate(both):
            assert process.request("POST", "/v1/tokens", token=token, send={"name": "n", "digest": "0" * 64, "rights": ["*"]})[0] == 200
            _, page = process.request("GET", "/v1/tokens", token=token)
            assert len(page["items"]) == 2 + number
    finally:
        for process in both:
            process.close()


def append(process: Process, token: str, number: int) -> int:
    event = {"stream": f"s/{number % 7}", "events": [{"kind": "test.n", "data": {"n": number}}]}
    return process.stubborn("POST", "/v1/events", token=token, send=event, key=f"n{number}")[0]


def numbers_in(url: str) -> list[int]:
    with onefold.connect(url) as db:
        found = []
        for stream in range(7):
            page = db.reader().run(events.read_stream, f"s/{stream}", limit=1_000)
            found += [int(msgspec.json.decode(event.data)["n"]) for event in page.items]
        return sorted(found)


def test_four_workers_on_one_database_survive_kill_9(db_url: str, tmp_path: Path) -> None:
    token = token_for(db_url)
    total = 240
    with running("--workers", "4", "--pool-max", "5", url=db_url, folder=tmp_path) as process:
        assert len(set(process.pids)) == 4
        assert all(is_running(pid) for pid in process.pids)
        with ThreadPoolExecutor(8) as threads:
            work = [threads.submit(append, process, token, number) for number in range(total)]
            for at, pid in ((total // 4, process.pids[0]), (total // 2, process.pids[1])):
                until(lambda at=at: sum(f.done() for f in work) >= at, "the crowd stands still")
                os.kill(pid, signal.SIGKILL)
            assert {future.result() for future in work} == {200}
        until(lambda: process.errors().count("killed by SIGKILL") == 2, "the parent did not notice")
        assert process.end() == 0
        assert "Traceback" not in process.errors()
    assert numbers_in(db_url) == list(range(total)), "lost or doubled"


def test_ending_while_a_worker_waits_to_be_started_again(tmp_path: Path) -> None:
    with running("--workers", "2", url=str(tmp_path / "t.db"), folder=tmp_path) as process:
        for round_number in range(1, 4):  # Each death doubles the pause before the next start.
            victims = children_of(process.popen.pid)
            os.kill(victims[0], signal.SIGKILL)
            deaths = round_number
            until(lambda deaths=deaths: process.errors().count("killed by SIGKILL") == deaths, "unnoticed")
            if round_number < 3:
                until(lambda: len(children_of(process.popen.pid)) == 2, "not started again")
        assert process.end() == 0


def children_of(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def test_killing_every_worker_loses_no_connection(tmp_path: Path) -> None:
    url = str(tmp_path / "t.db")
    token = token_for(url)
    with running("--workers", "2", url=url, folder=tmp_path) as process:
        for pid in process.pids:
            os.kill(pid, signal.SIGKILL)
        # The parent holds the socket: this waits in its queue for the next worker.
        assert append(process, token, 1) == 200
        assert process.end() == 0


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    with running("--workers", "2", "--lame-duck-ms", "0", url=str(tmp_path / "t.db"), folder=tmp_path) as process:
        assert process.end(signal.SIGKILL) == -signal.SIGKILL
        until(lambda: not any(is_running(pid) for pid in process.pids), "workers live on without a parent")
        assert refuses(process.port)


def test_a_server_killed_under_load_keeps_what_it_acknowledged(db_url: str, tmp_path: Path) -> None:
    token = token_for(db_url)
    acknowledged: list[int] = []

    def load(process: Process, first: int) -> None:
        for number in range(first, first + 10_000, 4):
            event = {"stream": f"s/{number % 7}", "events": [{"kind": "test.n", "data": {"n": number}}]}
            try:
                status, _ = process.request("POST", "/v1/events", token=token, send=event, key=f"n{number}")
            except (OSError, http.client.HTTPException):
                return
            if status == 200:
                acknowledged.append(number)

    for _ in range(2):
        with running(url=db_url, folder=tmp_path) as process:
            before = len(acknowledged)
            start = 10_000 * (1 + before)
            threads = [threading.Thread(target=load, args=(process, start + lane)) for lane in range(4)]
            for thread in threads:
                thread.start()
            until(lambda before=before: len(acknowledged) > before + 40, "the load stands still")
            process.end(signal.SIGKILL)
            for thread in threads:
                thread.join()
    stored = numbers_in(db_url)
    assert len(set(stored)) == len(stored), "doubled"
    assert set(acknowledged) <= set(stored), "lost"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, env=environment(), timeout=60, check=False)


def test_what_cannot_start_says_so_in_one_line(tmp_path: Path) -> None:
    url = str(tmp_path / "t.db")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run("serve", "--url", url, "--port", port)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert "in use" in done.stderr
    for extra in ((), ("--workers", "2")):
        done = run("serve", "--url", str(tmp_path / "no" / "t.db"), "--port", "0", *extra)
        assert done.returncode != 0
        assert "The folder of the database file does not exist" in done.stderr
        assert "Traceback" not in done.stderr


def test_leaving_loopback_is_said_aloud(tmp_path: Path) -> None:
    with running("--host", "0.0.0.0", url=str(tmp_path / "t.db"), folder=tmp_path) as process:  # noqa: S104
        assert "warning: listening on 0.0.0.0" in process.errors()
        assert process.request("GET", "/livez")[0] == 200


@pytest.mark.parametrize("arguments", [("--port", "70000"), ("--workers", "0"), ("--durability", "never"), ("--nonsense",)])
def test_wrong_usage_is_code_2(arguments: tuple[str, ...]) -> None:
    assert run("serve", *arguments).returncode == 2
