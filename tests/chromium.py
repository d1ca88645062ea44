"""Headless Chromium over its debugging pipe: no driver program, no library, no port."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Self

ANSWER_S_MAX = 20.0
PROGRAM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)

_FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars",
    "--remote-debugging-pipe",
]  # fmt: skip


class Browser:
    """One page in one browser."""

    def __init__(self, *, width: int = 1280, height: int = 900, dark: bool = False, script: bool = True) -> None:
        """Start it.

        Args:
            width: of the window, in CSS pixels.
            height: likewise.
            dark: whether its user prefers dark pages.
            script: whether pages may run JavaScript.
        """
        assert PROGRAM is not None, "install chromium"
        self._folder = tempfile.mkdtemp(prefix="onefold-chromium-")
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()

        def wire() -> None:
            # First out of the way: the pipes may have got the numbers that they are to have.
            high_in, high_out = os.dup(theirs_in), os.dup(theirs_out)
            while high_in in {3, 4}:
                high_in = os.dup(high_in)
            while high_out in {3, 4}:
                high_out = os.dup(high_out)
            os.dup2(high_in, 3)
            os.dup2(high_out, 4)

        self._process = subprocess.Popen(  # noqa: S603  Chromium.
            [PROGRAM, *_FLAGS, f"--user-data-dir={self._folder}", f"--window-size={width},{height}", "about:blank"],
            preexec_fn=wire, close_fds=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,  # noqa: PLW1509  One thread.
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self.errors: list[str] = []
        page = next(t for t in self._call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self._session = self._call("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        self._call("Page.enable")
        self._call("Runtime.enable")
        self._call("Log.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        if not script:
            self._call("Emulation.setScriptExecutionDisabled", value=True)

    def go(self, url: str) -> None:
        """Load a page."""
        before = self._mark()
        self._call("Page.navigate", url=url)
        self._loaded(before)

    def press(self, selector: str) -> None:
        """Click what the selector finds, where that leads to another page, and wait for that page."""
        before = self._mark()
        self.click(selector)
        self._loaded(before)

    def click(self, selector: str) -> None:
        """Click in the middle of what the selector finds, with a real pointer."""
        box = self.js(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView({{block: 'center', behavior: 'instant'}});"
            " const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def key(self, name: str) -> None:
        """Press a key on whatever has the focus."""
        text = {"text": "\r"} if name == "Enter" else {}
        self._call("Input.dispatchKeyEvent", type="keyDown", key=name, code=name, **text)
        self._call("Input.dispatchKeyEvent", type="keyUp", key=name, code=name)

    def js(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait(self, condition: str, *, seconds: float = 10.0) -> None:
        """Wait until a JavaScript expression is true."""
        give_up = time.monotonic() + seconds
        while not self.js(f"!!({condition})"):
            assert time.monotonic() < give_up, f"{condition} did not come true at {self.js('location.href')}"
            self._pump(0.02)

    def text(self) -> str:
        """What the page says."""
        return str(self.js("document.body.innerText"))

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """A screenshot; of the whole page or of what is in the window."""
        data = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(OSError, ProcessLookupError):
            os.killpg(self._process.pid, 9)
        self._process.wait()
        os.close(self._in)
        os.close(self._out)
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self.close()

    def _mark(self) -> int:
        self._pump(0)
        self._loads = 0
        return 0

    def _loaded(self, before: int) -> None:
        give_up = time.monotonic() + ANSWER_S_MAX
        while self._loads <= before:
            assert time.monotonic() < give_up, "the page did not load"
            self._pump(0.05)

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        give_up = time.monotonic() + ANSWER_S_MAX
        while time.monotonic() < give_up:
            for answer in self._pump(0.5):
                if answer.get("id") == self._number:
                    if "error" in answer:
                        raise RuntimeError(f"{method}: {answer['error']}")
                    result: dict[str, Any] = answer["result"]
                    return result
        raise TimeoutError(f"Chromium did not answer {method}")

    def _pump(self, seconds: float) -> list[dict[str, Any]]:
        """Read what came within `seconds`; answers are returned, events noted."""
        answers: list[dict[str, Any]] = []
        if select.select([self._in], [], [], seconds)[0]:
            chunk = os.read(self._in, 1 << 20)
            if not chunk:
                raise RuntimeError("Chromium is gone.")
            *messages, self._buffer = (self._buffer + chunk).split(b"\0")
            for raw in messages:
                message = json.loads(raw)
                if "id" in message:
                    answers.append(message)
                else:
                    self._note(message)
        return answers

    def _note(self, event: dict[str, Any]) -> None:
        method, params = event["method"], event.get("params", {})
        if method == "Page.loadEventFired":
            self._loads = getattr(self, "_loads", 0) + 1
        elif method == "Runtime.exceptionThrown":
            self.errors.append(str(params["exceptionDetails"].get("exception", {}).get("description")))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
