"""Headless Chromium over its debugging pipe: no driver program, no library, no port.

    with Browser(width=390) as browser:
        browser.go("http://127.0.0.1:8000/")
        browser.press("a[href='/basket']")
        assert "2 lamps" in browser.text()
        assert browser.errors == []

The program is looked for on PATH, as Debian's `chromium` and under the names of others. It ends with the block, and
also when this process dies: a watchdog ends it, and removes its profile.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any, Self

from onefold.core.errors import Invalid
from onefold.testing.watchdog import Watchdog

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ANSWER_S_MAX = 30.0  # Also of the first, which it gives when it has started.
LOAD_S_MAX = 20.0
WAIT_S = 10.0
SIDE_PX_MIN, SIDE_PX_MAX = 100, 10_000
ERRORS_MAX = 1_000
DIALOGS_MAX = 1_000
LOADS_MAX = 100
PHONE_PX = 600  # A narrower window behaves as a phone's: the page's own width counts.
_NO_PAGE = "net::ERR_ABORTED"
_LOOK_S = 0.02
_READ_BYTES = 1 << 20

_FLAGS = (
    "--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars",
    "--remote-debugging-pipe",
)  # fmt: skip

# What a key is to a program beneath the page: without that number Backspace deletes nothing.
_KEYS = {
    "Backspace": 8, "Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "PageUp": 33, "PageDown": 34, "End": 35, "Home": 36,
    "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Delete": 46,
}  # fmt: skip

# Chromium reads its pipe from 3 and writes to 4. A program between sets that up, for what `subprocess` would run
# between fork and exec (`preexec_fn`) may hang where other threads live. First out of the way: the pipes may
# have got the very numbers that they are to have.
_WIRE = """
import fcntl, os, sys
high = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10) for fd in sys.argv[1:3]]
os.dup2(high[0], 3)
os.dup2(high[1], 4)
for fd in high:
    os.close(fd)
os.execv(sys.argv[3], sys.argv[3:])
"""


def find_chromium() -> str | None:
    """The path of the browser, or None when there is none on PATH."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


def flags(*, root: bool) -> tuple[str, ...]:
    """What it is started with. Root gets no sandbox, for Chromium refuses to start one; everybody else has it."""
    return (*_FLAGS, "--no-sandbox") if root else _FLAGS


class _ThrownError(RuntimeError):
    """An expression threw in the page."""


