"""Looking at a journal's file while its owner works on it, or nobody does. Knows pages; changes nothing.

Every look is a transaction of its own, and short: a reader that stays keeps the log of a running connector from being
folded.
"""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar
from urllib.parse import quote

from vigiloconn.errors import StartError, VigiloError
from vigiloconn.journal.amend import Order, is_meant
from vigiloconn.journal.clock import JournalClock
from vigiloconn.journal.files import translate
from vigiloconn.journal.pages import HELD, PARKED, WAITING, Entry, Pages

_ALL = 2**63 - 1
_BUSY_S = 5.0

T = TypeVar("T")


class Total(NamedTuple):
    """What one look at all of a table has found."""

    messages: int
    size_bytes: int
    groups: dict[str, int]
    """Held: by exchange; parked: by exchange and reason; waiting: by type."""
    oldest: Entry | None


class JournalReader:
    """A connection of its own to the file at `path`, that can't write. A context manager.

    Raises `StartError` when there is none that can be read, `JournalDamaged` and `JournalBusy` at any time.
    """

    def __init__(self, path: str | os.PathLike[str], table: str, clock: JournalClock | None = None) -> None:
        self.path = Path(path)
        self.clock = clock or JournalClock()
        self._connection = self._opened()
        self._pages = self._asked(lambda: Pages(self._connection, table, self.clock.boot_id))

    def __enter__(self) -> JournalReader:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._connection.close()

    def entries(self, order: Order) -> Iterator[Entry]:
        """Go through the messages that are meant, in the order of their table, a page at a time."""
        now = self.clock.now()
        for entry in self.all_of(order.table, order.after, order.upto):
            if is_meant(entry, order, now):
                yield entry

    def all_of(self, table: str, after: int = 0, upto: int = _ALL) -> Iterator[Entry]:
        """Go through a table, a page at a time."""
        while page := self._page(table, after, upto):
            yield from page
            after = page[-1].at

    def find(self, id: int) -> Entry | None:
        """Return the message with this number, wherever it stands."""
        for table in (WAITING, HELD, PARKED):
            if found := self.named(table, [id]):
                return found[0]
        return None

    def named(self, table: str, ids: list[int]) -> list[Entry]:
        """Return the messages of a table with these ids, at most 500."""
        return self._asked(lambda: self._pages.named(table, ids))

    def exchanges(self) -> list[str]:
        """Return the exchanges that messages are held for."""
        return sorted(self.total(HELD).groups)

    def total(self, table: str, each: Callable[[Iterator[Entry]], Iterator[Entry]] = iter) -> Total:
        """Count a table; `each` sees what goes by."""
        groups: Counter[str] = Counter()
        size_bytes, oldest = 0, None
        for entry in each(self.all_of(table)):
            size_bytes += len(entry.body)
            groups[_group(entry)] += 1
            if oldest is None or (entry.since or _ALL) < (oldest.since or _ALL):
                oldest = entry
        return Total(groups.total(), size_bytes, dict(groups), oldest)

    def kept(self, name: str) -> str | None:
        """Return the text of this name that was stored with messages."""
        return self._asked(lambda: self._pages.kept(name))

    def last_place(self, table: str) -> int:
        """Return where a table ends now."""
        return self._asked(lambda: self._pages.last_place(table))

    def quick_count(self, table: str) -> int:
        """Return the number of a table's messages, without reading their bodies."""
        after, rows = 0, 0
        while (found := self._measured(table, after))[0]:
            rows += found[0]
            after = found[2]
        return rows

    def verdicts(self) -> list[str]:
        """Return what SQLite finds wrong with the whole file. One long look: not for one that is in use."""
        rows = self._asked(lambda: self._connection.execute("PRAGMA integrity_check").fetchall())
        return [str(row[0]) for row in rows if row[0] != "ok"]

    def _measured(self, table: str, after: int) -> tuple[int, int, int]:
        return self._asked(lambda: self._pages.measure(table, after, 10_000))

    def _page(self, table: str, after: int, upto: int) -> list[Entry]:
        return self._asked(lambda: self._pages.page(table, after, upto))

    def _asked(self, look: Callable[[], T]) -> T:
        try:
            return look()
        except sqlite3.Error as exc:
            raise translate(exc, self.path) or VigiloError(f"journal {self.path}: {exc}") from exc

    def _opened(self) -> sqlite3.Connection:
        try:
            os.close(os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        except FileNotFoundError as exc:
            raise StartError(f"journal {self.path}: there is none: is that the connector's backup_file?") from exc
        except OSError as exc:
            raise StartError(
                f"journal {self.path}: can't be read: {exc.strerror}: be root or the connector's user"
            ) from exc
        if not self.path.is_file():
            raise StartError(f"journal {self.path}: expected a file, found something else: name a file in backup_file")
        address = f"file:{quote(os.fspath(self.path))}?mode=ro"
        return self._asked(lambda: sqlite3.connect(address, uri=True, timeout=_BUSY_S, isolation_level=None))


def _group(entry: Entry) -> str:
    if entry.table == WAITING:
        return entry.type or "(no message)"
    return f"{entry.exchange}: {entry.reason}" if entry.table == PARKED else entry.exchange
