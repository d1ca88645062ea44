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


@pytest.mark.parametrize("messages", [[], [{"type": "http.response.start", "status": 200}]])
def test_an_app_that_does_not_answer_is_told(messages: list[dict[str, Any]]) -> None:
    with pytest.raises(RuntimeError, match="before its answer was whole"):
        answer(*messages)
