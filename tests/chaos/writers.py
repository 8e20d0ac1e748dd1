"""Writers that write lines to the connector's socket and hold it to `synced`. Knows neither bus nor faults."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.lines import Line, make_line
from tests.support.connector import Writer

#: A writer that gets no answer for this time begins a new connection; what it asked for is no obligation.
_ANSWER_S = 60.0
_RECONNECT_S = 0.05


@dataclass(slots=True)
class Written:
    """A line that was written, and what was said of it."""

    line: Line
    written_at: float
    synced_at: float | None = None
    """When the connector answered `synced` (monotonic seconds): from then on it is an obligation."""


@dataclass(slots=True)
class WriterPlan:
    """How one writer writes."""

    name: str
    kinds: Sequence[str]
    chunk_lines: int
    pause_s: float
    max_text: int
    seed: int


@dataclass(slots=True)
class Account:
    """What all writers have written and been told. Filled by their threads, whole entries at a time."""

    written: list[Written] = field(default_factory=list)
    newest: dict[str, int] = field(default_factory=dict)
    """Writer -> the number of its latest line."""
    refusals: list[tuple[float, str]] = field(default_factory=list)
    """When and how a `sync` was answered by anything but `synced`."""
    broken: int = 0
    """Connections that ended before an answer."""

    def obligations(self) -> list[Written]:
        """Return the lines that were answered `synced`."""
        return [written for written in self.written if written.synced_at is not None]


class ObligedWriter:
    """A thread that writes chunks of lines, each followed by a `sync`, until it is told to stop.

    A line is written once: what was not answered is never written again, and is then no obligation.
    """

    def __init__(self, plan: WriterPlan, socket_path: Path, account: Account) -> None:
        self._plan = plan
        self._path = socket_path
        self._account = account
        self._chance = random.Random(plan.seed)
        self._number = account.newest[plan.name] = 0
        self._chunks = 0
        self._stop = threading.Event()
        self._link: Writer | None = None
        self._thread = threading.Thread(target=self._run, name=f"writer {plan.name}", daemon=True)
        self._thread.start()

    def finish(self, timeout_s: float) -> bool:
        """Write no more. Answers whether the last chunk was answered in time; else it is given up."""
        self._stop.set()
        self._thread.join(timeout_s)
        is_done = not self._thread.is_alive()
        if not is_done and (link := self._link) is not None:
            link.close()
        return is_done

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with Writer(self._path) as self._link:
                    while not self._stop.wait(self._plan.pause_s * self._chance.uniform(0.5, 1.5)):
                        self._write_chunk(self._link)
            except OSError:
                self._account.broken += 1
                self._stop.wait(_RECONNECT_S)

    def _write_chunk(self, link: Writer) -> None:
        count = self._chance.randint(1, self._plan.chunk_lines)
        chunk = [Written(self._next_line(), time.monotonic()) for _ in range(count)]
        self._chunks += 1
        token = f"{self._plan.name}-{self._chunks}"
        self._account.written.extend(chunk)
        self._account.newest[self._plan.name] = self._number
        link.send([*(written.line.text for written in chunk), f"sync|{token}"])
        answer = link.read_line(_ANSWER_S)
        if answer == f"synced|{token}":
            now = time.monotonic()
            for written in chunk:
                written.synced_at = now
        elif answer.startswith(f"failed|{token}|"):
            self._account.refusals.append((time.monotonic(), answer))
        else:
            raise OSError(f"expected an answer to {token}, got {answer!r}")

    def _next_line(self) -> Line:
        self._number += 1
        kind = self._plan.kinds[self._number % len(self._plan.kinds)]
        return make_line(self._chance, self._plan.name, self._number, kind, self._plan.max_text)
