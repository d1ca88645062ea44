"""A person buys tickets in a real browser, by day and by night, on a desk and in the hand, also without scripts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from boxoffice_house import Client
from examples.boxoffice.crowd.servers import House

from onefold.testing.browser import Browser

pytestmark = pytest.mark.slow
Browsers = Callable[..., Browser]
LIVE = "document.querySelector('#live.on')"
CENTRE = "[...document.querySelectorAll('g[data-row]')].find(g => g.dataset.name === 'Stalls centre, row L').dataset.row"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder: Path = tmp_path_factory.mktemp("house")
    with House(str(folder / "shop.db"), folder) as house:
        yield house
        assert "Traceback" not in house.log, house.log[-3_000:]


def fits(browser: Browser) -> bool:
    return bool(browser.js("document.documentElement.scrollWidth <= window.innerWidth"))


def seat(row: str, number: int) -> str:
    return f"g[data-row='{row}'] circle:nth-of-type({number})"


@pytest.mark.parametrize("dark", [False, True])
def test_a_person_picks_seats_pays_and_gets_the_receipt(house: House, onefold_browser: Browsers, dark: bool) -> None:
    with onefold_browser(dark=dark) as browser:
        browser.go(house.base + "/")
        assert fits(browser)
        browser.press("a[href='/works/hamlet']")
        browser.press(f".nights li:nth-of-type({2 if dark else 1}) a")
        browser.wait(LIVE)
        row = browser.js(CENTRE)
        for number in (8, 9):
            browser.click(seat(row, number))
        assert "Stalls centre, row L, seats 8, 9" in browser.text()
        assert "192.00 EUR" in browser.text()
        browser.press("#pick button")
        browser.wait("/^4:5[0-9]$/.test(document.querySelector('.clock .numeral').textContent)")
        browser.press("#pay button")
        browser.wait("document.querySelector('.state.sent')")
        assert "Enjoy the show." in browser.text()
        assert "row L" in browser.text()
        browser.press("a[href='/orders']")
        assert "1308.00 EUR" in browser.text()
        browser.press(".orders a")
        browser.press("main a.button")
        assert browser.js("document.querySelectorAll('#plan .mine').length") == 2
        assert browser.errors == []


@pytest.mark.parametrize("dark", [False, True])
def test_a_card_is_asked_for_and_declined_and_asked_for_again(house: House, onefold_browser: Browsers, dark: bool) -> None:
    with onefold_browser(dark=dark, width=390 if dark else 1280) as browser:
        browser.go(house.base + "/works/macbeth")
        browser.press(f".nights li:nth-of-type({2 if dark else 1}) a")
        browser.press("#best")
        browser.js("document.querySelector('#card select').value = 'tok_declined'")
        browser.press("#card button")
        assert "Asking your bank" in browser.text()
        assert fits(browser)
        browser.wait("document.querySelector('#card')")  # Without a touch: the page goes on by itself.
        assert "Your card was declined, and nothing was charged." in browser.text()
        assert fits(browser)
        browser.press("#card button")
        browser.wait("document.querySelector('.state.sent')")
        assert "Enjoy the show." in browser.text()
        assert "By card: Visa ending in 42" in browser.text()
        assert browser.errors == []


def test_the_plan_moves_while_the_crowd_buys(house: House, onefold_browser: Browsers) -> None:
    crowd = Client(house.base)
    token = {"Authorization": f"Bearer {crowd.json('POST', '/api/visitors')['token']}"}
    with onefold_browser() as browser:
        browser.go(house.base + "/works/tosca")
        browser.press(".nights a")
        browser.wait(LIVE)
        show = browser.js("location.pathname").rpartition("/")[2]
        row = browser.js(CENTRE)
        browser.click(seat(row, 5))
        held = crowd.json("POST", f"/api/performances/{show}/holds", {"row": int(row), "seats": [4, 5, 6]}, token)
        browser.wait(f"document.querySelectorAll(\"g[data-row='{row}'] .held\").length === 3")
        assert "Somebody was faster" in browser.text(), "the seat that was chosen here is gone"
        assert browser.js("document.querySelector('#pick button').disabled")
        crowd.json("POST", "/api/orders", {"hold": held["id"]}, {**token, "Idempotency-Key": "k"})
        browser.wait(f"document.querySelectorAll(\"g[data-row='{row}'] .sold\").length === 3")
        assert browser.js("document.querySelector('[data-count=sold]').textContent") == "3"
        assert browser.errors == []


def test_it_fits_a_phone(house: House, onefold_browser: Browsers) -> None:
    with onefold_browser(width=390, height=844) as browser:
        for path in ("/", "/works/faust"):
            browser.go(house.base + path)
            assert fits(browser), path
        browser.press(".nights a")
        browser.wait(LIVE)
        assert fits(browser)
        browser.click(seat(browser.js(CENTRE), 9))
        assert browser.js("document.querySelector('.scroll.near') !== null"), "the first tap comes closer"
        assert not browser.js("document.querySelectorAll('.picked').length")
        browser.click(seat(browser.js(CENTRE), 9))
        assert browser.js("document.querySelectorAll('.picked').length") == 1
        browser.press("#pick button")
        assert fits(browser)
        browser.press("#pay button")
        browser.wait("document.querySelector('.state.sent')")
        assert fits(browser)


def test_the_keyboard_reaches_every_seat(house: House, onefold_browser: Browsers) -> None:
    with onefold_browser() as browser:
        browser.go(house.base + "/works/norma")
        browser.press(".nights a")
        browser.wait(LIVE)
        browser.js("document.querySelector('#plan [tabindex=\"0\"]').focus()")
        for key in ("ArrowRight", "ArrowDown", "ArrowLeft", "Enter"):
            browser.key(key)
        label = browser.js("document.activeElement.getAttribute('aria-label')")
        assert "seat" in label
        assert "chosen" in label
        assert browser.js("document.querySelectorAll('.picked').length") == 1


def test_without_scripts_the_essentials_work(house: House, onefold_browser: Browsers) -> None:
    with onefold_browser(script=False) as browser:
        browser.go(house.base + "/works/carmen")
        browser.press(".nights a")
        assert "this page needs JavaScript" in browser.text()
        browser.press("#best")
        assert "These seats are yours to buy until" in browser.text()
        browser.press("#pay button")
        assert "Enjoy the show." in browser.text()


def test_when_the_time_is_over_the_till_says_so(house: House, onefold_browser: Browsers) -> None:
    """The clock counts by the server's time; here the page is told that almost all of it is gone."""
    with onefold_browser() as browser:
        browser.go(house.base + "/works/rigoletto")
        browser.press(".nights a")
        browser.press("#best")
        browser.js("(() => { const c = document.querySelector('.clock'); c.dataset.until = +c.dataset.now + 300; startClock(c); })()")
        browser.wait("!document.querySelector('#over').hidden")
        assert browser.js("document.querySelector('#pay button').disabled")


