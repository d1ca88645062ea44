"""Requests that a proxy in front may read in another way than this server: refused, never guessed at."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from http_calls import Served, serving
from raw_http import Raw

import onefold
from onefold import Tx
from onefold.core.route import Route
from onefold.server import protocol

HIDDEN = b"DELETE /v1/looked HTTP/1.1\r\nhost: x\r\n\r\n"


def size(tx: Tx, *, text: str) -> int:
    """How long a text is; each call counts."""
    tx.add("sizes", 1)
    return len(text)


def look(tx: Tx) -> int:
    """How often the other was called."""
    return tx.total("sizes")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """HTTP is the same on both engines."""
    routes = (Route("POST", "/size", size, "test:write"), Route("GET", "/look", look, "test:read"))
    with onefold.connect(tmp_path_factory.mktemp("http") / "t.db") as db, serving(db, *routes) as server:
        yield server


@pytest.fixture
def raw(served: Served) -> Iterator[Raw]:
    with Raw(served) as connection:
        yield connection


BODY = b'{"text":"abc"}'
CHUNK = b"e\r\n" + BODY + b"\r\n0\r\n\r\n"
FRAMINGS = {
    "length and chunked": b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n" + CHUNK,
    "chunked and length": b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n" + CHUNK,
    "unknown coding": b"transfer-encoding: xchunked\r\n\r\n" + CHUNK,
    "unknown coding and length": b"transfer-encoding: xchunked\r\ncontent-length: 14\r\n\r\n" + BODY,
    "identity": b"transfer-encoding: identity\r\ncontent-length: 14\r\n\r\n" + BODY,
    "compressed": b"transfer-encoding: gzip, chunked\r\n\r\n" + CHUNK,
    "chunked is not last": b"transfer-encoding: chunked, identity\r\n\r\n" + CHUNK,
    "chunked twice": b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n" + CHUNK,
    "vertical tab": b"transfer-encoding: \x0bchunked\r\n\r\n" + CHUNK,
    "space before the colon": b"transfer-encoding : chunked\r\n\r\n" + CHUNK,
    "length with a plus": b"content-length: +14\r\n\r\n" + BODY,
    "length as a list": b"content-length: 14, 14\r\n\r\n" + BODY,
    "length twice": b"content-length: 14\r\ncontent-length: 14\r\n\r\n" + BODY,
    "length in hexadecimal": b"content-length: 0xe\r\n\r\n" + BODY,
    "length with a space": b"content-length: 1 4\r\n\r\n" + BODY,
    "no length": b"content-length: \r\n\r\n" + BODY,
    "negative chunk": b"transfer-encoding: chunked\r\n\r\n-1\r\n\r\n0\r\n\r\n",
    "chunk over 64 bits": b"transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n\r\n0\r\n\r\n",
    "chunk with a prefix": b"transfer-encoding: chunked\r\n\r\n0xe\r\n" + BODY + b"\r\n0\r\n\r\n",
    "chunk with bare line feeds": b"transfer-encoding: chunked\r\n\r\n" + CHUNK.replace(b"\r\n", b"\n"),
    "line feed in an extension": b"transfer-encoding: chunked\r\n\r\ne;a\n=b\r\n" + BODY + b"\r\n0\r\n\r\n",
    "chunk too long": b"transfer-encoding: chunked\r\n\r\n" + CHUNK.replace(b"}\r\n", b"}XX"),
    "folded": b"x: a\r\n b: c\r\ncontent-length: 14\r\n\r\n" + BODY,
    "bare line feed": b"x: a\ncontent-length: 14\r\n\r\n" + BODY,
    "bare carriage return": b"x: a\rcontent-length: 14\r\n\r\n" + BODY,
    "NUL": b"x: a\0\r\ncontent-length: 14\r\n\r\n" + BODY,
}


@pytest.mark.parametrize("framing", FRAMINGS.values(), ids=FRAMINGS)
def test_a_body_with_two_ends_is_refused_and_nothing_behind_it_is_read(served: Served, raw: Raw, framing: bytes) -> None:
    before = served.request("GET", "/v1/look").json
    raw.send(b"POST /v1/size HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n" + raw.auth + framing + HIDDEN)
    status, fields, _ = raw.answer()
    assert (status, fields["connection"]) == (400, "close")
    assert raw.ended(), "or what follows would be read as a request"
    assert served.request("GET", "/v1/look").json == before


HEADS = {
    "no host": b"GET /livez HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /livez HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n",
    "the same host twice": b"GET /livez HTTP/1.1\r\nhost: x\r\nHost: x\r\n\r\n",
    "a host with a path": b"GET /livez HTTP/1.1\r\nhost: x/y\r\n\r\n",
    "a host with a user": b"GET /livez HTTP/1.1\r\nhost: a@b\r\n\r\n",
    "two hosts in one": b"GET /livez HTTP/1.1\r\nhost: a b\r\n\r\n",
    "a folded host": b"GET /livez HTTP/1.1\r\nhost: x\r\n y\r\n\r\n",
    "a folded first line": b"GET /livez HTTP/1.1\r\n host: x\r\n\r\n",
    "bare line feeds": b"GET /livez HTTP/1.1\nhost: x\n\n",
    "HTTP/0.9": b"GET /livez\r\n\r\n",
    "HTTP/1.2": b"GET /livez HTTP/1.2\r\nhost: x\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "chunked in HTTP/1.0": b"POST /livez HTTP/1.0\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "a proxy's method": b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nhost: x\r\n\r\n",
    "a small method": b"get /livez HTTP/1.1\r\nhost: x\r\n\r\n",
    "letters beyond ASCII": b"GET /livez\xc3\xa4 HTTP/1.1\r\nhost: x\r\n\r\n",
    "NUL in the path": b"GET /livez\0 HTTP/1.1\r\nhost: x\r\n\r\n",
    "a field's name beyond ASCII": b"GET /livez HTTP/1.1\r\nhost: x\r\nx\xc3\xa4: y\r\n\r\n",
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_a_head_with_two_readings_is_refused(raw: Raw, head: bytes) -> None:
    raw.send(head)
    assert raw.answer()[0] == 400
    assert raw.ended()


def test_what_is_in_order_is_still_read(raw: Raw) -> None:
    for head in (
        b"GET /livez HTTP/1.1\r\nhost: [::1]:8700\r\n\r\n", b"GET /livez HTTP/1.1\r\nhost:\r\n\r\n",
        b"\r\nGET /livez HTTP/1.1\r\nHOST: example.com:80\r\n\r\n", b"GET http://example.com/livez HTTP/1.1\r\nhost: example.com\r\n\r\n",
        b"GET /livez HTTP/1.0\r\n\r\n",
    ):  # fmt: skip
        raw.send(head)
        assert raw.answer()[0] == 200, head


def test_a_whole_address_asks_for_a_token_as_its_path_does(raw: Raw) -> None:
    raw.send(b"GET http://127.0.0.1/v1/look HTTP/1.1\r\nhost: x\r\n\r\n")
    assert raw.answer()[0] == 401
    raw.send(b"GET http://livez/v1/look HTTP/1.1\r\nhost: livez\r\n" + raw.auth + b"\r\n")
    assert raw.answer()[0] == 200


def test_a_body_where_none_belongs_is_no_request(raw: Raw) -> None:
    raw.send(b"GET /livez HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN)
    assert raw.answer()[0] == 200
    raw.send(b"GET /v1/look HTTP/1.1\r\nhost: x\r\n" + raw.auth + b"\r\n")
    assert (raw.answer()[0], raw.quiet()) == (200, True)


def test_a_trailer_becomes_no_field_of_the_head(raw: Raw) -> None:
    """A proxy that takes fields out of heads or checks them has not seen it."""
    head = b"POST /v1/size HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n"
    raw.send(head + b"\r\n" + CHUNK[:-2] + raw.auth + b"\r\n")
    assert raw.answer()[0] == 401
    raw.send(head + raw.auth + b"\r\n" + CHUNK[:-2] + b"content-type: text/plain\r\nauthorization: Bearer x\r\nx-request-id: theirs\r\n\r\n")
    status, fields, body = raw.answer()
    assert (status, body) == (200, b"3")
    assert fields["x-request-id"] != "theirs"


@pytest.mark.parametrize("tail", [b"0\r\nx: ", b"0\r\n" + b"x: y\r\n" * 10_000, b"1;"], ids=["field", "fields", "extension"])
def test_what_surrounds_a_body_is_bounded(raw: Raw, tail: bytes) -> None:
    raw.send(b"POST /v1/size HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n" + raw.auth + b"\r\n")
    raw.send(tail)
    raw.send(b"y" * 100_000)
    assert raw.answer()[0] in {400, 431}
    assert raw.ended()


def test_a_body_that_is_not_read_has_an_end_too(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is out; whoever goes on sending does not hold the connection."""
    monkeypatch.setattr(protocol, "MESSAGE_S_MAX", 0.2)
    with Raw(served) as raw:
        raw.send(b"POST /v1/size HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{")
        assert raw.answer()[0] == 401
        assert raw.ended()


def test_a_refusal_is_not_taken_for_the_answer_to_another_request(served: Served, raw: Raw) -> None:
    """Nonsense behind a request that is still being answered ends the connection, without a word in its place."""
    first = b"GET /v1/look HTTP/1.1\r\nhost: x\r\n" + raw.auth + b"\r\n"
    raw.send(first + b"NONSENSE\r\n\r\n")
    assert not raw.file.readline().startswith(b"HTTP/1.1 400")
    assert served.request("GET", "/v1/look").status == 200
