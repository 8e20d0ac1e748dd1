"""The core of a connector on a scripted bus and a real journal, turned by hand. Knows the parts' insides, no rules.

Journal, publisher and outlets are the real ones. What a test may not leave to chance is handed in: clocks, the
journal's thread (its calls run in line), the room on the disk. Sizes are small, so that a few messages fill a page.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import gevent

from tests.model.clocks import Clocks
from tests.support.scripted import ScriptedChannel, ScriptedClient, ScriptedConnection
from vigiloconn.handlers.backup import BackupProvider
from vigiloconn.handlers.publisher import BusPublisher
from vigiloconn.interfaces import Batch
from vigiloconn.journal.clock import JournalClock
from vigiloconn.journal.files import COMPANIONS
from vigiloconn.journal.store import DbRetry
from vigiloconn.journal.thread import JournalThread
from vigiloconn.options import Settings
from vigiloconn.supervisor import Supervisor

PAGE_MESSAGES = 6
HELD_MESSAGES = 6
_RESERVE_BYTES = 64 * 1024
_MIN_FREE_BYTES = 256 * 1024
PLENTY_BYTES = 1 << 30
#: A round empties a page, or a window.
_MOST_ROUNDS = 150
#: What stands in for the sizes of production.
_SMALL = {
    "vigiloconn.handlers.backup.PAGE_MESSAGES": PAGE_MESSAGES,
    "vigiloconn.handlers.publisher._MIN_TAKE": 2,
    "vigiloconn.journal.store._BUSY_TIMEOUT_S": 0.0,
    "vigiloconn.journal.thread.PAGE_MESSAGES": PAGE_MESSAGES,
    "vigiloconn.publishing.held._HELD_MESSAGES": HELD_MESSAGES,
    "vigiloconn.publishing.pace._FIRST_MESSAGES": 5,
    "vigiloconn.publishing.outlet._BUFFER_MESSAGES": 4,
}

#: Where another greenlet may run while one of the core's is in the middle of its work.
IN_PUMP = ("open", "select", "write", "written")
IN_CYCLE = ("commit", "committed")


class Killed(BaseException):
    """Ends the process in the middle of anything."""


class Circle(AssertionError):
    """Raised when the core would never rest."""


class Crashed(Exception):
    """Ends the life of one part in the middle of its work."""


class _Answer:
    """The answer of the journal's thread, which works while somebody waits for it. Others run meanwhile: before it has
    done its work, and when that is done and its owner does not know yet."""

    def __init__(self, core: Core, work: Callable[[], Any]) -> None:
        self._core = core
        self._work = work
        self._is_done = False
        self._result: Any = None

    def wait(self, timeout: float | None = None) -> Any:
        if not self._is_done:
            try:
                self._core.at("commit")
            except Crashed:
                # Who waits is gone; the thread finishes its work all the same.
                self.get()
                raise
            self.get()
        self._core.at("committed")

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        if not self._is_done:
            self._is_done, self._result = True, self._work()
        return self._result


class _Pool:
    """Does the journal's work in line, at the latest when somebody wants its answer."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def spawn(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return _Answer(self._core, partial(func, *args, **kwargs))

    def kill(self) -> None:
        pass


class _Channel(ScriptedChannel):
    def confirm_select(self, nowait: bool = False) -> None:
        super().confirm_select(nowait)
        self.connection.core.at("select")


class _Connection(ScriptedConnection):
    """A connection whose calls block a while, as real ones do: other greenlets may run then."""

    channel_type = _Channel

    def __init__(self, core: Core, **options: Any) -> None:
        super().__init__(**options)
        self.core = core

    def open_channel(self) -> ScriptedChannel:
        channel = super().open_channel()
        self.core.at("open")
        return channel

    def write(self, buffer: bytes, channel: ScriptedChannel) -> bool:
        self.core.at("write")
        before = len(self.published)
        try:
            return super().write(buffer, channel)
        finally:
            for message in self.published[before:]:
                self.core.on_published(message)
            self.core.at("written")


