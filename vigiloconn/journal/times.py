"""When the main table's messages were accepted: kept for ranges of ids. Knows one table and its totals."""

from __future__ import annotations

import sqlite3

from vigiloconn.interfaces import Record
from vigiloconn.journal.clock import Stamp
from vigiloconn.journal.counts import Counts
from vigiloconn.journal.tables import ACCEPTED

#: Two ranges are never closer than this.
_RANGE_S = 1.0


class AcceptanceTimes:
    """The ranges behind a connection; `boot` is the number of this boot of the machine."""

    def __init__(self, connection: sqlite3.Connection, boot: int) -> None:
        self._connection = connection
        self._boot = boot

    def read(self, counts: Counts) -> None:
        """Take the newest range and their number into the totals."""
        newest = f"SELECT accepted_at, CASE boot WHEN ? THEN boot_s END FROM {ACCEPTED} ORDER BY first_id DESC LIMIT 1"
        for row in self._connection.execute(newest, (self._boot,)):
            counts.newest_range = Stamp(*row)
        counts.ranges = self._connection.execute(f"SELECT count(*) FROM {ACCEPTED}").fetchone()[0]

    def ranges(self, first_id: int, last_id: int) -> list[tuple[int, Stamp]]:
        """Return where the ranges of these ids begin, with their times; an id before the first has none."""
        found = self._connection.execute(
            f"SELECT first_id, accepted_at, CASE boot WHEN ?3 THEN boot_s END FROM {ACCEPTED} "
            "WHERE first_id <= ?2 AND first_id >= "
            f"coalesce((SELECT max(first_id) FROM {ACCEPTED} WHERE first_id <= ?1), ?1) ORDER BY first_id",
            (first_id, last_id, self._boot),
        )
        return [(first, Stamp(wall_s, boot_s)) for first, wall_s, boot_s in found]

    def keep(self, counts: Counts, record: Record) -> None:
        """Note when a message was accepted, unless the newest range tells it."""
        if not is_close(counts.newest_range, record):
            self.begin_range(counts, record.id, stamp(record))

    def begin_range(self, counts: Counts, first_id: int, accepted: Stamp) -> None:
        """Let this time stand for all ids from `first_id` on."""
        sql = f"INSERT INTO {ACCEPTED} (first_id, accepted_at, boot, boot_s) VALUES (?, ?, ?, ?)"
        self._connection.execute(sql, (first_id, *self.stored(accepted)))
        counts.newest_range = accepted
        counts.ranges += 1

    def stored(self, accepted: Stamp) -> tuple[float, int | None, float | None]:
        """Return a time as the tables have it."""
        return accepted.wall_s, None if accepted.boot_s is None else self._boot, accepted.boot_s

    def forget_before(self, counts: Counts, id: int) -> None:
        """Forget the ranges before that of this id."""
        forgotten = self._connection.execute(
            f"DELETE FROM {ACCEPTED} WHERE first_id < "
            f"(SELECT max(first_id) FROM {ACCEPTED} WHERE first_id <= ?)",
            (id,),
        )
        counts.ranges -= forgotten.rowcount

    def forget_all(self, counts: Counts) -> None:
        """Forget all of them."""
        self._connection.execute(f"DELETE FROM {ACCEPTED}")
        counts.newest_range, counts.ranges = None, 0


def stamp(record: Record) -> Stamp:
    """Return when a message was accepted."""
    return Stamp(record.accepted_at, record.boot_s)


def is_close(began: Stamp | None, record: Record) -> bool:
    """Answer whether a message was accepted so soon after a range's time that this may stand for it, by both clocks."""
    if began is None or (began.boot_s is None) != (record.boot_s is None):
        return False
    # Nor is a step of the wall clock hidden: it is the one that tells across a reboot.
    wall_step_s, boot_step_s = record.accepted_at - began.wall_s, (record.boot_s or 0.0) - (began.boot_s or 0.0)
    return 0.0 <= wall_step_s < _RANGE_S and 0.0 <= boot_step_s < _RANGE_S
