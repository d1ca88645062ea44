"""`onefold.testing.http` and the apps of other people: what ASGI allows them is understood, what it does not is said."""

from __future__ import annotations

from typing import Any

import pytest

from onefold.testing.http import Caller, Reply


def answer(*messages: dict[str, Any]) -> Reply:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    with Caller(app) as call:
        return call("GET", "/")


END = {"type": "http.response.body"}


def test_an_answer_may_have_no_headers_and_no_body() -> None:
    assert answer({"type": "http.response.start", "status": 204}, END) == Reply(204, {}, b"")


def test_names_of_headers_are_in_small_letters() -> None:
    assert answer({"type": "http.response.start", "status": 200, "headers": [(b"X-Y", b"Z")]}, END).headers == {"x-y": "Z"}


def test_no_header_of_several_with_one_name_is_lost() -> None:
    cookies = [(b"Set-Cookie", b"a=1"), (b"set-cookie", b"b=2")]
    assert answer({"type": "http.response.start", "status": 200, "headers": cookies}, END).headers == {"set-cookie": "a=1, b=2"}


def test_an_app_can_tell_where_it_is_unless_a_request_says_otherwise() -> None:
    async def app(scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [h for h in scope["headers"] if h[0] == b"host"]})
        await send(END)

    with Caller(app) as call:
        assert call("GET", "/").headers == {"host": "localhost"}
        assert call("GET", "/", headers={"Host": "shop.example"}).headers == {"host": "shop.example"}


@pytest.mark.parametrize("messages", [[], [{"type": "http.response.start", "status": 200}]])
def test_an_app_that_does_not_answer_is_told(messages: list[dict[str, Any]]) -> None:
    with pytest.raises(RuntimeError, match="before its answer was whole"):
        answer(*messages)
