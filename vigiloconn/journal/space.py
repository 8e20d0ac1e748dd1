"""The disk below an open journal: how far file and log may still grow, and when the log is folded.

Knows free bytes, pages and the reserve; no tables, no transactions.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from vigiloconn.errors import JournalDamaged
from vigiloconn.journal import room
from vigiloconn.journal.begun import Translated
from vigiloconn.journal.files import LogBlocked, NoRoom, Reserve, disk_bytes, inode_and_size
from vigiloconn.journal.pagefile import PageFile
from vigiloconn.journal.transaction import Transaction

log = logging.getLogger(__name__)

#: With less than this free beside the floor the log takes no room before it needs it.
_PLENTY_BYTES = 16 * room.LOG_BYTES


class Space:
    """The room that the journal at `path` has. New messages leave `min_free_bytes` of it.

    `pages` is set whenever the file is opened, and then, with the tables in place, `settle` called.
    """

    def __init__(
        self,
        path: Path,
        volatile: bool,
        reserve: Reserve,
        min_free_bytes: int,
        free_bytes: Callable[[Path], int],
    ) -> None:
        self.reserve = reserve
        self.reckoning: room.Reckoning | None = None
        """None while nothing is known of the log without a look."""
        self.pages: PageFile
        self._path = path
        self._file, self._directory = os.fspath(path), path.parent
        self._volatile = volatile
        self._min_free_bytes = min_free_bytes
        self._free_bytes = free_bytes
        self._floor_bytes = 0
        self._inode = (0, 0)
        self._translated = Translated(path)

    def settle(self) -> None:
        """Take the file that is there now for the journal's own, and its disk for the one that it grows on."""
        if not self._volatile:
            self._floor_bytes = room.floor_bytes(self._min_free_bytes, disk_bytes(self._directory))
            self._inode = inode_and_size(self._path)[0]

    def spare_bytes(self) -> int:
        """Return what new messages may take of the disk once the log is folded."""
        return self._free_bytes(self._directory) - self.growth_bytes() - self._floor_bytes

    def has_plenty(self) -> bool:
        """Answer whether the log may take its room before it needs it."""
        return not self._volatile and self._free_bytes(self._directory) >= self._floor_bytes + _PLENTY_BYTES

    def tend(self) -> None:
        """Do after a transaction what the next one on a full disk will need: a log that can be emptied, a reserve."""
        most_bytes = self.reserve.size_bytes // 2
        if self.reckoned().unfolded_bytes > most_bytes > 0 and self.looked().unfolded_bytes > most_bytes:
            # What is in the log only must fit into the reserve, or on a full disk the log could never be emptied.
            self.checkpoint("PASSIVE")
        if self.reserve.is_missing:
            self.reserve.keep()

    def is_folded(self) -> bool:
        """Answer whether nothing in the log needs room in the file; the reserve is given up where the disk has none."""
        free_bytes = self._free_bytes(self._directory)
        if free_bytes < max(self.growth_bytes(), self.reserve.size_bytes):
            self.reserve.give_up()
            self.checkpoint()
        return self.growth_bytes() <= 0

    def fits(self, transaction: Transaction, need: room.Need) -> bool:
        """Answer whether the disk has room for a transaction that takes this much, and for what must be left."""
        if self._volatile:
            return True
        free_bytes = self._free_bytes(self._directory)
        disk = room.Disk(free_bytes, self.reckoned().unfolded_bytes, emptied_bytes=0)
        if room.fits(transaction, need, disk, self._floor_bytes):
            return True
        disk = room.Disk(free_bytes, self.looked().unfolded_bytes, self.pages.emptied_bytes())
        return room.fits(transaction, need, disk, self._floor_bytes)

    def reckoned(self) -> room.Reckoning:
        """Return the most that can be in the log, without a look where it is known well enough."""
        return self.reckoning or self.looked()

    def looked(self) -> room.Reckoning:
        """Return what is in the log, by a look."""
        # A file that is shorter once the log is folded has no more room until then.
        self.reckoning = room.Reckoning(max(0, self.growth_bytes()), self.log_bytes())
        return self.reckoning

    def no_room(self) -> NoRoom:
        """Return the error of what does not fit."""
        free_bytes = self._free_bytes(self._directory)
        return NoRoom(
            f"journal {self._path}: the disk is full: {free_bytes} bytes are free, of which {self._floor_bytes} are "
            "kept (journal_min_free); make room on it"
        )

    def check_log(self) -> None:
        """Raise `LogBlocked` when the log is too long and can't be folded."""
        if self.reckoned().log_bytes <= room.LOG_MAX_BYTES or self.looked().log_bytes <= room.LOG_MAX_BYTES:
            return
        self.checkpoint()
        if (log_bytes := self.log_bytes()) > room.LOG_MAX_BYTES:
            raise LogBlocked(
                f"journal {self._path}: a reader's open transaction keeps its log from being folded, which has "
                f"{log_bytes} bytes; end that transaction"
            )

    def log_bytes(self) -> int:
        """Return the size of the log's file."""
        return 0 if self._volatile else inode_and_size(Path(f"{self._path}-wal"))[1]

    def check_place(self) -> int:
        """Return the size of the file in bytes.

        Raises `JournalDamaged` when it is not where it was: SQLite would go on writing to what nobody finds.
        """
        inode, size_bytes = inode_and_size(self._file)
        if inode != self._inode:
            raise JournalDamaged(f"journal {self._path}: the file was moved or deleted while in use")
        return size_bytes

    def growth_bytes(self) -> int:
        """Return by how much the next checkpoint makes the file grow."""
        if self._volatile:
            return 0
        with self._translated:
            return self.pages.size_bytes() - self.check_place()

    def checkpoint(self, mode: Literal["PASSIVE", "TRUNCATE"] = "TRUNCATE", *, patient: bool = False) -> bool:
        """Fold the write-ahead log into the file, as far as readers and the disk allow; TRUNCATE also empties it.

        True when all of it is folded, and so on the disk.
        """
        self.reckoning = None
        try:
            # One that fails half-way has used up the room and freed none.
            if self._volatile or self.growth_bytes() <= self._free_bytes(self._directory):
                return self.pages.checkpoint(mode, patient=patient)
        except (sqlite3.Error, JournalDamaged) as exc:
            log.debug("journal %s: checkpoint: %s", self._path, exc)
        return False

    def is_worth_giving_back(self) -> bool:
        """Answer whether so much of the file is empty that the disk is to have it back."""
        if self._volatile:
            return False
        with self._translated:
            file_bytes, emptied_bytes = self.pages.size_bytes(), self.pages.emptied_bytes()
        disk = room.Disk(self._free_bytes(self._directory), max(0, self.growth_bytes()), emptied_bytes)
        return room.is_worth_giving_back(file_bytes, disk, self._floor_bytes)
