"""The middleware where apps, programs and databases misbehave."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import pytest
from idempotent_calls import KINDS, Answer, Died, Told, guarded

import onefold
from onefold import Conflict, Database, Invalid, idempotency, idempotent_routes
from onefold.integrations.idempotent_routes import asgi
from onefold.messaging.idempotency.http import HEADER_BYTES_MAX

ASK = {"method": "POST", "path": "/orders", "query": "", "tenant": "ana", "content_type": "text/plain", "key": "k1",
       "body": b"two seats"}  # fmt: skip


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def told() -> Told:
    told = Told()
    told.answer = Answer(200, [("content-type", "text/plain")], b"done")
    return told


@pytest.mark.parametrize("options", [
    {"lease_ms": 0}, {"ttl_ms": 0}, {"request_bytes_max": 0}, {"request_bytes_max": True}, {"keep_headers": ["Set-Cookie"]},
    {"keep_headers": ["date"]},
])  # fmt: skip
def test_a_middleware_checks_what_it_is_told(db: Database, kind: str, told: Told, options: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        guarded(kind, told, db=db, **options)


def test_keys_of_a_tenant_that_is_no_name_are_refused(db: Database, kind: str, told: Told) -> None:
    ask = guarded(kind, told, db=db)
    for tenant in ("", "t" * 101, "a\nb"):
        assert ask(**ASK | {"tenant": tenant}).status == 400
    assert told.numbers == []


def test_headers_that_are_too_many_are_withheld(db: Database, kind: str, told: Told) -> None:
    ask = guarded(kind, told, db=db)
    told.answer = Answer(200, [("x-large", "x" * HEADER_BYTES_MAX)], b"done")
    assert [ask(**ASK).status for _ in range(2)] == [500, 500]
    assert told.numbers == [1]


def test_headers_that_have_no_form_to_be_stored_in_are_withheld_for_good(db: Database, kind: str, told: Told) -> None:
    ask = guarded(kind, told, db=db)
    told.answer = Answer(200, [("location", "/" + "\x01" * 12_000)], b"done")  # Six times as long in JSON.
    assert [ask(**ASK).status for _ in range(2)] == [500, 500]
    assert told.numbers == [1]


def test_a_question_for_the_head_alone_takes_no_key(db: Database, kind: str, told: Told) -> None:
    ask = guarded(kind, told, db=db, keys=lambda _method, _path: "required")
    told.answer = Answer(200, [("content-length", "17")], b"")
    answers = [ask(**ASK | {"method": "HEAD"}).headers for _ in range(2)]
    assert answers == [[("content-length", "17")]] * 2
    assert told.numbers == [None, None]


def test_an_attempt_can_be_renewed_by_the_app(db: Database, kind: str) -> None:
    seen: list[idempotency.Attempt] = []

    class Renewing(Told):
        def asked(self, attempt: idempotency.Attempt | None, body: bytes) -> Answer:
            assert attempt is not None
            seen.append(attempt)
            return super().asked(attempt, body)

    told = Renewing()
    told.answer = "dies"
    ask = guarded(kind, told, db=db, lease_ms=1_000)
    with pytest.raises(Died):
        ask(**ASK)
    renewed = db.run(idempotency.renew, seen[0], lease_ms=3_600_000)
    assert renewed.lease_until_ms - seen[0].lease_until_ms > 3_000_000
    assert ask(**ASK).status == 409


def test_a_database_that_is_gone_keeps_the_app_from_running(db_url: str, kind: str, told: Told) -> None:
    with onefold.connect(db_url) as lost:
        ask = guarded(kind, told, db=lost)
    assert ask(**ASK).status == 503
    assert told.numbers == []


class Taking(Told):
    """An app in whose middle its key is taken from it."""

    def __init__(self, db: Database, lapse_only: bool) -> None:
        super().__init__()
        self.db = db
        self.lapse_only = lapse_only

    def asked(self, attempt: idempotency.Attempt | None, body: bytes) -> Answer:
        assert attempt is not None
        taken = "UPDATE onefold.idempotency_keys SET lease_until_ms = 1, attempt = 'other' WHERE space = :space"
        lapsed = "UPDATE onefold.idempotency_keys SET lease_until_ms = 1 WHERE space = :space"
        self.db.run(lambda tx: tx.run(lapsed if self.lapse_only else taken))
        return super().asked(attempt, body)


@pytest.mark.parametrize(("said", "status"), [(200, 409), (503, 503)])
def test_an_answer_of_who_was_taken_over_is_not_given_out_as_final(
    real: Database, kind: str, said: int, status: int
) -> None:
    told = Taking(real, lapse_only=False)
    told.answer = Answer(said, [], b"late")
    reply = guarded(kind, told, db=real)(**ASK)
    assert reply.status == status
    assert real.run(idempotency.answer_of, "k1", scope="POST /orders ana") is None


def test_an_answer_after_the_lease_counts_if_nobody_came(real: Database, kind: str) -> None:
    told = Taking(real, lapse_only=True)
    told.answer = Answer(200, [], b"late")
    ask = guarded(kind, told, db=real)
    assert [ask(**ASK).body for _ in range(2)] == [b"late", b"late"]
    assert told.numbers == [1]


def test_an_error_of_ours_that_the_app_raises_without_a_key_stays_its_own(db: Database, kind: str) -> None:
    class Raising(Told):
        def asked(self, attempt: idempotency.Attempt | None, body: bytes) -> Answer:
            raise Conflict("Sold out.", code="sold_out")

    ask = guarded(kind, Raising(), db=db)
    for key in (None, "k1"):
        with pytest.raises(Conflict, match="Sold out"):
            ask(**ASK | {"key": key})


# -- ASGI alone ---------------------------------------------------------------------------------------


def play(app: Any, *incoming: dict[str, Any], kind: str = "http", stalls: bool = False) -> list[Any]:
    """What the app, behind the middleware, sends when it receives these messages and then a disconnect, or nothing."""
    scope = {"type": kind, "method": "POST", "path": "/orders", "query_string": b"", "tenant": "ana",
             "headers": [(b"idempotency-key", b"k1")], "extensions": {"http.response.pathsend": {}}}  # fmt: skip
    messages, said = list(incoming), []

    async def receive() -> Any:
        if stalls and not messages:
            await asyncio.Event().wait()
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        said.append(message)

    asyncio.run(app(scope, receive, send))
    return said


def middleware(app: Any, db: Database) -> Any:
    return idempotent_routes.ASGI(app, db, tenant=lambda scope: scope["tenant"])


WHOLE = {"type": "http.request", "body": b"{}"}


def rows(db: Database) -> int:
    return db.run(lambda tx: tx.one("SELECT count(*) FROM onefold.idempotency_keys WHERE space = :space"))[0]


def test_other_protocols_pass_by(db: Database) -> None:
    async def app(scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "websocket.close", "attempt": scope.get("onefold.attempt")})

    assert play(middleware(app, db), kind="websocket") == [{"type": "websocket.close", "attempt": None}]
    assert rows(db) == 0


def test_a_status_below_200_is_passed_on_and_not_stored(db: Database) -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 103, "headers": []})
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    guard = middleware(app, db)
    assert [message.get("status") for message in play(guard, WHOLE)] == [103, 200, None]
    assert [message.get("status") for message in play(guard, WHOLE)] == [200, None]


def test_what_runs_after_the_answer_cannot_undo_it(db: Database) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["extensions"] == {}  # A file sent by its path would not be stored.
        assert [(await receive())["type"] for _ in range(2)] == ["http.request", "http.disconnect"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})
        raise ZeroDivisionError  # As a background task of Starlette would.

    guard = middleware(app, db)
    with pytest.raises(ZeroDivisionError):
        play(guard, WHOLE)
    assert play(guard, WHOLE)[1]["body"] == b"done"


def test_an_app_without_an_answer_gives_the_key_back(db: Database) -> None:
    numbers: list[int] = []

    async def app(scope: Any, _receive: Any, send: Any) -> None:
        numbers.append(scope["onefold.attempt"].number)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})

    guard = middleware(app, db)
    assert play(guard, WHOLE) == play(guard, WHOLE) == []
    assert numbers == [1, 2]


def test_a_cancelled_request_keeps_its_lease(db: Database) -> None:
    """What it did outside may still be going on: only the end of the lease lets the next one in."""

    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        raise asyncio.CancelledError

    guard = middleware(app, db)
    with pytest.raises(asyncio.CancelledError):
        play(guard, WHOLE)
    assert play(guard, WHOLE)[0]["status"] == 409


def test_a_client_that_leaves_in_the_middle_of_its_body_begins_nothing(db: Database) -> None:
    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        raise AssertionError("called")

    assert play(middleware(app, db), WHOLE | {"more_body": True}) == []
    assert rows(db) == 0


def test_a_body_that_never_ends_is_given_up(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        raise AssertionError("called")

    monkeypatch.setattr(asgi, "BODY_S_MAX", 0.01)
    head, _ = play(middleware(app, db), WHOLE | {"more_body": True}, stalls=True)
    assert head["status"] == 408
    assert rows(db) == 0


# -- WSGI alone ---------------------------------------------------------------------------------------


class Response:
    """An iterable as frameworks make them, which notes that it was closed."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self.parts = parts
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        return self.parts

    def close(self) -> None:
        self.closed += 1


