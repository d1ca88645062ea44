"""HTTP itself, over a real socket: limits on the head and body, slowness, pipelining, nonsense."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from http_calls import Served, serving
from raw_http import Raw

import onefold
from onefold import Tx
from onefold.core.route import Route
from onefold.server import app as app_module
from onefold.server import logs, protocol


def size(tx: Tx, *, text: str) -> int:
    """How long a text is."""
    assert tx.space is not None
    return len(text)


def look(tx: Tx) -> int:
    """Answer."""
    assert tx.space is not None
    return 1


ROUTES = (Route("POST", "/size", size, "test:write"), Route("GET", "/look", look, "test:read"))


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """HTTP is the same on both engines."""
    with onefold.connect(tmp_path / "t.db") as db, serving(db, *ROUTES, body_bytes_max=1_000) as server:
        yield server


@pytest.fixture
def raw(served: Served) -> Iterator[Raw]:
    with Raw(served) as connection:
        yield connection


def test_one_connection_serves_many_requests_also_pipelined(raw: Raw) -> None:
    request = b"GET /v1/look HTTP/1.1\r\nhost: x\r\n" + raw.auth + b"\r\n"
    raw.send(request * 5)
    assert [raw.answer()[2] for _ in range(5)] == [b"1"] * 5
    raw.send(request)
    assert raw.answer()[0] == 200


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v1/look HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 100_000,
        b"GET /" + b"a" * 100_000,
        b"GET / HTTP/1.1\r\n" + b"".join(b"x-%d: y\r\n" % number for number in range(200)) + b"\r\n",
        b"GET / HTTP/1.1\r\nx: " + b"y" * 40_000 + b"\r\n\r\n",
    ],
    ids=["endless field", "endless path", "many fields", "large field"],
)
def test_a_head_too_large_is_refused_and_the_connection_ended(raw: Raw, head: bytes) -> None:
    raw.send(head)
    status, fields, body = raw.answer()
    assert (status, fields["content-type"]) == (431, "application/problem+json")
    assert b"head_too_large" in body
    assert raw.ended()


def test_a_head_too_slow_is_refused(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_S_MAX", 0.1)
    for begin in (b"", b"GET /v1/look HTTP/1.1\r\nhost:"):
        with Raw(served) as raw:
            raw.send(begin)
            assert raw.answer()[0] == 408
            assert raw.ended()


def test_a_connection_waits_for_its_next_request_longer_than_a_head_may_take(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_S_MAX", 0.1)
    with Raw(served) as kept:
        for _ in range(2):
            kept.send(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
            assert kept.answer()[0] == 200
            with Raw(served) as silent:
                assert silent.answer()[0] == 408, "the time is over"


def test_a_second_head_too_slow_is_refused(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_S_MAX", 0.2)
    with Raw(served) as raw:
        raw.send(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
        assert raw.answer()[0] == 200
        raw.send(b"GET /livez HTT")
        assert raw.answer()[0] == 408


def test_a_body_too_slow_is_refused(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_module, "BODY_S_MAX", 0.1)
    with Raw(served) as raw:
        raw.send(b"POST /v1/size HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 10\r\n" + raw.auth + b"\r\n{")
        assert raw.answer()[0] == 408
        assert raw.ended()


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_too_large_is_refused_before_it_is_read(raw: Raw, *, chunked: bool) -> None:
    raw.send(b"POST /v1/size HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n" + raw.auth)
    if chunked:
        raw.send(b"transfer-encoding: chunked\r\n\r\n" + b"3e9\r\n" + b" " * 1_001 + b"\r\n")
    else:
        raw.send(b"content-length: 99999999999999\r\n\r\n")
    status, _, body = raw.answer()
    assert (status, b"too_large" in body) == (413, True)
    assert raw.ended()


def test_a_body_larger_than_a_head_may_be_is_read(tmp_path: Path) -> None:
    """Also when all of it comes at once, or its end together with the next request."""
    text = b"x" * (3 * protocol.HEAD_BYTES_MAX)
    with onefold.connect(tmp_path / "t.db") as db, serving(db, *ROUTES) as server, Raw(server) as raw:
        head = b"POST /v1/size HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n" + raw.auth
        one = head + b'content-length: %d\r\n\r\n{"text":"%b"}' % (len(text) + 11, text)
        raw.send(one)
        assert raw.answer()[::2] == (200, b"%d" % len(text))
        raw.send(one + one)
        assert [raw.answer()[0] for _ in range(2)] == [200, 200]


def test_a_chunked_body_is_read(raw: Raw) -> None:
    raw.send(
        b"POST /v1/size HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n" + raw.auth
        + b'\r\n5\r\n{"tex\r\n8\r\nt":"abc"\r\n1\r\n}\r\n0\r\n\r\n'
    )  # fmt: skip
    assert raw.answer()[2] == b"3"


@pytest.mark.parametrize(
    "nonsense",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\0" * 100, b"GET / SPDY/9\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nna me: x\r\n\r\n",
    ],
    ids=["tls", "nul", "version", "negative length", "two lengths", "length and chunked", "space in a name"],
)  # fmt: skip
def test_what_is_not_http_is_refused(raw: Raw, nonsense: bytes) -> None:
    raw.send(nonsense)
    assert raw.answer()[0] in {400, 431}
    assert raw.ended()


def test_head_has_no_body_and_the_connection_goes_on(raw: Raw) -> None:
    raw.send(b"HEAD /livez HTTP/1.1\r\nhost: x\r\n\r\nGET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
    assert raw.file.readline().startswith(b"HTTP/1.1 200")
    while raw.file.readline() != b"\r\n":
        pass
    assert raw.answer()[2] == b'{"status":"live"}'


def test_an_upgrade_is_not_followed(raw: Raw) -> None:
    raw.send(b"GET /v1/look HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n" + raw.auth + b"\r\n")
    assert raw.answer()[0] == 200


def test_the_access_log_says_what_and_not_with_which_token(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        served.request("GET", "/v1/look?secret=1")
        served.request("GET", "/v1/look")
        served.request("GET", "/v1/look")  # By its end the one before has been noted.
    lines = [record for record in caplog.records if record.name == "onefold.access"]
    assert [(record.getMessage(), record.status) for record in lines[:2]] == [  # type: ignore[attr-defined]
        ("GET /v1/look 400", 400), ("GET /v1/look 200", 200),
    ]  # fmt: skip
    text = "".join(logs.JsonFormatter().format(record) for record in caplog.records)
    assert served.token not in text
    assert "secret" not in text
    assert served.token.split("_")[1] in text, "the token's public id says who it was"
