"""The dashboard in a real browser: by hand, live, without a script, on a phone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
from dashboard_ground import EVIL, dead, furnish, park
from http_calls import Served, serving

from onefold import Database, audit, jobs
from onefold.server.dashboard.catalogue import VIEWS
from onefold.testing.browser import Browser

PHONE_PX = 390
TOO_SMALL = (  # For a finger: WCAG 2.2 asks for 24 pixels.
    "[...document.querySelectorAll('a:not(.skip), button, input:not([type=hidden]), select, summary')]"
    ".filter(e => { const it = e.getBoundingClientRect(); return it.width > 0 && it.height < 24 })"
    ".map(e => e.outerHTML.slice(0, 120))"
)
PATHS = (
    "now", "jobs", "jobs?state=ready&kind=mail.letter", "jobs?state=dead", "failures", "bulk?do=retry&state=dead&kind=mail.letter",
    "streams", "webhooks", "locks", "ledger", "booking", "sessions", "audit",
)  # fmt: skip


Login = Callable[..., AbstractContextManager[tuple[Browser, str]]]


@pytest.fixture
def logged_in(onefold_browser: Callable[..., Browser]) -> Login:
    """A browser that logged in by the form, and where the dashboard is."""

    @contextmanager
    def come(server: Served, **how: object) -> Iterator[tuple[Browser, str]]:
        root = f"http://127.0.0.1:{server.port}/dashboard"
        with onefold_browser(**how) as browser:
            log_in(browser, root, server.token)
            yield browser, root

    return come


def log_in(browser: Browser, root: str, token: str, *, look: Callable[[], None] = lambda: None) -> None:
    browser.go(root)
    browser.wait("location.pathname.endsWith('/login')")
    look()
    browser.js(f"document.querySelector('[name=token]').value = {token!r}")
    browser.press("form.login button")


@pytest.mark.slow
def test_a_failed_job_is_retried_by_hand_and_leaves_the_list(db: Database, logged_in: Login) -> None:
    first, second = (db.run(lambda tx, error=error: dead(tx, error)) for error in (EVIL, "ConnectionError: mail 7 is away"))
    with serving(db) as server, logged_in(server) as (browser, root):
        assert "1 problem\n" in browser.text()
        browser.press('.verdict a[href$="/failures"]')
        assert "mail.letter" in browser.text()
        browser.go(f"{root}/jobs?state=dead&kind=mail.letter")
        assert first in browser.text()
        assert second in browser.text()
        browser.press(f'a[href$="id={second}"]')
        browser.click("form.action [name=reason]")
        browser.js("document.querySelector('form.action [name=reason]').value = 'The mail server is back.'")
        browser.press("form.action button")
        browser.wait("document.querySelector('.said')")
        listed = browser.js("document.querySelector('tbody').innerText")
        assert first in listed
        assert second not in listed
        assert browser.errors == []
    assert db.reader().run(jobs.get, second).state == "ready"
    assert any(one.subject == second and one.reason == "The mail server is back." for one in db.reader().run(audit.list_entries).items)


@pytest.mark.slow
def test_many_are_retried_step_by_step_without_a_hand(db: Database, logged_in: Login) -> None:
    count = 450

    def many(tx) -> None:
        for number in range(count):
            dead(tx, f"ConnectionError: mail {number} is away")

    db.run(many)
    with serving(db) as server, logged_in(server) as (browser, root):
        browser.go(f"{root}/bulk?do=retry&state=dead&kind=mail.letter")
        browser.js("document.querySelector('form.action [name=reason]').value = 'It is back.'")
        browser.click("form.action button")
        browser.wait("(document.body || {innerText: ''}).innerText.includes('Finished')", seconds=30)
        assert f"Finished: {count} jobs" in browser.text()
        assert browser.errors == []
    assert [(one.state, one.count) for one in db.reader().run(jobs.stats)] == [("ready", count)]


@pytest.mark.slow
def test_a_page_changes_while_somebody_looks_at_it(db: Database, logged_in: Login) -> None:
    with serving(db) as server, logged_in(server) as (browser, root):
        browser.go(f"{root}/jobs?state=dead")
        browser.wait("document.querySelector('.live').textContent === 'live'")
        job_id = db.run(dead)
        browser.wait(f"document.body.innerText.includes({job_id!r})")
        assert browser.errors == []


@pytest.mark.slow
def test_no_script_is_needed_and_none_of_a_job_runs(db: Database, logged_in: Login) -> None:
    names = db.run(furnish)
    with serving(db) as server:
        with logged_in(server) as (browser, root):
            for path in (*PATHS, f"job?id={names['ready']}", f"job?id={names['dead']}"):
                browser.go(f"{root}/{path}")
                assert browser.js("document.querySelectorAll('script:not([src]), main img, main script').length") == 0, path
            assert browser.errors == []
        with logged_in(server, script=False) as (browser, root):
            browser.go(f"{root}/job?id={names['dead']}")
            assert "What to do" in browser.text()
            browser.js("document.querySelector('form.action [name=reason]').value = 'Again.'")
            browser.press("form.action button")
            assert "Done: jobs.retry" in browser.text()
    assert db.reader().run(jobs.get, names["dead"]).state == "ready"


@pytest.mark.slow
def test_nothing_is_wider_than_a_phone(db: Database, onefold_browser: Callable[..., Browser]) -> None:
    """Every page that there is, with everything folded out; dark on one engine, light on the other."""
    dark = db.dialect == "sqlite"
    names = db.run(furnish)
    park(db)
    paths = {
        *PATHS, f"job?id={names['dead']}", f"job?id={names['ready']}", f"endpoint?id={names['endpoint']}", "parked?subscription=mailer",
    }  # fmt: skip
    assert {path.partition("?")[0] for path in paths} == set(VIEWS)
    too_wide = (
        "[...document.querySelectorAll('body *:not(.skip)')].filter(e => !e.closest('svg, thead') && e.getBoundingClientRect().width"
        " && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 120))"
    )
    with serving(db) as server, onefold_browser(width=PHONE_PX, height=844, dark=dark) as browser:
        root = f"http://127.0.0.1:{server.port}/dashboard"
        log_in(browser, root, server.token, look=lambda: fits(browser, "login", too_wide))
        titles = set()
        for path in sorted(paths):
            browser.go(f"{root}/{path}")
            browser.js("document.querySelectorAll('details').forEach(e => { e.open = true })")
            fits(browser, path, too_wide)
            titles.add(browser.js("document.title"))
            background = browser.js("getComputedStyle(document.body).backgroundColor")
            assert (background == "rgb(246, 247, 249)") is not dark, path
        assert len(titles) >= len(VIEWS)
        assert browser.errors == []


def fits(browser: Browser, path: str, too_wide: str) -> None:
    assert browser.js("document.documentElement.scrollWidth") <= PHONE_PX, path
    assert browser.js(too_wide) == [], path
    assert browser.js(TOO_SMALL) == [], path


@pytest.mark.slow
def test_a_keyboard_is_enough(db: Database, logged_in: Login) -> None:
    with serving(db) as server, logged_in(server) as (browser, root):
        browser.go(f"{root}/now")
        browser.js("document.querySelector('.skip').focus()")
        assert browser.js("document.querySelector('.skip').getBoundingClientRect().left") >= 0
        reached = "[...document.querySelectorAll('a, button, input, summary')].every(e => e.tabIndex >= 0)"
        assert browser.js(reached)
        assert browser.js("[...document.querySelectorAll('input:not([type=hidden])')].every(e => e.labels.length > 0)")
        browser.js("document.querySelector('nav a[href$=\"/locks\"]').focus()")
        browser.key("Enter")
        browser.wait("document.querySelector('h1')?.textContent === 'Locks'")
        assert browser.js("document.querySelector('[aria-current=page]').textContent") == "Locks"
