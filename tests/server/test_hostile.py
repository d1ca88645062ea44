"""Bad input at every route: a 4xx problem, never a traceback, nothing written."""

from __future__ import annotations

import contextlib
import json
import random
import re
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from block_tables import dump
from http_calls import Direct, Reply, bearer_for

from onefold import Database
from onefold.cli.answer import is_postgres
from onefold.core.route import Route
from onefold.server.routes import all_routes

DEEP = '{"a":' * 5_000 + "1" + "}" * 5_000

#: Raw JSON texts in the place of any value.
HOSTILE = [
    "null", "true", "-1", "0", "1.5", "1e400", "-0.0", "9223372036854775808", "-9223372036854775809", "1" + "0" * 400,
    '""', '"a\\u0000b"', '"\\ud800"', '"\\udc00\\ud800"', '"\u202e\u200b\ufeff"', '"' + "x" * 100_000 + '"',
    "\"'; DROP TABLE onefold_locks; --\"", '"%s :name {slot} ?1 $1"', '"../../etc/passwd"', '"\\u2028\\r\\n"',
    "[]", "{}", "[[[[]]]]", "[" * 5_000 + "]" * 5_000, DEEP, '{"__proto__":1}', '["a",1,null,{}]', "NaN", "Infinity",
]  # fmt: skip
#: Bytes in the place of a whole body.
BODIES = [
    b"", b"{", b"[]", b"null", b"1", b'"x"', b"\xff\xfe{}", b'{"a":"\xed\xa0\x80"}', b"{}{}", DEEP.encode(), b"[" * 200_000,
    b'{"":1}', b'{"tx":1}', b'{"self":1}', b'{"\\u0000":1}', b" " * 1_000_000 + b"{}", b" " * 1_100_000,
]  # fmt: skip
#: In the place of a query's or a path's value, percent-encoded where they have to be.
TEXTS = [
    "", "-1", "0", "1.5", "1e400", "9223372036854775808", "9" * 400, "x" * 20_000, "%00", "a%00b", "%ff", "%ed%a0%80",
    "%E2%80%AE", "%", "%zz", "%2e%2e%2f", "'%3B DROP TABLE onefold_locks", "null", "true", "[]", "%7B%7D", "a+b",
]  # fmt: skip


@pytest.fixture
def committed(db_url: str) -> Iterator[Callable[[], int] | None]:
    """SQLite's own number that changes with each commit; it spares a look at all rows after each request."""
    if is_postgres(db_url):
        yield None
        return
    with contextlib.closing(sqlite3.connect(db_url, check_same_thread=False)) as connection:
        yield lambda: int(connection.execute("PRAGMA data_version").fetchone()[0])


def test_every_route_survives_what_strangers_send(
    direct: Direct, db: Database, committed: Callable[[], int] | None
) -> None:
    refused = answered = 0
    for route in all_routes():
        space = f"{route.verb} {route.path}"  # Each route on ground of its own.
        arguments = msgspec.to_builtins(db.at(space).run(route.example))
        direct.token = bearer_for(db, space_name=space)
        before = dump(db)
        commits = committed() if committed is not None else 0
        for reply, what in attacks(direct, route, arguments):
            where = f"{route.verb} {route.path} {what[:120]!r}: {reply.status} {reply.body[:300]!r}"
            assert reply.status < 500, where
            assert b"Traceback" not in reply.body, where
            if reply.status >= 400:
                refused += 1
                assert reply.headers["content-type"] == "application/problem+json", where
                assert reply.json["status"] == reply.status, where
                if committed is not None and committed() != commits:
                    assert dump(db) == before, where
                    commits = committed()
            else:
                answered += 1
                before = dump(db)  # Odd, but allowed: an odd name is a name.
                commits = committed() if committed is not None else 0
        assert dump(db) == before, route.path
    print(f"{refused} refused, {answered} answered, {len(all_routes())} routes")
    assert refused > 10 * len(all_routes())
    assert answered < refused


def attacks(app: Direct, route: Route, arguments: dict[str, Any]) -> Iterator[tuple[Reply, str]]:
    in_path = set(re.findall(r"{(\w+)}", route.path))
    texts = {name: quote(_text(value), safe="") for name, value in arguments.items()}
    if route.verb in {"POST", "PUT"}:
        body = {name: json.dumps(value) for name, value in arguments.items() if name not in in_path}
        target = _filled(route, texts)
        for name in body:
            for hostile in HOSTILE:
                raw = _object({**body, name: hostile})
                yield app(route.verb, target, body=raw), f"{name}={hostile}"
        for raw in BODIES:
            if raw.strip() or body:
                yield app(route.verb, target, body=raw), repr(raw)
        yield app(route.verb, target, body=_object({**body, "surplus": "1"})), "surplus"
        yield app(route.verb, f"{target}?surplus=1", body=_object(body)), "surplus query"
    else:
        query = {name: value for name, value in texts.items() if name not in in_path}
        for name in query:
            for hostile in TEXTS:
                yield app(route.verb, _filled(route, texts) + _query({**query, name: hostile})), f"{name}={hostile}"
        yield app(route.verb, _filled(route, texts) + _query({**query, "surplus": "1"})), "surplus"
        yield app(route.verb, _filled(route, texts) + "?" + "&".join(f"a{n}=1" for n in range(1_000))), "many"
    for name in in_path:
        for hostile in TEXTS:
            target = _filled(route, {**texts, name: hostile})
            if route.verb in {"POST", "PUT"}:
                rest = {n: json.dumps(v) for n, v in arguments.items() if n not in in_path}
                yield app(route.verb, target, body=_object(rest)), f"path {name}={hostile}"
            else:
                rest = {n: v for n, v in texts.items() if n not in in_path}
                yield app(route.verb, target + _query(rest)), f"path {name}={hostile}"


def test_noise_is_refused(direct: Direct, db: Database) -> None:
    """Requests made of noise: any method, any path, any bytes."""
    dice = random.Random(2)
    before = dump(db)
    for _ in range(300):
        path = "/" + "/".join(
            dice.choice(["v1", "locks", "acquire", "tokens", "%2e", "..", "", "%F0%9F%92%A9", "docs", "{name}", "a;b"])
            for _ in range(dice.randrange(5))
        )
        method = dice.choice(["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "X"])
        reply = direct(method, path, body=dice.randbytes(dice.randrange(64)))
        assert reply.status < 500, (method, path, reply.body)
    assert dump(db) == before


def _object(fields: dict[str, str]) -> bytes:
    text = "{" + ",".join(f"{json.dumps(name)}:{value}" for name, value in fields.items()) + "}"
    return text.encode("utf-8", "surrogatepass")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _query(fields: dict[str, str]) -> str:
    return "?" + "&".join(f"{name}={value}" for name, value in fields.items()) if fields else ""


def _filled(route: Route, texts: dict[str, str]) -> str:
    return "/v1" + re.sub(r"{(\w+)}", lambda found: texts[found[1]], route.path)
