"""Reading what can be read of a damaged journal: around bad pages, from both ends, and in each page by itself.

Changes nothing in the file.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from vigiloconn.errors import StartError
from vigiloconn.journal.clock import JournalClock
from vigiloconn.journal.files import COMPANIONS, log_problem
from vigiloconn.journal.leaves import Leaves
from vigiloconn.journal.pages import HELD, PARKED, WAITING, Entry, Pages
from vigiloconn.journal.remains import Remains

_LOWEST, _HIGHEST = -(2**63), 2**63 - 1
#: Stretches without a row between them, after which the tree is given up.
_MOST_FRUITLESS = 10
_NOT_LISTED = "not in the file's list of tables"


class Salvage:
    """Goes through the tables of the file at `path`; `unreadable` has a line for each stretch that SQLite can't read.

    Of such a stretch come the rows that are whole in their own pages. It works on a copy in the directory `beside`, so
    that nothing is folded into what was found. Raises `StartError` when there is no room for it, or no file. A context
    manager.
    """

    def __init__(self, path: Path, table: str, beside: Path, clock: JournalClock | None = None) -> None:
        self.unreadable: list[str] = []
        self.identity: str
        """What tells these bytes from others."""
        self._table = table
        self._boot_id = (clock or JournalClock()).boot_id
        try:
            self._directory = tempfile.TemporaryDirectory(prefix=".salvage-", dir=beside)
            self._copy = Path(self._directory.name, "journal")
            for suffix in ("", *COMPANIONS):
                if suffix == "-shm" or (suffix and not os.path.exists(f"{path}{suffix}")):
                    continue
                shutil.copyfile(f"{path}{suffix}", f"{self._copy}{suffix}")
            self.identity = self._identified()
        except OSError as exc:
            raise StartError(f"{path}: can't be copied to {beside} to be read: {exc.strerror}") from exc

    def __enter__(self) -> Salvage:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._directory.cleanup()

    def _identified(self) -> str:
        digests = []
        for path in sorted(self._copy.parent.iterdir()):
            with path.open("rb") as file:
                digests.append(f"{path.name}:{hashlib.file_digest(file, 'sha256').hexdigest()}")
        return hashlib.sha256("\n".join(digests).encode()).hexdigest()

    def entries(self) -> Iterator[Entry]:
        """Go through all that can be read: what waits, what is held, what is parked, each in its order."""
        if problem := log_problem(self._copy):
            self.unreadable.append(f"{problem}: what was in the log only is lost")
            Path(f"{self._copy}-wal").unlink(missing_ok=True)
        # Before SQLite folds the log.
        with closing(Leaves(self._copy)) as leaves:
            remains = Remains(leaves)
            for table in (WAITING, HELD, PARKED):
                # A connection that has met damage may keep what it has read: each table has its own.
                with closing(sqlite3.connect(self._copy, isolation_level=None)) as connection:
                    yield from self._table_of(connection, table, remains)

    def _table_of(self, connection: sqlite3.Connection, table: str, remains: Remains) -> Iterator[Entry]:
        why = _NOT_LISTED
        try:
            pages = Pages(connection, self._table, self._boot_id)
            if pages.has(table):
                yield from _Stretch(pages, table, remains, self.unreadable).entries()
                return
        except sqlite3.Error as exc:
            why = str(exc)
        found = 0
        for entry in remains.between(table, _LOWEST, _HIGHEST):
            found += 1
            yield entry
        # A file of an older version has no such table, and no rows of one either.
        if found or why != _NOT_LISTED or table == WAITING:
            self.unreadable.append(f"{table}: the table can't be found: {why}: {_found(found)}")


class _Stretch:
    """One table, read in stretches between what can't be read."""

    def __init__(self, pages: Pages, table: str, remains: Remains, unreadable: list[str]) -> None:
        self._pages = pages
        self._table = table
        self._remains = remains
        self._unreadable = unreadable

    def entries(self) -> Iterator[Entry]:
        after, end = _LOWEST, self._end()
        fruitless = 0
        while after < end:
            try:
                page = self._pages.page(self._table, after, end)
            except sqlite3.Error as exc:
                row = self._row_behind(after)
                if row is not None and row.at > after:
                    # The page of rows has met damage further on: they come one by one up to there.
                    yield row
                    after, fruitless = row.at, 0
                    continue
                # A tree that is bent can be read here and there for ever, and has nothing there.
                fruitless += 1
                beyond = self._beyond(after, end) if fruitless < _MOST_FRUITLESS else None
                yield from self._left(after, beyond, exc)
                if beyond is None:
                    return
                after = beyond - 1
                continue
            if not page:
                return
            yield from page
            fruitless = 0
            if page[-1].at <= after:
                # Damage that SQLite does not see: it would never end.
                yield from self._left(after, None, sqlite3.DatabaseError("the order of the rows is lost"))
                return
            after = page[-1].at

    def _row_behind(self, after: int) -> Entry | None:
        try:
            found = self._pages.page(self._table, after, _HIGHEST, 1)
        except sqlite3.Error:
            return None
        return found[0] if found else None

    def _beyond(self, after: int, end: int) -> int | None:
        """Return the lowest place behind a damaged stretch from which on rows can be read again; None: there is none.

        First a place beyond it is looked for in growing steps, then its beginning by halves.
        """
        first = max(after, 0)
        step = 1
        while not self._is_readable(first + step):
            step *= 2
            if first + step > end:
                return self._lowest(first, end) if self._is_readable(end) else None
        return self._lowest(first + step // 2, first + step)

    def _lowest(self, bad: int, good: int) -> int:
        """Return the lowest place that can be read, between one that can't be and one that can."""
        while good - bad > 1:
            middle = (bad + good) // 2
            if self._is_readable(middle):
                good = middle
            else:
                bad = middle
        return good

    def _is_readable(self, place: int) -> bool:
        try:
            # What is there itself: a row behind a bad page would be found by way of that page.
            self._pages.page(self._table, place - 1, place, 1)
        except sqlite3.Error:
            return False
        return True

    def _end(self) -> int:
        """Return the last place, from the other end of the table; the highest that there is where that is damaged."""
        try:
            return self._pages.last_place(self._table)
        except sqlite3.Error:
            return _HIGHEST

    def _left(self, after: int, beyond: int | None, error: sqlite3.Error) -> Iterator[Entry]:
        """Go through what the pages themselves have of a stretch, and note it; `beyond` is None: it has no end."""
        found = 0
        for entry in self._remains.between(self._table, after, _HIGHEST if beyond is None else beyond):
            found += 1
            yield entry
        place = "seq" if self._table == PARKED else "id"
        upto = "the end" if beyond is None else f"{place} {beyond - 1}"
        self._unreadable.append(f"{self._table}: {place} {max(after, 0) + 1} to {upto}: {error}: {_found(found)}")


def _found(count: int) -> str:
    return f"{count} messages are whole in their pages" if count else "nothing of it is left"
