"""A headless Chromium, spoken to by its debugging protocol over a pipe. Knows pages, nothing of what they show."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

PROGRAM = "/usr/bin/chromium"
_DEADLINE_S = 60.0


class Browser:
    """One page of a browser of its own. A context manager that always ends it.

    `messages` holds what the page has asked for and complained of since it was opened.
    """

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self._profile = tempfile.mkdtemp(prefix="vigiloconn-page-")
        commands_out, self._commands = os.pipe()
        self._answers, answers_in = os.pipe()
        argv = [
            PROGRAM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-background-networking", "--hide-scrollbars", f"--user-data-dir={self._profile}",
            "--remote-debugging-pipe", "about:blank",
        ]  # fmt: skip

        def take_pipes() -> None:
            # The protocol's own numbers; both ends may have them already, so by way of high ones.
            for high, low, end in ((203, 3, commands_out), (204, 4, answers_in)):
                os.dup2(end, high)
                os.dup2(high, low)

        self._process = subprocess.Popen(
            argv, preexec_fn=take_pipes, pass_fds=(3, 4),
            # Killed, it leaves its lock's socket in a directory of its own there.
            env={**os.environ, "TMPDIR": self._profile},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        os.close(commands_out)
        os.close(answers_in)
        self._number = 0
        self._unread = b""
        self._session = ""

    def __enter__(self) -> Browser:
        try:
            target = next(
                target for target in self.call("Target.getTargets")["targetInfos"] if target["type"] == "page"
            )
            attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
            self._session = attached["sessionId"]
            for domain in ("Page", "Runtime", "Network", "Log"):
                self.call(f"{domain}.enable")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """End it, with all that it has started."""
        try:
            os.killpg(self._process.pid, 9)
        except ProcessLookupError:
            pass
        self._process.wait(10)
        os.close(self._commands)
        os.close(self._answers)
        shutil.rmtree(self._profile, ignore_errors=True)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Return what a method of the protocol returns. Raises `AssertionError` when it refuses."""
        self._number += 1
        command: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._commands, json.dumps(command).encode() + b"\0")
        deadline_s = time.monotonic() + _DEADLINE_S
        while (message := self._next(deadline_s)).get("id") != self._number:
            self.messages.append(message)
        assert "error" not in message, f"{method}: {message}"
        result: dict[str, Any] = message["result"]
        return result

    def evaluate(self, script: str) -> Any:
        """Return the value of an expression on the page."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def emulate(self, width: int, height: int = 800, *, is_phone: bool = False, is_dark: bool = False) -> None:
        """Be a device of this many pixels; a phone has two of its own in each."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=2 if is_phone else 1, mobile=is_phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, url: str, until: str) -> None:
        """Go there, and wait until an expression is true on the page."""
        self.messages.clear()
        self.call("Page.navigate", url=url)
        self.wait(until)

    def wait(self, until: str) -> None:
        """Wait until an expression is true on the page."""
        deadline_s = time.monotonic() + _DEADLINE_S
        while not self.evaluate(f"!!({until})"):
            assert time.monotonic() < deadline_s, f"{until} did not come true:\n{self.text()}"
            time.sleep(0.05)

    def text(self) -> str:
        """Return what the page shows, as text."""
        return str(self.evaluate("document.body.innerText"))

    def screenshot(self, path: Path) -> None:
        """Write the whole page to a PNG file."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip={**size, "scale": 1})
        path.write_bytes(base64.b64decode(found["data"]))

    def complaints(self) -> list[str]:
        """Return the errors that the page has made."""
        kinds = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")
        return [json.dumps(message["params"]) for message in self.messages if message.get("method") in kinds]

    def asked_for(self) -> set[str]:
        """Return the addresses that the page has loaded."""
        return {
            message["params"]["request"]["url"]
            for message in self.messages if message.get("method") == "Network.requestWillBeSent"
        }  # fmt: skip

    def _next(self, deadline_s: float) -> dict[str, Any]:
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, deadline_s - time.monotonic()))
            assert ready, f"the browser did not answer within {_DEADLINE_S:g} s"
            data = os.read(self._answers, 1 << 20)
            assert data, f"the browser has ended, status {self._process.poll()}"
            self._unread += data
        message, _, self._unread = self._unread.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found
