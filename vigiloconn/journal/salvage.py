"""Reading what can be read of a damaged journal: around bad pages, from both ends. Changes nothing in the file."""

from __future__ import annotations

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
from vigiloconn.journal.pages import HELD, PARKED, WAITING, Entry, Pages

_LOWEST, _HIGHEST = -(2**63), 2**63 - 1


class Salvage:
    """Goes through the tables of the file at `path`; `unreadable` has a line for each stretch that it had to leave out.

    It works on a copy in the directory `beside`, so that nothing is folded into what was found. Raises `StartError`
    when there is no room for it, or no file. A context manager.
    """

    def __init__(self, path: Path, table: str, beside: Path, clock: JournalClock | None = None) -> None:
        self.unreadable: list[str] = []
        self._table = table
        self._boot_id = (clock or JournalClock()).boot_id
        try:
            self._directory = tempfile.TemporaryDirectory(prefix=".salvage-", dir=beside)
            self._copy = Path(self._directory.name, "journal")
            for suffix in ("", *COMPANIONS):
                if suffix == "-shm" or (suffix and not os.path.exists(f"{path}{suffix}")):
                    continue
                shutil.copyfile(f"{path}{suffix}", f"{self._copy}{suffix}")
        except OSError as exc:
            raise StartError(f"{path}: can't be copied to {beside} to be read: {exc.strerror}") from exc

    def __enter__(self) -> Salvage:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._directory.cleanup()

    def entries(self) -> Iterator[Entry]:
        """Go through all that can be read: what waits, what is held, what is parked, each in its order."""
        if problem := log_problem(self._copy):
            self.unreadable.append(f"{problem}: what was in the log only is lost")
            Path(f"{self._copy}-wal").unlink(missing_ok=True)
        for table in (WAITING, HELD, PARKED):
            # A connection that has met damage may keep what it has read: each table has its own.
            with closing(sqlite3.connect(self._copy, isolation_level=None)) as connection:
                yield from self._table_of(connection, table)

    def _table_of(self, connection: sqlite3.Connection, table: str) -> Iterator[Entry]:
        try:
            pages = Pages(connection, self._table, self._boot_id)
        except sqlite3.Error as exc:
            self.unreadable.append(f"{table}: the table can't be found: {exc}")
            return
        yield from _Stretch(pages, table, self.unreadable).entries()


class _Stretch:
    """One table, read in stretches between what can't be read."""

    def __init__(self, pages: Pages, table: str, unreadable: list[str]) -> None:
        self._pages = pages
        self._table = table
        self._unreadable = unreadable

    def entries(self) -> Iterator[Entry]:
        after, end = _LOWEST, self._end()
        while after < end:
            try:
                page = self._pages.page(self._table, after, end)
            except sqlite3.Error as exc:
                row = self._row_behind(after)
                if row is not None:
                    # The page of rows has met damage further on: they come one by one up to there.
                    yield row
                    after = row.at
                    continue
                beyond = self._beyond(after, end)
                self._note(after, None if beyond is None else beyond, exc)
                if beyond is None:
                    return
                after = beyond - 1
                continue
            if not page:
                return
            yield from page
            if page[-1].at <= after:
                # Damage that SQLite does not see: it would never end.
                self._unreadable.append(f"{self._table}: behind {after}: the order of the rows is lost")
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

    def _note(self, after: int, beyond: int | None, error: sqlite3.Error) -> None:
        place = "seq" if self._table == PARKED else "id"
        upto = "the end" if beyond is None else f"{place} {beyond - 1}"
        self._unreadable.append(f"{self._table}: {place} {max(after, 0) + 1} to {upto}: {error}")
