"""The browser itself: it does what a person would, says what went wrong, and ends."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from waiting import until

from onefold import Invalid
from onefold.testing import browser as module
from onefold.testing.browser import Browser, find_chromium, flags

PAGE = b"""<!doctype html><meta name="viewport" content="width=device-width"><title>Shop</title>
<a href="/basket">Basket</a> <button onclick="this.textContent = 'Sold'">Buy</button> <input>
<a id="to-file" href="/file">File</a> <button id="sure" onclick="document.title = confirm('Sure?') ? 'Yes' : 'No'">Leave</button>
<script>if (location.pathname === '/basket') { console.log('in the basket'); undefined_function() }</script>"""


class Shop(BaseHTTPRequestHandler):
    """One page at every path."""

    def do_GET(self) -> None:
        self.send_response(404 if self.path == "/favicon.ico" else 200)
        self.send_header("content-type", "text/html")
        if self.path == "/file":
            self.send_header("content-disposition", "attachment")
        self.send_header("content-length", str(len(PAGE)))
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def shop() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Shop) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def one() -> Iterator[Browser]:
    """For tests that leave nothing behind but a page."""
    if find_chromium() is None:
        pytest.skip("no Chromium on PATH")
    with Browser() as browser:
        yield browser


@pytest.fixture
def browser(one: Browser) -> Browser:
    one.accepts = True
    one.errors.clear()
    one.dialogs.clear()
    return one


def test_a_person_looks_clicks_and_types(shop: str, onefold_browser: Callable[..., Browser], tmp_path) -> None:
    browser = onefold_browser(width=390, height=844, dark=True)
    browser.go(shop)
    assert browser.js("[innerWidth, innerHeight]") == [390, 844]
    assert browser.js("matchMedia('(prefers-color-scheme: dark)').matches")
    browser.click("button")
    browser.wait("document.querySelector('button').textContent === 'Sold'")
    assert "Sold" in browser.text()
    assert browser.js("Promise.resolve(7)") == 7
    assert not [error for error in browser.errors if "favicon" not in error]
    browser.press("a")
    assert browser.js("location.pathname") == "/basket"
    assert any("undefined_function" in error for error in browser.errors)
    browser.picture(tmp_path / "shop.png", whole=True)
    assert (tmp_path / "shop.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(LookupError, match="no #nowhere"):
        browser.click("#nowhere")
    with pytest.raises(RuntimeError, match="nothing_of_the_kind"):
        browser.js("nothing_of_the_kind()")
    with pytest.raises(TimeoutError, match="did not come true in 0 s"):
        browser.wait("false", seconds=0)
    with pytest.raises(TimeoutError, match=r"did not come true in 0 s at .*/basket; .*TypeError: Cannot read"):
        browser.wait("document.querySelector('#nowhere').textContent", seconds=0)
    browser.js("setTimeout(() => document.body.insertAdjacentHTML('beforeend', '<p id=later>Here</p>'), 50), 0")
    browser.wait("document.querySelector('#later').textContent === 'Here'")
    with socket.socket() as nobody:  # Bound, and never listening.
        nobody.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionError, match="ERR_CONNECTION_REFUSED"):
            browser.go(f"http://127.0.0.1:{nobody.getsockname()[1]}/")


def test_what_is_no_page_is_told_and_another_place_of_a_page_is_none(shop: str, browser: Browser) -> None:
    browser.go(shop)
    browser.js("self.same = 1")
    browser.go(f"{shop}/#further")
    assert browser.js("[location.hash, self.same]") == ["#further", 1]
    with pytest.raises(ConnectionError, match="download"):
        browser.go(f"{shop}/file")
    assert browser.js("self.same") == 1


def test_whatever_a_page_says_is_wrong_is_an_error(shop: str, browser: Browser) -> None:
    browser.go(shop)
    browser.errors.clear()
    browser.js("console.log('fine'), console.error('out of', {lamps: 2}, 7), console.assert(false, 'stock'), 0")
    browser.js("setTimeout(() => { throw 'a text' }), setTimeout(() => { throw new TypeError('no text') }), 0")
    browser.js("new Promise(done => setTimeout(done, 5))")
    assert [error.splitlines()[0] for error in browser.errors] == ["out of Object 7", "stock", "a text", "TypeError: no text"]


def test_who_asks_whether_one_is_sure_is_answered(shop: str, browser: Browser) -> None:
    browser.go(shop)
    browser.click("#sure")
    browser.accepts = False
    assert browser.js("document.title") == "Yes"
    browser.click("#sure")
    assert browser.js("document.title") == "No"
    assert browser.dialogs == ["Sure?", "Sure?"]


def test_keys_do_what_they_do(shop: str, browser: Browser) -> None:
    browser.go(shop)
    browser.click("input")
    for key in ["L", "a", "x", "Backspace", "m", "\u00e4", " ", "2", "Home", "Delete", "ArrowRight", "0"]:
        browser.key(key)
    assert browser.js("document.querySelector('input').value") == "a0m\u00e4 2"
    with pytest.raises(Invalid, match="no such key"):
        browser.key("Backspce")


def test_kill_9_of_who_started_it_leaves_nothing(tmp_path, onefold_browser: Callable[..., Browser]) -> None:
    del onefold_browser  # There is one.
    program = "import sys; from onefold.testing.browser import Browser\nb = Browser(); print(b._process.pid, b._folder, flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pid, folder = owner.stdout.readline().split()
        owner.kill()
    until(lambda: not Path(folder).exists(), "the removal of its profile")
    until(lambda: not alive(int(pid)), "all of its processes to end")


def test_a_browser_that_dies_says_so_and_leaves_nothing(onefold_browser: Callable[..., Browser], tmp_path) -> None:
    browser = onefold_browser()
    folder, pid = browser._folder, browser._process.pid
    assert folder.is_dir()
    os.killpg(pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="Chromium is gone"):
        browser.text()
    browser.close()
    browser.close()
    assert not folder.exists()
    until(lambda: not alive(pid), "all of its processes to end")
    with contextlib.ExitStack() as stack:  # They get the numbers of its pipes.
        files = [stack.enter_context((tmp_path / str(n)).open("w+b")) for n in range(4)]
        for act in (browser.text, lambda: browser.press("a"), lambda: browser.go("about:blank")):
            with pytest.raises(RuntimeError, match="closed"):
                act()
        assert [file.seek(0) or file.read() for file in files] == [b""] * 4


def alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_program_that_is_no_browser_is_told_with_what_it_said(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    program = tmp_path / "chromium"
    program.write_text("#!/bin/sh\necho no display >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert find_chromium() == str(program)
    with pytest.raises(RuntimeError, match=r"(?s)Chromium is gone.*no display"):
        Browser()


def test_what_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(module, "find_chromium", lambda: "/bin/false")
    for wrong in ({"width": 99}, {"height": 10_001}):
        with pytest.raises(Invalid, match="pixels"):
            Browser(**wrong)
    monkeypatch.undo()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Invalid, match=r"no Chromium on PATH.*google-chrome"):
        Browser()


def test_only_root_goes_without_the_sandbox() -> None:
    assert "--no-sandbox" in flags(root=True)
    assert "--no-sandbox" not in flags(root=False)
