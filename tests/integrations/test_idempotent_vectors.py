"""The published vectors: every one holds, for both kinds of app and on both engines."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest
from idempotent_calls import KINDS, Answer, Died, Told, guarded

from onefold import Database, Invalid, idempotency
from onefold.index import folder_of
from onefold.messaging.idempotency.http import key_of, request_of, scope_of

VECTORS = json.loads((folder_of("idempotency") / "vectors.json").read_text(encoding="utf-8"))
AGE = {
    "the lease ends": "UPDATE onefold.idempotency_keys SET lease_until_ms = 1 WHERE space = :space",
    "the key expires": "UPDATE onefold.idempotency_keys SET expires_at_ms = 1 WHERE space = :space",
}


def named(vector: dict[str, Any]) -> str:
    return str(vector.get("name") or vector.get("header") or vector.get("path"))[:60]


def body_of(vector: dict[str, Any]) -> bytes:
    if "body_base64" in vector:
        return base64.b64decode(vector["body_base64"])
    return vector["body"].encode() * vector.get("times", 1)


@pytest.mark.parametrize("vector", VECTORS["keys"], ids=named)
def test_a_header_names_its_key(vector: dict[str, str]) -> None:
    values = [vector["header"].encode("latin-1")]
    if "key" in vector:
        assert key_of(values) == vector["key"]
    else:
        with pytest.raises(Invalid) as refused:
            key_of(values)
        assert refused.value.code == vector["error"]


def test_no_header_names_no_key_and_two_are_refused() -> None:
    assert key_of([]) is None
    with pytest.raises(Invalid):
        key_of([b"a", b"a"])


@pytest.mark.parametrize("vector", VECTORS["scopes"], ids=named)
def test_a_scope_has_route_and_tenant(vector: dict[str, str]) -> None:
    assert scope_of(vector["method"], vector["path"], vector["tenant"]) == vector["scope"]


def test_scopes_have_limits() -> None:
    assert len(scope_of("M" * 32, "/" + "\u20ac" * 10_000, "t" * 100)) <= 200
    for method, tenant in (("POST", ""), ("POST", "t" * 101), ("M" * 33, "ana")):
        with pytest.raises(Invalid):
            scope_of(method, "/", tenant)


@pytest.mark.parametrize("vector", VECTORS["requests"], ids=named)
def test_a_request_has_its_fingerprint(db: Database, vector: dict[str, Any]) -> None:
    request = request_of(vector["query"].encode(), vector["content_type"], body_of(vector))
    assert request == vector["request"]
    db.run(idempotency.begin, "k1", scope="s", request=request)
    stored = db.run(lambda tx: tx.one("SELECT fingerprint FROM onefold.idempotency_keys WHERE space = :space"))
    assert stored == (vector["fingerprint"],)


@pytest.mark.parametrize("vector", VECTORS["requests"], ids=named)
def test_the_fingerprints_are_what_the_file_says_they_are(vector: dict[str, Any]) -> None:
    """By a second implementation, from the words of the file alone."""
    body = body_of(vector)
    if vector["request"][2] == "json":
        body = canonical(json.loads(body, parse_int=Sent, parse_float=Sent)).encode()
    digest = hashlib.sha256(body).hexdigest()[:32]
    media = vector["content_type"].split(";")[0].lower()
    assert vector["request"] == [vector["query"], media, vector["request"][2], digest]
    assert vector["fingerprint"] == hashlib.sha256(canonical(vector["request"]).encode()).hexdigest()[:32]


class Sent(str):
    """A number as it was sent."""

    __slots__ = ()


def canonical(value: Any) -> str:
    if isinstance(value, Sent):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{canonical(name)}:{canonical(value[name])}" for name in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def test_equal_fingerprints_are_the_same_requests_and_no_others() -> None:
    """The names say which are the same; every other pair differs."""
    order = {vector["name"] for vector in VECTORS["requests"][:3]}
    same = [order, {"an escaped letter", "the letter itself"}, {"an escaped slash", "the slash itself"}]
    groups: dict[str, set[str]] = {}
    for vector in VECTORS["requests"]:
        groups.setdefault(vector["fingerprint"], set()).add(vector["name"])
    assert [group for group in groups.values() if len(group) > 1] == same


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vector", VECTORS["exchanges"], ids=named)
def test_an_exchange_goes_as_written(db: Database, kind: str, vector: dict[str, Any]) -> None:
    told = Told()
    ask = guarded(kind, told, db=db, keys=lambda _method, _path: vector["keys"], request_bytes_max=1_024)
    for step in vector["steps"]:
        if isinstance(step, str):
            db.run(lambda tx, step=step: tx.run(AGE[step]))
            continue
        app, ran = step["app"], len(told.numbers)
        told.answer = app
        if isinstance(app, dict):
            told.answer = Answer(app["status"], [tuple(pair) for pair in app["headers"]], body_of(app))
        request = dict(step["request"])
        request.update(body=request["body"].encode(), key=request.pop("idempotency_key"))
        if step["expect"] is None:
            with pytest.raises(Died if app == "dies" else ZeroDivisionError):
                ask(**request)
        else:
            check(ask(**request), step["expect"], app)
        assert len(told.numbers) == ran + (app is not None)
        if app is not None:
            free = vector["keys"] == "off" or request["key"] is None or request["tenant"] is None
            assert told.numbers[-1] == (None if free else step.get("attempt", 1))
            assert told.bodies[-1] == request["body"]


def check(found: Answer, expect: dict[str, Any], app: Any) -> None:
    headers = dict(found.headers)
    assert found.status == expect["status"]
    assert (headers.pop("idempotent-replayed", None) == "true") == expect["replayed"]
    length = headers.pop("content-length", None)
    assert length is None or int(length) == len(found.body)
    if "body" in expect:
        assert found.body.decode() == expect["body"]
    if "code" in expect:
        assert json.loads(found.body)["code"] == expect["code"]
        assert headers["content-type"] == "application/problem+json"
    elif isinstance(app, dict):
        assert found.body == body_of(app)
    if "headers" in expect:
        assert list(headers.items()) == [tuple(pair) for pair in expect["headers"]]
    assert headers.get("retry-after") == expect.get("retry_after")
