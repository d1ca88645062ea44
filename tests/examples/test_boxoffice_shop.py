"""The shop over real HTTP: pages for people without a script, JSON for programs, and no way to hurt it."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from boxoffice_house import Client, field
from examples.boxoffice.crowd.servers import House
from waiting import until

import onefold
from onefold import booking, payments
from onefold.testing.provider import SECRET
from onefold.testing.receiver import deliveries

JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder: Path = tmp_path_factory.mktemp("house")
    with House(str(folder / "shop.db"), folder) as house:
        house.folder = folder
        house.db = onefold.connect(folder / "shop.db")
        yield house
        house.db.close()
        assert "Traceback" not in house.log, house.log[-3_000:]


@pytest.fixture
def client(house: House) -> Client:
    return Client(house.base)


@pytest.fixture
def show(client: Client) -> str:
    return str(client.json("GET", "/api/performances?limit=1")["items"][0]["id"])


@pytest.fixture
def bearer(client: Client) -> dict[str, str]:
    return {"Authorization": f"Bearer {client.json('POST', '/api/visitors')['token']}"}


def hold(client: Client, show: str, bearer: dict[str, str], **wish: object) -> str:
    found = client.json("POST", f"/api/performances/{show}/holds", wish or {"count": 2}, bearer)
    assert client.status == 201, found
    return str(found["id"])


def test_a_person_without_javascript_buys_and_sees_the_order(client: Client) -> None:
    season = client.get("/?genre=Opera")
    assert "Carmen" in season
    assert "Hamlet" not in season
    work = client.get("/works/carmen")
    show = work.split('href="/performances/')[1].split('"')[0]
    evening = client.get(f"/performances/{show}")
    till = client.post(f"/performances/{show}/hold", {"form": field(evening, "form"), "count": "3", "section": ""})
    assert client.path.startswith("/holds/")
    assert "3 seats" in till
    assert "360.00 EUR" in till, "three at 96, and a quarter more for the orchestra"
    paid = {"form": field(till, "form"), "key": field(till, "key")}
    order = client.post(f"{client.path}/pay", paid)
    assert client.path.startswith("/orders/order_")
    assert "Enjoy the show." in order
    path = client.path
    mine = client.get(f"/performances/{show}")
    assert mine.count('class="mine"') == 3 + 1, "three seats, and the legend"
    until(lambda: "Receipt sent at" in client.get(path))
    history = client.get("/orders")
    assert "Carmen" in history
    assert "1140.00 EUR" in history
    client.post("/wallet", {"form": field(history, "form"), "key": field(history, "key")})
    assert "1640.00 EUR" in client.get("/orders")


def paid(client: Client, payment: str, bearer: dict[str, str]) -> dict:
    """The payment, once the provider has answered."""

    def decided() -> dict | None:
        seen = client.json("GET", f"/api/payments/{payment}", None, bearer)
        return seen if seen["state"] != "paying" else None

    return until(decided, "the provider's answer")


def test_a_person_without_javascript_pays_by_card(client: Client, show: str) -> None:
    evening = client.get(f"/performances/{show}")
    till = client.post(f"/performances/{show}/hold", {"form": field(evening, "form"), "count": "2", "section": ""})
    held = client.path
    card = {"form": field(till, "form"), "key": field(till, "key"), "card": "tok_declined"}
    page = client.post(f"{held}/card", card)
    assert "Asking your bank" in page
    assert 'http-equiv="refresh"' in page
    assert client.get(held) == "", "who goes back to the till ..."
    assert client.headers["location"].startswith("/payments/"), "... is led to the payment"
    payment = client.headers["location"]
    declined = until(lambda: "declined" in (page := client.get(payment)) and page, "the decline")
    assert "Your card was declined, and nothing was charged. The seats are still yours" in declined
    client.post(f"{held}/card", {**card, "key": field(declined, "key"), "card": "tok_visa"})
    payment = client.path
    until(lambda: client.get(payment) == "" and client.status == 303, "the money")
    order = client.get(client.headers["location"])
    assert "Enjoy the show." in order
    assert "1500.00 EUR" in client.get("/orders"), "nothing was taken from the wallet"


def test_seats_given_back_while_the_bank_is_asked_are_free(client: Client, house: House, show: str) -> None:
    evening = client.get(f"/performances/{show}")
    till = client.post(f"/performances/{show}/hold", {"form": field(evening, "form"), "seats": "101:3,4"})
    held = client.path
    client.post(f"{held}/card", {"form": field(till, "form"), "key": field(till, "key"), "card": "tok_visa"})
    payment = client.path
    client.post(f"{held}/release", {"form": field(till, "form")})
    assert client.path == f"/performances/{show}"
    assert "This payment has ended." in client.get(payment)
    until(lambda: client.json("GET", f"/api/performances/{show}/seats")["rows"]["101"][2:4] == "00")
    id = payment.removeprefix("/payments/")
    until(lambda: house.db.run(payments.intent_of, id).asked is None, "the provider was told")
    if house.db.run(payments.intent_of, id).late.minor:
        assert "on their way back to your card" in client.get(payment)


def test_programs_pay_by_card(client: Client, show: str, bearer: dict[str, str]) -> None:
    wanted = {"hold": hold(client, show, bearer), "card": "tok_visa"}
    client.json("POST", "/api/orders", wanted, bearer)
    assert client.status == 400, "no key"
    asked = client.json("POST", "/api/orders", wanted, {**bearer, "Idempotency-Key": "c1"})
    assert (client.status, client.headers["location"]) == (202, f"/api/payments/{asked['payment']}")
    assert client.json("POST", "/api/orders", wanted, {**bearer, "Idempotency-Key": "c1"}) == asked
    assert client.headers["idempotency-replayed"] == "true"
    other = {"Authorization": f"Bearer {client.json('POST', '/api/visitors')['token']}"}
    client.json("GET", f"/api/payments/{asked['payment']}", None, other)
    assert client.status == 403
    seen = paid(client, asked["payment"], bearer)
    assert (seen["state"], seen["hold"]) == ("paid", wanted["hold"])
    until(lambda: client.json("GET", f"/api/orders/{seen['order']}", None, bearer)["receipt"])
    client.json("POST", "/api/orders", {**wanted, "card": "x" * 201}, {**bearer, "Idempotency-Key": "c2"})
    assert client.status in {400, 404}, "a token that is none, for seats that are gone"


def test_the_partner_hears_of_the_order(client: Client, house: House, show: str, bearer: dict[str, str]) -> None:
    wanted = {"hold": hold(client, show, bearer)}
    order = client.json("POST", "/api/orders", wanted, {**bearer, "Idempotency-Key": "w1"})

    def heard() -> list[Any]:
        return [one for one in deliveries(house.folder) if one.body and one.body["data"]["order"] == order["id"]]

    (told,) = until(heard, "the webhook")
    assert (told.name, told.body["type"], told.body["data"]["price"]) == ("partner", "order.placed", order["price"])


def test_only_the_provider_calls_back(client: Client) -> None:
    body = b'{"key":"pay_1","state":"captured","currency":"EUR","amount_minor":1}'
    signed = {"webhook-id": "e1", "webhook-timestamp": str(int(time.time()))}
    told = client.ask("POST", "/callbacks/fake", body, {**JSON, **signed, "webhook-signature": "v1,AAAA"})
    assert (client.status, json.loads(told)["code"]) == (403, "signature")
    ours = payments.signature(SECRET, "e1", signed["webhook-timestamp"], body)
    told = client.ask("POST", "/callbacks/fake", body, {**JSON, **signed, "webhook-signature": ours})
    assert (client.status, json.loads(told)["code"]) == (404, "intent"), "signed, but about nothing that we know"
    client.ask("POST", "/callbacks/fake", b"x" * 20_000, signed)
    assert client.status == 413
    client.ask("GET", "/callbacks/fake")
    assert client.status == 405


def test_the_button_pressed_twice_buys_once(client: Client, show: str) -> None:
    evening = client.get(f"/performances/{show}")
    till = client.post(f"/performances/{show}/hold", {"form": field(evening, "form"), "count": "2", "section": ""})
    path = client.path
    paid = {"form": field(till, "form"), "key": field(till, "key")}
    client.post(f"{path}/pay", paid)
    first = client.path
    client.post(f"{path}/pay", paid)
    assert client.path == first
    assert client.get("/orders").count('href="/orders/order_') == 1


def test_seats_can_be_picked_and_given_back(client: Client, show: str) -> None:
    evening = client.get(f"/performances/{show}")
    client.post(f"/performances/{show}/hold", {"form": field(evening, "form"), "seats": "100:3,4"})
    held = client.path
    until(lambda: client.json("GET", f"/api/performances/{show}/seats")["rows"]["100"][2:4] == "11")
    other = Client(f"http://{client._host}")
    page = other.get(f"/performances/{show}")
    told = other.post(f"/performances/{show}/hold", {"form": field(page, "form"), "seats": "100:4,5"})
    assert other.status == 409
    assert "Somebody was faster" in told
    client.post(f"{held}/release", {"form": field(evening, "form")})
    assert client.path == f"/performances/{show}"
    until(lambda: client.json("GET", f"/api/performances/{show}/seats")["rows"]["100"][2:4] == "00")


def test_forms_from_elsewhere_are_refused(client: Client, show: str) -> None:
    form = field(client.get(f"/performances/{show}"), "form")
    path, fields = f"/performances/{show}/hold", {"form": form, "count": "1"}
    for strange, headers in (
        ({"count": "1"}, {}), ({"form": "0" * 40, "count": "1"}, {}), (fields, {"Origin": "https://evil.example"}),
        (fields, {"Origin": "null"}), (fields, {"Sec-Fetch-Site": "cross-site"}),
    ):  # fmt: skip
        client.post(path, strange, headers)
        assert client.status == 403
    client.post(path, fields, {"Origin": f"http://{client._host}"})
    assert client.status == 200


def test_a_forged_cookie_is_a_stranger(client: Client, show: str) -> None:
    client.get(f"/performances/{show}")
    good = client.cookies["visitor"]
    client.cookies["visitor"] = good[:-1] + ("0" if good[-1] != "0" else "1")
    client.get(f"/performances/{show}")
    assert client.cookies["visitor"].split(".")[0] != good.split(".")[0]
    assert "httponly" in client.headers["set-cookie"].lower()
    assert "samesite=lax" in client.headers["set-cookie"].lower()


def test_what_people_type_is_escaped(client: Client) -> None:
    page = client.get("/?q=%3Cscript%3Ealert(1)%3C/script%3E%22")
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&quot;" in page
    assert "default-src 'none'" in client.headers["content-security-policy"]


def test_programs_buy_with_a_key_and_are_answered_alike(client: Client, show: str, bearer: dict[str, str]) -> None:
    wanted = {"hold": hold(client, show, bearer)}
    client.json("POST", "/api/orders", wanted, bearer)
    assert client.status == 400, "no key"
    keyed = {**bearer, "Idempotency-Key": "k1"}
    order = client.json("POST", "/api/orders", wanted, keyed)
    assert client.status == 201
    again = client.json("POST", "/api/orders", wanted, keyed)
    assert (again, client.headers["idempotency-replayed"]) == (order, "true")
    problem = client.json("POST", "/api/orders", {"hold": hold(client, show, bearer)}, keyed)
    assert (client.status, problem["code"]) == (422, "idempotency_mismatch")
    assert client.headers["content-type"] == "application/problem+json"
    until(lambda: client.json("GET", f"/api/orders/{order['id']}", None, bearer)["receipt"])


def test_nobody_reads_or_buys_for_somebody_else(client: Client, show: str, bearer: dict[str, str]) -> None:
    held = hold(client, show, bearer)
    other = {"Authorization": f"Bearer {client.json('POST', '/api/visitors')['token']}"}
    client.json("POST", "/api/orders", {"hold": held}, {**other, "Idempotency-Key": "k"})
    assert client.status == 403
    client.json("DELETE", f"/api/holds/{held}", None, other)
    assert client.status == 403
    order = client.json("POST", "/api/orders", {"hold": held}, {**bearer, "Idempotency-Key": "k"})
    client.json("GET", f"/api/orders/{order['id']}", None, other)
    assert client.status == 403
    client.json("POST", "/api/orders", {"hold": held}, {"Idempotency-Key": "k"})
    assert client.status == 401


BAD_BODIES = {
    "no JSON": b"{", "a list": b"[]", "deep": b"[" * 8_000 + b"]" * 8_000, "text for a number": b'{"count":"2"}',
    "negative": b'{"count":-1}', "nothing": b'{"count":0}', "eleven": b'{"count":11}', "huge": b'{"count":1e400}',
    "overflow": b'{"count":99999999999999999999}', "a float": b'{"count":1.5}', "unknown field": b'{"cuont":1}',
    "no such row": b'{"row":99999,"seats":[1]}', "row zero": b'{"row":0,"seats":[1]}', "no seats": b'{"row":1}',
    "seat zero": b'{"row":1,"seats":[0]}', "seat 64": b'{"row":1,"seats":[64]}', "twice": b'{"row":1,"seats":[1,1]}',
    "eleven seats": b'{"row":1,"seats":[1,2,3,4,5,6,7,8,9,10,11]}', "NUL": b'{"count":1,"section":"\\u0000"}',
    "lone surrogate": b'{"count":1,"section":"\\ud800"}', "long": b'{"count":1,"section":"' + b"x" * 9_000 + b'"}',
    "not UTF-8": b'{"section":"\xff"}', "no such section": '{"count":1,"section":"Логе\U0001f3ad"}'.encode(),
    "ttl": b'{"count":1,"ttl_ms":1}', "large": b'{"section":"' + b"x" * 20_000 + b'"}', "empty": b"",
}  # fmt: skip


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES)
def test_bad_bodies_are_told_so(
    client: Client, house: House, show: str, bearer: dict[str, str], body: bytes
) -> None:
    before = house.db.run(booking.seat_map, show).free
    told = json.loads(client.ask("POST", f"/api/performances/{show}/holds", body, {**JSON, **bearer}))
    assert 400 <= client.status < 500, told
    assert told["status"] == client.status
    assert told["code"]
    assert house.db.run(booking.seat_map, show).free >= before, "holds of other tests may lapse"


@pytest.mark.parametrize(
    ("verb", "path", "status"),
    [
        ("GET", "/nothing", 404), ("GET", "/works/nothing", 404), ("GET", "/performances/nothing", 404),
        ("GET", "/performances/%00", 400), ("GET", "/performances/" + "x" * 300, 400), ("GET", "/holds/nothing", 404),
        ("GET", "/orders/nothing", 404),
        ("GET", "/payments/nothing", 404), ("GET", "/payments/%00", 400), ("GET", "/api/payments/nothing", 404), ("GET", "/orders/%ff%fe", 404), ("PUT", "/", 405), ("POST", "/wallet", 415),
        ("GET", "/api/nothing", 404), ("PUT", "/api/orders", 405), ("GET", "/api/performances/nothing/seats", 404),
        ("GET", "/api/performances?limit=0", 400), ("GET", "/api/performances?limit=x", 400),
        ("GET", "/api/performances?after=x", 400), ("GET", "/api/performances?from_s=-1", 400),
        ("POST", "/api/orders", 401), ("GET", "/static/x/../../purchase.py", 404), ("GET", "/performances/x/live", 404),
    ],
)  # fmt: skip
def test_wrong_addresses_are_told_so(client: Client, verb: str, path: str, status: int) -> None:
    page = client.ask(verb, path)
    assert client.status == status, page
    assert "Traceback" not in page
    wanted = "application/problem+json" if path.startswith("/api") or path.endswith("live") else "text/html; charset=utf-8"
    assert client.headers["content-type"] == wanted


def test_bad_forms_are_told_so(client: Client, show: str) -> None:
    form = field(client.get(f"/performances/{show}"), "form")
    for fields in (
        {"count": "99"}, {"count": ""}, {"count": "-1"}, {"count": "1", "section": "\0"}, {"seats": "1:"}, {"seats": "x:1"},
        {"seats": "1:1,2,3,4,5,6,7,8,9,10,11"}, {"seats": "1:99"}, {"seats": "99999999999:1"}, {"count": "\u0662"},
    ):  # fmt: skip
        client.post(f"/performances/{show}/hold", {"form": form, **fields})
        assert 400 <= client.status < 500, fields
    for body in (b"%ff=%fe&form=x", b"a=1&" * 50, b"x" * 20_000):
        client.ask("POST", f"/performances/{show}/hold", body, FORM)
        assert client.status in {400, 403, 413}


def test_a_viewer_sees_the_crowd_move(client: Client, house: House, show: str, bearer: dict[str, str]) -> None:
    line = http.client.HTTPConnection(house.base.removeprefix("http://"), timeout=20)
    line.request("GET", f"/performances/{show}/live")
    stream = line.getresponse()
    assert stream.getheader("content-type") == "text/event-stream"
    whole = next_event(stream)
    assert whole["whole"]
    assert sum(map(len, whole["rows"].values())) == 2_000
    hold(client, show, bearer, row=117, seats=[1, 2])
    while "117" not in (change := next_event(stream))["rows"]:
        pass
    assert not change["whole"]
    assert change["rows"]["117"].startswith("11")
    line.close()


def test_many_viewers_share_one_reader(client: Client, house: House, show: str, bearer: dict[str, str]) -> None:
    lines = []
    for _ in range(40):
        line = http.client.HTTPConnection(house.base.removeprefix("http://"), timeout=20)
        line.request("GET", f"/performances/{show}/live")
        lines.append((line, line.getresponse()))
    assert all(next_event(stream)["whole"] for _, stream in lines)
    hold(client, show, bearer, row=116, seats=[5])
    seen = []

    def watch(stream: http.client.HTTPResponse) -> None:
        while "116" not in (change := next_event(stream))["rows"]:
            pass
        seen.append(change["rows"]["116"][4])

    watchers = [threading.Thread(target=watch, args=(stream,)) for _, stream in lines]
    for watcher in watchers:
        watcher.start()
    for watcher in watchers:
        watcher.join()
    assert seen == ["1"] * 40
    for line, _ in lines:
        line.close()


def next_event(stream: http.client.HTTPResponse) -> dict:
    while True:
        line = stream.readline().decode()
        assert line, "the stream ended"
        if line.startswith("data: "):
            return json.loads(line.removeprefix("data: "))
