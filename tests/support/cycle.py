"""A journal's side of the flow whose crank a test turns itself: real SQLite, calls in line, clocks by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tests.support.inline import InLine
from vigiloconn.handlers.backup import BackupProvider
from vigiloconn.interfaces import Batch, Record, RouteKey
from vigiloconn.journal.clock import JournalClock
from vigiloconn.journal.store import DbRetry
from vigiloconn.journal.thread import JournalThread
from vigiloconn.options import ConnectorSettings, parse_settings

EVENT = RouteKey("event", None, True)


class Hand:
    """A clock that a test sets."""

    def __init__(self, now_s: float = 1_000_000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


class Crank:
    """A provider and its journal. `provider.cycle()` is one turn."""

    def __init__(
        self, path: Path, pool: InLine | None = None, *, is_started: bool = True, boot_id: str = "this boot",
        **runtime: object,
    ) -> None:
        self.settings: ConnectorSettings = replace(parse_settings("").runtime, **runtime)  # type: ignore[arg-type]
        self.pool = pool or InLine()
        self.monotonic = Hand(100.0)
        self.wall = Hand()
        self.boot = Hand(5_000.0)
        self.journal = DbRetry(path, clock=JournalClock(self.wall, self.boot, lambda: boot_id))
        self.provider = BackupProvider(
            self.journal, self.settings, thread=JournalThread(self.journal, lambda: self.pool),
            monotonic=self.monotonic,
        )  # fmt: skip
        if is_started:
            self.provider.start_service()
        self.accepted: list[str] = []
        self.put_messages = 0

    def put(self, count: int = 1, name: str | None = None, kind: RouteKey = EVENT, size: int = 0) -> None:
        """Put a batch of new messages; its acceptance is noted in `accepted` when it has a name."""
        bodies = []
        for _ in range(count):
            self.put_messages += 1
            bodies.append(b'{"type": "%s", "n": %d, "t": "%s"}' % (kind.type.encode(), self.put_messages, b"x" * size))
        told: Callable[[], None] | None = None
        if name is not None:
            told = lambda: self.accepted.append(name)  # noqa: E731
        self.provider.put(Batch([(kind, body) for body in bodies], sum(map(len, bodies)), None, told))

    def take(self, limit: int = 10_000) -> list[Record]:
        """Take as the publisher does, pages that have to be read first included."""
        taken: list[Record] = []
        while found := self.provider.take(limit - len(taken)) or self._turned(limit - len(taken)):
            taken += found
        return taken

    def _turned(self, limit: int) -> list[Record]:
        self.provider.cycle()
        return self.provider.take(limit)

    def stored(self) -> list[int]:
        """Return the ids in the main table."""
        return [row.id for row in self.journal.peek(0, 1_000_000, 1 << 40)]

    def held(self, exchange: str) -> list[int]:
        return [row.id for row in self.journal.peek_held(exchange, 0, 1_000_000, 1 << 40)]

    def parked(self) -> list[int]:
        return [row.id for row in self.journal.parked(1_000_000)]

    def close(self) -> None:
        self.provider.close()


def numbers(records: list[Record]) -> list[int]:
    return [record.id for record in records]


