"""The network that goes silent: nobody is told anything, what is under way arrives after it, and nothing is left."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from waiting import until

from onefold import Invalid
from onefold.testing.partition import Network, unavailable

SILENCE_S = 0.3


@pytest.fixture
def pair(network: Network, tmp_path: Path) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a connection through the network: a client's and the server's."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "server"))
        listener.listen()
        port = network.relay(tmp_path.name, f"unix:{tmp_path / 'server'}")
        with socket.create_connection((network.address, port), timeout=10) as client:
            server, _ = listener.accept()
            with server:
                server.settimeout(10)
                yield client, server


def hears(end: socket.socket) -> bytes:
    """What it gets soon; nothing at all is b"" and an end of the connection fails the test."""
    end.settimeout(SILENCE_S)
    try:
        data = end.recv(100)
    except TimeoutError:
        return b""
    finally:
        end.settimeout(10)
    assert data, "the connection was ended"
    return data


@pytest.mark.parametrize("lost", ["both", "requests", "answers"])
def test_each_direction_is_lost_without_a_word_and_arrives_after(
    network: Network, pair: tuple[socket.socket, socket.socket], lost: Literal["both", "requests", "answers"]
) -> None:
    client, server = pair
    client.sendall(b"hello")
    assert server.recv(100) == b"hello"
    with network.partition(lost):
        client.sendall(b"request")
        server.sendall(b"answer")
        assert hears(server) == (b"request" if lost == "answers" else b"")
        assert hears(client) == (b"answer" if lost == "requests" else b"")
    if lost != "answers":
        assert server.recv(100) == b"request"
    if lost != "requests":
        assert client.recv(100) == b"answer"


def test_a_partition_lasts_though_one_within_it_ends(network: Network, pair: tuple[socket.socket, socket.socket]) -> None:
    client, server = pair
    with network.partition("requests"):
        with network.partition("both"):
            server.sendall(b"answer")
            assert hears(client) == b""
        assert client.recv(100) == b"answer"
        with network.partition("requests"):
            pass
        client.sendall(b"request")
        assert hears(server) == b""
    assert server.recv(100) == b"request"


def test_what_would_cut_nothing_is_refused(network: Network) -> None:
    wrong: Any = "request"
    with pytest.raises(Invalid, match="requests, answers"), network.partition(wrong):
        pass
    with pytest.raises(Invalid, match="path"):
        network.relay("database", "127.0.0.1:5432")


def test_nobody_gets_in_meanwhile_and_nobody_is_refused(network: Network, tmp_path: Path) -> None:
    port = network.relay(tmp_path.name, f"unix:{tmp_path / 'nowhere'}")
    with network.partition(), pytest.raises(TimeoutError):
        socket.create_connection((network.address, port), timeout=SILENCE_S)
    socket.create_connection((network.address, port), timeout=10).close()


def test_two_networks_have_an_address_each_and_end_with_their_blocks(network: Network) -> None:
    with Network() as other:
        assert other.address != network.address
        name = other._near
        assert name in interfaces()
    assert name not in interfaces()
    assert network._near in interfaces()


def test_kill_9_leaves_nothing(network: Network) -> None:
    del network  # It is possible here.
    program = """
from onefold import Invalid
from onefold.testing.partition import Network
with Network() as network:
    print(network._near, flush=True)
    input()
"""
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with child:
        assert child.stdout is not None
        name = child.stdout.readline().strip()
        assert name in interfaces()
        child.kill()
    until(lambda: name not in interfaces(), "the kernel to take the cable away")


def test_where_there_can_be_none_it_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if shutil.which("ip") is not None:
        program = "import os; from onefold.testing import partition as p; {}; print(p.unavailable())"
        become = "os.setuid(65534)" if os.geteuid() == 0 else "pass"
        command = [sys.executable, "-c", program.format(become)]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert said.startswith("no network namespace can be made here: "), said
        assert "not permitted" in said
    monkeypatch.setenv("PATH", str(tmp_path))
    assert unavailable() == "ip (iproute2) is not installed"


def interfaces() -> list[str]:
    return [name for _, name in socket.if_nameindex()]
