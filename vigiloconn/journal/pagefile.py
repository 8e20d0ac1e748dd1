"""The journal's file as SQLite's pages: its log, its size, what is empty in it. Knows pragmas, no tables."""

from __future__ import annotations

import sqlite3

#: SQLite's number for a file whose empty pages are taken off when it is asked to.
_INCREMENTAL = 2


class PageFile:
    """The pages behind a connection that somebody else opens and closes."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def quick_check(self) -> str:
        """Return what is wrong with the file, `ok` when nothing is found."""
        return str(self._connection.execute("PRAGMA quick_check(1)").fetchone()[0])

    def data_version(self) -> int:
        """Return a number that another one follows when another program has written to the file."""
        return self._pragma("data_version")

    def checkpoint(self, mode: str, *, patient: bool = False) -> bool:
        """Fold the write-ahead log into the file, as far as readers allow it now. True when all of it is folded.

        `patient`: a reader is waited for as a lock is.
        """
        patience_ms = self._pragma("busy_timeout")
        # A reader may stay for hours: to wait for it each time would be to do nothing else.
        self._pragma(f"busy_timeout = {patience_ms if patient else 0}")
        try:
            busy, in_log, folded = self._connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
            return not busy and in_log == folded
        finally:
            self._pragma(f"busy_timeout = {patience_ms}")

    def size_bytes(self) -> int:
        """Return the size of the database: what the file has once the log is folded into it."""
        return self._pragma("page_count") * self._pragma("page_size")

    def emptied_bytes(self) -> int:
        """Return the size of the pages that hold nothing any more."""
        return self._pragma("freelist_count") * self._pragma("page_size")

    def can_shorten(self) -> bool:
        """Answer whether the file knows where its pages belong; one of an older version does not."""
        return self._pragma("auto_vacuum") == _INCREMENTAL

    def make_shortenable(self) -> None:
        """Let a file in which nothing is yet know where its pages belong. Writes to any other one."""
        self._connection.execute(f"PRAGMA auto_vacuum = {_INCREMENTAL}")

    def shorten(self, size_bytes: int) -> None:
        """Take so much of what is empty off the file's end."""
        pages = size_bytes // self._pragma("page_size")
        # Each page is a step of the statement, and the driver takes one step of what gives no rows.
        for _ in range(pages):
            self._connection.execute("PRAGMA incremental_vacuum(1)")

    def rebuild(self) -> None:
        """Write the file anew, as one that can be shortened; not in a transaction. Takes as long as what it holds."""
        self.make_shortenable()
        self._connection.execute("VACUUM")

    def _pragma(self, name: str) -> int:
        value: int = self._connection.execute(f"PRAGMA {name}").fetchone()[0]
        return value