class Browser:
    """One page in one browser, which begins with a profile of its own.

    Attributes:
        errors: exceptions that nobody caught, and errors on the console; the first 1,000.
        dialogs: what `alert`, `confirm`, `prompt` and pages that were not to be left said; the first 1,000.
        accepts: what those are answered; True is OK.
    """

    def __init__(self, *, width: int = 1280, height: int = 900, dark: bool = False, script: bool = True) -> None:
        """Start it.

        Args:
            width: of the window, in CSS pixels, 100 to 10,000.
            height: likewise.
            dark: whether its user prefers dark pages.
            script: whether pages may run JavaScript.

        Raises:
            Invalid: there is no Chromium on PATH, or a side is out of range.
            RuntimeError: it ended instead of starting; TimeoutError: it did neither.
        """
        program = find_chromium()
        if program is None:
            raise Invalid("There is no Chromium on PATH.", code="no_chromium", looked_for=", ".join(NAMES))
        if not all(SIDE_PX_MIN <= side <= SIDE_PX_MAX for side in (width, height)):
            raise Invalid("A window is 100 to 10,000 pixels wide and high.", width=width, height=height)
        self.errors: list[str] = []
        self.dialogs: list[str] = []
        self.accepts = True
        self._folder = Path(tempfile.mkdtemp(prefix="onefold-chromium-"))
        self._watchdog = Watchdog(self._folder)
        self._buffer = b""
        self._number = 0
        self._frame = ""
        self._loaded: deque[str] = deque(maxlen=LOADS_MAX)
        self._session: str | None = None
        self._closed = False
        self._launch(program, width, height)
        try:
            self._attach(width=width, height=height, dark=dark, script=script)
        except BaseException:
            self.close()
            raise

    def go(self, url: str) -> None:
        """Load a page.

        Raises:
            ConnectionError: it could not be had, or is no page.
            TimeoutError: it was not loaded within 20 s.
        """
        before = self._document()
        answer = self._call("Page.navigate", url=url)
        failed = answer.get("errorText", "")
        if "loaderId" in answer and failed != _NO_PAGE:  # Else the page stays, as for another "#" of it.
            self._await_load(url, before)
        if failed:
            about = " (a download, or an answer without a page)" if failed == _NO_PAGE else ""
            raise ConnectionError(f"{url}: {failed}{about}")

    def press(self, selector: str) -> None:
        """Click what the selector finds, where that leads to another page, and wait for that page.

        Raises:
            LookupError: it finds nothing.
            TimeoutError: no page was loaded within 20 s.
        """
        before = self._document()
        self.click(selector)
        self._await_load(selector, before)

    def click(self, selector: str) -> None:
        """Click in the middle of what the selector finds, with a real pointer.

        Raises:
            LookupError: it finds nothing.
        """
        middle = self.js(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); if (!e) return null;"
            " e.scrollIntoView({block: 'center', behavior: 'instant'});"
            " const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        if middle is None:
            raise LookupError(f"there is no {selector} at {self.js('location.href')}")
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, x=middle[0], y=middle[1], button="left", clickCount=1)

    def key(self, name: str) -> None:
        """Press a key on whatever has the focus: a letter or another character, which is typed, or "Enter", "Tab",
        "Backspace", "Delete", "Escape", "Home", "End", "PageUp", "PageDown", "ArrowLeft" and so on.

        Raises:
            Invalid: there is no such key.
        """
        if name not in _KEYS and not (len(name) == 1 and name.isprintable()):
            raise Invalid("There is no such key.", code="no_such_key", key=name, keys=list(_KEYS))
        text = "\r" if name == "Enter" else name if len(name) == 1 else ""
        number = _KEYS.get(name) or (ord(name.upper()) if name.isascii() and name.isalnum() else 0)
        about: dict[str, Any] = {"key": name, "code": "Space" if name == " " else name, "windowsVirtualKeyCode": number}
        self._call("Input.dispatchKeyEvent", type="keyDown", **about, **({"text": text} if text else {}))
        self._call("Input.dispatchKeyEvent", type="keyUp", **about)

    def js(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page; a promise is waited for.

        Raises:
            RuntimeError: it throws.
        """
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise _ThrownError(f"{expression}: {_of_exception(answer['exceptionDetails'])}")
        return answer["result"].get("value")

    def wait(self, condition: str, *, seconds: float = WAIT_S) -> None:
        """Wait until a JavaScript expression is true; TimeoutError when that takes longer than `seconds`.

        While it throws it is not true: a page on its way lacks what the expression asks about.
        """
        give_up = time.monotonic() + seconds
        while True:
            thrown = ""
            try:
                if self.js(f"!!({condition})"):
                    return
            except _ThrownError as error:
                thrown = f"; {error}"
            if time.monotonic() > give_up:
                at = self.js("location.href")
                raise TimeoutError(f"{condition} did not come true in {seconds} s at {at}{thrown}")
            self._pump(_LOOK_S)

    def text(self) -> str:
        """What the page says."""
        return str(self.js("document.body.innerText"))

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """Write a screenshot (PNG): of what is in the window, or of the whole page."""
        data = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def close(self) -> None:
        """End it, and remove its profile; nothing when that is done."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._watchdog.forget(self._process.pid)
        for end in (self._in, self._out):
            os.close(end)
        self._watchdog.__exit__()  # It removes the folder.

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self.close()

    # -- the pipe ---------------------------------------------------------------------------

    def _launch(self, program: str, width: int, height: int) -> None:
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        chromium = [
            program, *flags(root=os.geteuid() == 0), f"--user-data-dir={self._folder / 'profile'}",
            f"--window-size={width},{height}", "about:blank",
        ]  # fmt: skip
        try:
            with (self._folder / "log").open("wb") as log:
                self._process = subprocess.Popen(  # noqa: S603  This interpreter, then Chromium.
                    [sys.executable, "-I", "-S", "-c", _WIRE, str(theirs_in), str(theirs_out), *chromium],
                    pass_fds=(theirs_in, theirs_out), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log,
                    start_new_session=True,
                )  # fmt: skip
            self._watchdog.watch(self._process.pid)
        finally:
            os.close(theirs_in)
            os.close(theirs_out)

    def _attach(self, *, width: int, height: int, dark: bool, script: bool) -> None:
        targets = self._call("Target.getTargets")["targetInfos"]
        page = next(target for target in targets if target["type"] == "page")
        self._session = self._call("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        self._frame = page["targetId"]
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")
        self._call("Page.setLifecycleEventsEnabled", enabled=True)
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < PHONE_PX}
        self._call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        if not script:
            self._call("Emulation.setScriptExecutionDisabled", value=True)

    def _document(self) -> str:
        """Which one the page shows, or loads; from now on others are waited for."""
        document = str(self._call("Page.getFrameTree")["frameTree"]["frame"]["loaderId"])
        self._loaded.clear()
        return document

    def _await_load(self, what: str, before: str) -> None:
        """Return when another one than `before` is loaded: of that one the news may come yet."""
        give_up = time.monotonic() + LOAD_S_MAX
        while all(document == before for document in self._loaded):
            if time.monotonic() > give_up:
                raise TimeoutError(f"{what}: no page was loaded within {LOAD_S_MAX} s")
            self._pump(_LOOK_S)

    def _send(self, method: str, params: dict[str, Any]) -> int:
        """Ask, and answer the number that the answer will have."""
        self._check_open()
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        try:
            os.write(self._out, json.dumps(message).encode() + b"\0")
        except BrokenPipeError:
            raise self._gone() from None
        return self._number

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        number = self._send(method, params)
        give_up = time.monotonic() + ANSWER_S_MAX
        while time.monotonic() < give_up:
            for answer in self._pump(_LOOK_S):
                if answer.get("id") == number:
                    if "error" in answer:
                        raise RuntimeError(f"{method}: {answer['error']}")
                    result: dict[str, Any] = answer["result"]
                    return result
        raise TimeoutError(f"Chromium did not answer {method} within {ANSWER_S_MAX} s")

    def _pump(self, seconds: float) -> list[dict[str, Any]]:
        """Read what came within `seconds`; answers are returned, events noted."""
        answers: list[dict[str, Any]] = []
        if select.select([self._in], [], [], seconds)[0]:
            chunk = os.read(self._in, _READ_BYTES)
            if not chunk:
                raise self._gone()
            *messages, self._buffer = (self._buffer + chunk).split(b"\0")
            for raw in messages:
                message = json.loads(raw)
                if "id" in message:
                    answers.append(message)
                else:
                    self._note(message["method"], message.get("params", {}))
        return answers

    def _note(self, event: str, about: dict[str, Any]) -> None:
        if event == "Page.lifecycleEvent":
            if about["name"] == "load" and about["frameId"] == self._frame:
                self._loaded.append(about["loaderId"])
        elif event == "Page.javascriptDialogOpening":  # The page stands still until somebody answers.
            if len(self.dialogs) < DIALOGS_MAX:
                self.dialogs.append(about["message"])
            self._send("Page.handleJavaScriptDialog", {"accept": self.accepts})
        elif len(self.errors) < ERRORS_MAX and (error := _error(event, about)):
            self.errors.append(error)

    def _check_open(self) -> None:
        if self._closed:  # The numbers of its pipes may be other files' by now.
            raise RuntimeError("This browser is closed.")

    def _gone(self) -> RuntimeError:
        said = (self._folder / "log").read_text(errors="replace")
        return RuntimeError(f"Chromium is gone.\n{said[-2_000:]}")


def _error(event: str, about: dict[str, Any]) -> str:
    """What the event tells of that is wrong in the page; "" for none."""
    if event == "Runtime.exceptionThrown":
        return _of_exception(about["exceptionDetails"])
    if event == "Runtime.consoleAPICalled" and about["type"] in {"error", "assert"}:
        return " ".join(_shown(argument) for argument in about["args"]) or "console.error()"
    if event == "Log.entryAdded" and about["entry"]["level"] == "error":
        return f"{about['entry']['text']} {about['entry'].get('url', '')}"
    return ""


def _of_exception(details: dict[str, Any]) -> str:
    return _shown(details["exception"]) if "exception" in details else str(details["text"])


def _shown(value: dict[str, Any]) -> str:
    """A value of the page: of an error its name, text and places."""
    return str(value["description"] if "description" in value else value.get("value", value["type"]))
