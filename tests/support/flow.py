"""Numbered lines in, numbered messages out: what was lost, what came twice, what changed places. Knows no faults."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from tests.support.bus import Bus, Message
from tests.support.connector import Writer

_CHUNK_LINES = 20
_PAUSE_S = 0.01


def line(number: int, writer: str = "w", kind: str = "event", key: str = "") -> str:
    """Return the line `number` of `writer`."""
    if kind == "perf":
        return f"perf|1165939739|{writer}|{number}|1" + (f"|{key}" if key else "")
    return f"event|1165939739|{writer}|Load|OK|{number}" + (f"|{key}" if key else "")


def lines(start: int, stop: int, writer: str = "w", kind: str = "event") -> list[str]:
    """Return the lines from `start` up to, not including, `stop`."""
    return [line(number, writer, kind) for number in range(start, stop)]


def numbers(messages: Iterable[Message]) -> dict[str, list[int]]:
    """Return writer -> the numbers of its messages as they came, the first time that each came."""
    found: dict[str, dict[int, None]] = {}
    for message in messages:
        for body in _single_bodies(message):
            number = int(body["message"] if body["type"] == "event" else body["datasource"])
            found.setdefault(body["host"], {}).setdefault(number)
    return {writer: list(seen) for writer, seen in found.items()}


def _single_bodies(message: Message) -> list[dict[str, str]]:
    body = message.json()
    return list(body["messages"]) if "messages" in body else [body]


def collect(bus: Bus, queue: str, count: int, timeout_s: float = 60.0) -> list[Message]:
    """Take messages until `count` different ones have come, whatever comes twice.

    Raises `AssertionError` with the numbers that are missing at the end.
    """
    taken: list[Message] = []
    deadline = time.monotonic() + timeout_s
    while True:
        late = time.monotonic() > deadline
        taken += bus.drain_all(queue)
        found = numbers(taken)
        different = sum(map(len, found.values()))
        if different >= count:
            return taken
        if late:
            lacking = {writer: sorted(set(range(max(seen) + 1)) - set(seen))[:20] for writer, seen in found.items()}
            raise AssertionError(f"{queue}: {different} of {count} within {timeout_s:g} s, missing {lacking}")
        time.sleep(0.05)


class Flood:
    """A thread that writes numbered lines, some thousand a second, until it is told to stop. A context manager."""

    def __init__(self, socket_path: Path, writer: str = "w", kind: str = "event") -> None:
        self.sent = 0
        self.synced = 0
        """All lines with a number below this one were answered `synced`."""
        self._writer = writer
        self._kind = kind
        self._link = Writer(socket_path)
        self._stop = threading.Event()
        self._error: OSError | AssertionError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Flood:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish()
        self._link.close()

    def finish(self) -> int:
        """Stop writing and return how many lines were written. Raises what the thread met."""
        self._stop.set()
        self._thread.join(60.0)
        if self._thread.is_alive():
            raise AssertionError(f"the writer is stuck after {self.sent} lines")
        if self._error is not None:
            raise self._error
        return self.sent

    def _run(self) -> None:
        try:
            while not self._stop.wait(_PAUSE_S):
                self._link.send(lines(self.sent, self.sent + _CHUNK_LINES, self._writer, self._kind))
                self.sent += _CHUNK_LINES
                if self.sent % (5 * _CHUNK_LINES) == 0:
                    self._link.sync()
                    self.synced = self.sent
            self._link.sync()
            self.synced = self.sent
        except (OSError, AssertionError) as exc:
            self._error = exc