def fails() -> Iterator[bytes]:
    yield b"half"
    raise ZeroDivisionError


@pytest.mark.parametrize(("parts", "final"), [((b"do", b"ne"), True), ((b"x" * 65_537,), True), (None, False)])
def test_a_response_is_closed_once_whatever_becomes_of_it(db: Database, parts: Any, final: bool) -> None:
    made: list[Response] = []

    def app(environ: Any, start_response: Any) -> Response:
        assert "wsgi.file_wrapper" not in environ  # A file would pass by what is stored.
        start_response("200 OK", [])
        made.append(Response(fails() if parts is None else iter(parts)))
        return made[-1]

    guard = idempotent_routes.WSGI(app, db, tenant=lambda _environ: "ana")
    for _ in range(2):
        environ = {"REQUEST_METHOD": "POST", "PATH_INFO": "/", "CONTENT_LENGTH": "", "HTTP_IDEMPOTENCY_KEY": "k1",
                   "wsgi.input": BytesIO(b"never read"), "wsgi.file_wrapper": object()}  # fmt: skip
        if final:
            list(guard(environ, lambda *_: None))
        else:
            with pytest.raises(ZeroDivisionError):
                guard(environ, lambda *_: None)
    assert [response.closed for response in made] == ([1] if final else [1, 1])


