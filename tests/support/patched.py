"""Runs a function of `tests/scenarios/` in a process of its own, patched by gevent as the program is.

The function asserts; the test beside it hurts the broker. They talk in lines: `say` and `wait_said`, `tell` and `hear`.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_MAIN = "from gevent import monkey; monkey.patch_all(); from tests.support import patched; patched.main()"
_SAID = "said "


class Scenario:
    """One function of one module of `tests/scenarios/`, called with keyword arguments that JSON can hold.

    A context manager that always ends the process; leaving it in order waits for the function and raises
    `AssertionError` with its traceback when it failed.
    """

    def __init__(self, module: str, function: str, *, timeout_s: float = 40.0, **arguments: Any) -> None:
        self._deadline = time.monotonic() + timeout_s
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _MAIN, module, function, json.dumps(arguments)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env,
        )
        self._unread = b""
        self._output: list[str] = []

    def __enter__(self) -> Scenario:
        return self

    def __exit__(self, kind: object, *exc_info: object) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            self._process.kill()
            self._process.wait(10)
            for pipe in (self._process.stdin, self._process.stdout):
                assert pipe is not None
                pipe.close()

    def wait_said(self, word: str) -> None:
        """Return once the function has said `word`."""
        while True:
            line = self._read_line()
            if line is None:
                raise AssertionError(f"ended without saying {word!r}:\n{self.output}")
            if line == _SAID + word:
                return

    def tell(self, word: str) -> None:
        """Let the function's `hear` return `word`."""
        assert self._process.stdin is not None
        self._process.stdin.write(word.encode() + b"\n")
        self._process.stdin.flush()

    def finish(self) -> None:
        """Wait for the function's end. Raises `AssertionError` if it failed."""
        while self._read_line() is not None:
            pass
        if self._process.wait(10) != 0:
            raise AssertionError(f"the scenario failed:\n{self.output}")

    @property
    def output(self) -> str:
        """What the process has written so far, its log included."""
        return "\n".join(self._output)

    def _read_line(self) -> str | None:
        assert self._process.stdout is not None
        while b"\n" not in self._unread:
            left_s = self._deadline - time.monotonic()
            if left_s <= 0 or not select.select([self._process.stdout], [], [], left_s)[0]:
                raise AssertionError(f"the scenario did not end in time:\n{self.output}")
            data = os.read(self._process.stdout.fileno(), 65536)
            if not data:
                return None
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        self._output.append(line.decode(errors="replace"))
        return self._output[-1]


def run(module: str, function: str, **arguments: Any) -> None:
    """Run a scenario that needs nobody to talk to."""
    with Scenario(module, function, **arguments):
        pass


def say(word: str) -> None:
    """In the scenario: tell the test where we are."""
    print(_SAID + word, flush=True)


def hear() -> str:
    """In the scenario: wait for the test's `tell`, while other greenlets run."""
    import gevent.socket

    line = b""
    while not line.endswith(b"\n"):
        gevent.socket.wait_read(0, timeout=30)
        data = os.read(0, 1)
        assert data, "the test is gone"
        line += data
    return line.decode().rstrip("\n")


def main() -> None:
    """The process's own part."""
    import importlib
    import logging

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stdout)
    module, function, arguments = sys.argv[1:]
    getattr(importlib.import_module(f"tests.scenarios.{module}"), function)(**json.loads(arguments))