class Core:
    """One process, from its start to its stop or its end by a kill; then the next one, on the same journal."""

    def __init__(self, directory: Path, settings: Settings, clocks: Clocks) -> None:
        self.directory = directory
        self.clocks = clocks
        self.settings = settings
        self.free_bytes = PLENTY_BYTES
        """What the disk has for the journal."""
        self.page_limit: int | None = None
        """Most pages that the file may have."""
        self.limits: dict[str, int] = {}
        """What each broker allows, as `ScriptedConnection` takes it."""
        self.has_others = False
        """There are more brokers."""
        self.on_published: Callable[[Any], None] = lambda message: None
        """Called with each message as it is written."""
        self.on_loss: Callable[[], None] = lambda: None
        """Called when the client notices that its connection is gone."""
        self.on_life_ends: Callable[[], None] = lambda: None
        """Called when the process ends, while its figures can still be read."""
        self.is_running = False
        self.lives = 0
        self.pumping = self.cycling = False
        self._rounds = 0
        self._meanwhile: list[tuple[str, Callable[[], None]]] = []
        self._writers: dict[int, gevent.Greenlet] = {}
        self._patches = ExitStack()
        for name, value in _SMALL.items():
            self._patches.enter_context(patch(name, value))

    # -- the process ----------------------------------------------------------------------------------------

    @property
    def path(self) -> Path:
        return self.directory / str(self.lives) / "backup.sqlite"

    def start(self) -> None:
        """Begin a process on the journal that is there."""
        if not self.lives:
            self.lives = 1
            self.path.parent.mkdir()
        self.journal = DbRetry(
            self.path, synchronous="normal", reserve_bytes=_RESERVE_BYTES,
            clock=JournalClock(self.clocks.wall, self.clocks.monotonic, self.clocks.boot_id),
            min_free_bytes=_MIN_FREE_BYTES, free_bytes=lambda directory: self.free_bytes,
        )  # fmt: skip
        self.provider = BackupProvider(
            self.journal, self.settings.runtime, thread=JournalThread(self.journal, lambda: _Pool(self)),
            monotonic=self.clocks.monotonic,
        )  # fmt: skip
        self.publisher = BusPublisher(self.provider, self.settings, clock=self.clocks.monotonic)
        self.client = ScriptedClient(self.clocks.monotonic)
        self.client.add_handler(self.provider)
        self.client.add_handler(self.publisher)
        supervisor = Supervisor(clock=self.clocks.monotonic)
        for part in (self.provider, self.publisher):
            supervisor.add(part)
            part.start_service()
        self.publisher._recover()
        self._count_rounds()
        self.is_running = True
        self.limit_pages(self.page_limit)

    def begin_stop(self) -> None:
        """The writers are gone; the publisher sends what they put last."""
        self.publisher.stop_service()
        self.turn()

    def stop(self) -> None:
        """Stop in order, after `begin_stop`: the client, then the journal."""
        self.client.lose("closed by us")
        self.provider.stop_service()
        self._let_writers_run()
        self.provider.run()
        self.provider.close()
        self._end_life()

    def end_by_kill(self) -> None:
        """Let nothing more of this process happen; its files are copied as they are, for the next one."""
        before = self.path
        gevent.killall([writer for writer in self._writers.values() if not writer.dead])
        self.lives += 1
        self.path.parent.mkdir()
        for suffix in ("", *COMPANIONS):
            if Path(f"{before}{suffix}").exists():
                shutil.copyfile(f"{before}{suffix}", f"{self.path}{suffix}")
        self.journal.close()
        shutil.rmtree(before.parent)
        self._end_life()

    def _end_life(self) -> None:
        self.on_life_ends()
        self.is_running = False
        self._meanwhile.clear()
        self._writers.clear()
        self.pumping = self.cycling = False

    def close(self) -> None:
        if self.is_running:
            gevent.killall([writer for writer in self._writers.values() if not writer.dead])
            self.journal.close()
        self._patches.close()

    # -- turning the crank ----------------------------------------------------------------------------------

    def is_cycle_due(self) -> bool:
        return self.provider._seconds_to_work() <= 0

    def cycle(self) -> None:
        """Let the journal's greenlet do one round."""
        self.limit_pages(self.page_limit)
        self.cycling = True
        try:
            self.provider.cycle()
        except Crashed:
            pass  # `run()` begins again, and knows only what the part knows
        finally:
            self.cycling = False
        self._let_writers_run()

    def is_pump_due(self) -> bool:
        delay_s = self.publisher._seconds_to_deadline()
        return self.publisher._wake.is_set() or (delay_s is not None and delay_s <= 0.001)

    def is_waiting_to_pump(self) -> bool:
        """Answer whether the publisher has something to do at some time."""
        return self.publisher._seconds_to_deadline() is not None

    def pump(self) -> None:
        """Let the publisher's greenlet send what it may."""
        if not self.publisher._wake.is_set():
            # A deadline is waited for in milliseconds: the clock may be a rounding error before it.
            self.clocks.advance(0.001)
        self.publisher._wake.clear()
        self.pumping = True
        self._rounds = 0
        try:
            self.publisher.pump()
        except Crashed:
            self.publisher._recover()
        finally:
            self.pumping = False

    def _count_rounds(self) -> None:
        """Let a pump that never ends be seen."""
        may_send = self.publisher._may_send

        def counted() -> bool:
            self._rounds += 1
            if self.pumping and self._rounds > _MOST_ROUNDS:
                raise Circle("the publisher pumps, and nothing comes of it")
            return may_send()

        self.publisher._may_send = counted  # type: ignore[method-assign]

    def notice(self) -> None:
        """Let the client notice that its connection is gone."""
        connection = self.client.connection
        if connection is not None and connection.lost is not None:
            self.on_loss()
            self.client.lose()

    def turn(self) -> None:
        """Let everybody do what is due, until nothing is."""
        for _ in range(_MOST_ROUNDS):
            self._let_writers_run()
            self.notice()
            is_cycle_due, is_pump_due = self.is_cycle_due(), self.is_pump_due()
            if not is_cycle_due and not is_pump_due:
                return
            if is_pump_due:
                self.pump()
            if is_cycle_due:
                self.cycle()
        raise Circle("there is always something due, and nothing comes of it")

    # -- what happens to it ---------------------------------------------------------------------------------

    def put(self, writer: int, batch: Batch) -> bool:
        """Let a writer put a batch; it waits as long as it has to. False if it still waits with an earlier one."""
        if self.is_waiting(writer):
            return False
        self._writers[writer] = gevent.spawn(self.provider.put, batch)
        self._let_writers_run()
        return True

    def is_waiting(self, writer: int) -> bool:
        """Answer whether a writer waits for room."""
        return writer in self._writers and not self._writers[writer].dead

    def waiting_writers(self) -> int:
        return sum(not writer.dead for writer in self._writers.values())

    def _let_writers_run(self) -> None:
        gevent.sleep(0)
        for writer in self._writers.values():
            if writer.dead and writer.exception is not None:
                raise writer.exception

    def connect(self) -> None:
        self.client.has_others = self.has_others
        self.client.connect(_Connection(self, **self.limits))

    @property
    def channels(self) -> list[ScriptedChannel]:
        """The channels that are open on a connection that lives, by number."""
        connection = self.client.connection if self.is_running else None
        if connection is None or connection.lost is not None:
            return []
        return [channel for _, channel in sorted(connection.channels.items())]

    def meanwhile(self, point: str, action: Callable[[], None]) -> None:
        """Do `action` when the core comes to `point` the next time: on another greenlet, or as its end."""
        self._meanwhile.append((point, action))

    def at(self, point: str) -> None:
        """The core is at a point where others may run."""
        due = [action for wanted, action in self._meanwhile if wanted == point]
        self._meanwhile = [(wanted, action) for wanted, action in self._meanwhile if wanted != point]
        for action in due:
            action()

    def forget_meanwhile(self) -> None:
        self._meanwhile.clear()

    def limit_pages(self, limit: int | None) -> None:
        """Let the file grow no further than `limit` pages."""
        self.page_limit = limit
        self.journal._rows.connection.execute(f"PRAGMA max_page_count = {limit or 0xFFFFFFFE}")

    def pages(self) -> int:
        """Return how many pages the file has."""
        return int(self.journal._rows.connection.execute("PRAGMA page_count").fetchone()[0])

    def look(self) -> sqlite3.Connection:
        """Return a connection of somebody else's to the file."""
        return sqlite3.connect(self.path, isolation_level=None, timeout=0)
