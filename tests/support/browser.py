"""A headless Chromium that tests drive by its DevTools protocol, over a pipe: nothing to install but the browser."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
#: Seconds until a command, or what is waited for, has failed.
PATIENCE = 30.0
#: Virtual key codes of keys that have no letter.
_CODES = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Enter": 13, "Escape": 27, "Tab": 9,
          "Home": 36, "End": 35}  # fmt: skip


def find_browser() -> str:
    """The program; skips the test where there is none."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser is installed ({', '.join(NAMES)}); on Debian: apt-get install chromium")
    return found


class Browser:
    """A running browser.

    Attributes:
        downloads: folder that files are saved to.
    """

    def __init__(self, folder: Path) -> None:
        self.downloads = folder / "downloads"
        self.downloads.mkdir()
        theirs_in, ours_out = _pipe()
        ours_in, theirs_out = _pipe()

        def connect() -> None:  # Chromium reads from 3 and writes to 4
            os.dup2(theirs_in, 3)
            os.dup2(theirs_out, 4)

        self._process = subprocess.Popen(
            [
                find_browser(), "--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu",
                "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run", "--force-color-profile=srgb",
                "--disable-background-networking", f"--user-data-dir={folder / 'profile'}", "about:blank",
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=(3, 4), preexec_fn=connect,
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        self._in, self._out = ours_in, ours_out
        self._buffer = b""
        self._number = 0
        self.events: list[dict[str, Any]] = []
        behaviour = {"behavior": "allow", "downloadPath": str(self.downloads)}
        self.call("Browser.setDownloadBehavior", behaviour)

    def close(self) -> None:
        """End the browser."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def call(self, method: str, params: dict[str, Any] | None = None, session: str | None = None) -> dict[str, Any]:
        """One command of the protocol, and its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params or {}}
        if session is not None:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + PATIENCE
        while True:
            answer = self._read(until)
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self.events.append(answer)

    def _read(self, until: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0.0, until - time.monotonic()))
            part = os.read(self._in, 1 << 20) if ready else b""
            assert part, "the browser does not answer"
            self._buffer += part
        text, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(text)

    def open(self, path: Path, width: int = 1280, height: int = 900, dark: bool = False) -> Tab:
        """A page from disk, in a window of that size, once its script has drawn the first frame (or there is none)."""
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        tab = Tab(self, session, target)
        for domain in ("Page", "Runtime", "Log", "Network"):
            tab.call(f"{domain}.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        tab.call("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        tab.call("Emulation.setEmulatedMedia", {"features": features})
        tab.go(path)
        return tab


@dataclass
class Tab:
    """A page in the browser.

    Attributes:
        session, target: what the protocol calls it.
    """

    browser: Browser
    session: str
    target: str
    _seen: list[dict[str, Any]] = field(default_factory=list)

    def call(self, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """One command of the protocol to this page."""
        return self.browser.call(method, params, self.session)

    def go(self, path: Path) -> None:
        """Load a file, also again, and wait for its script."""
        self.call("Page.navigate", {"url": path.absolute().as_uri()})
        self.until(
            "document.readyState === 'complete' && (!document.getElementById('data') || document.body.dataset.ready)"
        )

    def run(self, script: str) -> Any:
        """The value of an expression, awaited where it is a promise."""
        options = {"expression": script, "awaitPromise": True, "returnByValue": True}
        result = self.call("Runtime.evaluate", options)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def until(self, script: str) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + PATIENCE
        while not self.run(f"Boolean({script})"):
            assert time.monotonic() < end, f"never true: {script}"
            time.sleep(0.05)

    def key(self, name: str, ctrl: bool = False) -> None:
        """Press and release a key, like `ArrowRight`, ` ` or `o`."""
        code = _CODES.get(name) or ord(name.upper())
        event = {"key": name, "windowsVirtualKeyCode": code, "modifiers": 2 if ctrl else 0}
        text = {"text": "\r" if name == "Enter" else name} if (len(name) == 1 or name == "Enter") and not ctrl else {}
        self.call("Input.dispatchKeyEvent", {"type": "keyDown", **event, **text})
        self.call("Input.dispatchKeyEvent", {"type": "keyUp", **event})

    def write(self, text: str) -> None:
        """Type into what has the focus."""
        self.call("Input.insertText", {"text": text})

    def point(self, x: float, y: float, kind: str = "mouseMoved") -> None:
        """Move the mouse to a place of the window, or press it there."""
        button = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
        self.call("Input.dispatchMouseEvent", {"type": kind, "x": x, "y": y, **button})

    def click(self, selector: str, x: float = 0.5, y: float = 0.5) -> None:
        """Click an element, at a part of its width and height."""
        left, top = self.place(selector, x, y)
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.point(left, top, kind)

    def place(self, selector: str, x: float = 0.5, y: float = 0.5) -> tuple[float, float]:
        """Where a part of an element lies in the window, once it is scrolled there."""
        box = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); "
            "e.scrollIntoView({block: 'nearest'}); const b = e.getBoundingClientRect(); "
            "return [b.left, b.top, b.width, b.height]; })()"
        )
        return box[0] + box[2] * x, box[1] + box[3] * y

    def screenshot(self, path: Path, whole: bool = True) -> Path:
        """A picture of the window, or of the whole page."""
        options: dict[str, Any] = {"format": "png", "captureBeyondViewport": whole}
        if whole:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            options["clip"] = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", options)["data"]))
        return path

    def _events(self, *methods: str) -> list[dict[str, Any]]:
        self.run("0")  # what came before this answer has come
        of_this = (event for event in self.browser.events if event.get("sessionId") == self.session)
        return [event["params"] for event in of_this if event["method"] in methods]

    def errors(self) -> list[str]:
        """Exceptions and errors of the console so far."""
        thrown = [event["exceptionDetails"]["text"] for event in self._events("Runtime.exceptionThrown")]
        logged = [event["entry"] for event in self._events("Log.entryAdded")]
        called = [event for event in self._events("Runtime.consoleAPICalled") if event["type"] in ("error", "warning")]
        bad = [f"{entry['text']}" for entry in logged if entry["level"] in ("error", "warning")]
        return [*thrown, *bad, *(json.dumps(event["args"]) for event in called)]

    def requests(self) -> list[str]:
        """What the page asked for beyond itself and what it holds."""
        urls = [event["request"]["url"] for event in self._events("Network.requestWillBeSent")]
        return [url for url in urls if not url.startswith(("data:", "blob:", "file:"))]

    def close(self) -> None:
        """Close the page."""
        self.browser.call("Target.closeTarget", {"targetId": self.target})


@contextmanager
def running(folder: Path) -> Iterator[Browser]:
    """A browser with its profile in a folder, ended afterwards; skips the test where none is installed."""
    find_browser()
    browser = Browser(folder)
    try:
        yield browser
    finally:
        browser.close()


def _pipe() -> tuple[int, int]:
    """A pipe whose ends are far above the numbers that the browser takes."""
    reading, writing = os.pipe()
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 64) for end in (reading, writing)]
    os.close(reading)
    os.close(writing)
    return ends[0], ends[1]