def test_what_fails_after_the_whole_answer_cannot_undo_it(db: Database, caplog: pytest.LogCaptureFixture) -> None:
    ran: list[None] = []

    class Unclosable(list[bytes]):
        def close(self) -> None:
            raise ZeroDivisionError

    def app(_environ: Any, start_response: Any) -> Unclosable:
        ran.append(None)
        start_response("200 OK", [])
        return Unclosable([b"done"])

    guard = idempotent_routes.WSGI(app, db, tenant=lambda _environ: "ana")
    said = [guard({"REQUEST_METHOD": "POST", "PATH_INFO": "/", "HTTP_IDEMPOTENCY_KEY": "k1", "wsgi.input": BytesIO()},
                  lambda *_: None) for _ in range(2)]  # fmt: skip
    assert [list(parts) for parts in said] == [[b"done"], [b"done"]]
    assert len(ran) == 1
    assert "closing the response" in caplog.text


@pytest.mark.parametrize(("length", "terminated", "sent", "status"), [
    ("4", False, b"1234", 200), ("0" * 24 + "4", False, b"1234", 200), ("0", False, b"", 200), ("4", False, b"123", 400), ("many", False, b"1234", 400), ("-1", False, b"1", 400),
    ("9" * 30, False, b"", 413), ("", True, b"12345678", 200), ("", True, b"123456789", 413), ("", False, b"12", 200),
])  # fmt: skip
def test_a_body_is_read_within_its_limits(
    db: Database, length: str, terminated: bool, sent: bytes, status: int
) -> None:
    bodies: list[bytes] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        bodies.append(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
        start_response("200 OK", [])
        return []

    said: list[str] = []
    guard = idempotent_routes.WSGI(app, db, tenant=lambda _environ: "ana", request_bytes_max=8)
    guard({"REQUEST_METHOD": "POST", "PATH_INFO": "/", "CONTENT_LENGTH": length, "HTTP_IDEMPOTENCY_KEY": "k1",
           "wsgi.input_terminated": terminated, "wsgi.input": BytesIO(sent)}, lambda line, _headers: said.append(line))  # fmt: skip
    assert int(said[0][:3]) == status
    assert bodies == ([] if status != 200 else [sent if length or terminated else b""])
