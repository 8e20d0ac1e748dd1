"""The note of an orderly close: totals of a journal, and how its file stood then. Knows a file's stat, no tables.

With it a start need neither check nor count what nobody has touched. Any doubt means no note.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import msgspec

from vigiloconn.journal.files import PRIVATE, inode_and_size

log = logging.getLogger(__name__)

#: Kernels stamp files by a clock with ticks of up to 10 ms: what is as young as that may change again unseen.
_TICK_S = 0.02
#: Where a change may be that the file does not show yet. Not -shm: an index of the log, left by whoever only reads.
_LOGS = ("-wal", "-journal")

Stand = tuple[int, int, int, int, int]
"""Device, inode, size, and the times of the last change of content and of anything, in nanoseconds."""


class Totals(msgspec.Struct):
    """What a count of all tables gives."""

    rows: int
    size_bytes: int
    held: dict[str, int]
    parked_rows: int
    parked_bytes: int


class _Note(msgspec.Struct):
    stand: Stand
    table: str
    totals: Totals


class ClosingNote:
    """The note beside the journal at `journal_path`, whose main table is `table`."""

    def __init__(self, journal_path: Path, table: str) -> None:
        self._table = table
        self._journal_path = journal_path
        self.path = Path(f"{journal_path}.closed")
        self._taken: Stand | None = None

    def settled_stand(self) -> Stand | None:
        """Return how the file stands, once that is older than a tick; None where it can't be told."""
        try:
            stand = self._stand()
            time.sleep(min(_TICK_S, max(0.0, stand[3] / 1e9 + _TICK_S - time.time())))
            return stand
        except OSError:
            return None

    def write(self, stand: Stand, totals: Totals) -> None:
        """Note the totals of a file that is closed, provided that it still stands so."""
        try:
            if self._is_closed_as(stand):
                self._write(msgspec.json.encode(_Note(stand, self._table, totals)))
        except OSError as exc:
            log.debug("journal note %s: %s", self.path, exc)

    def take(self) -> Totals | None:
        """Return the totals of a file that nobody has touched since its orderly close, else None.

        The note is gone then: call it before anything is written to the file.
        """
        try:
            # Not through a link that somebody has put there.
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            with os.fdopen(fd, "rb") as file:
                text = file.read()
            self.path.unlink()
            self._sync_directory()
            note = msgspec.json.decode(text, type=_Note)
            self._taken = note.stand
            return note.totals if note.table == self._table and self.is_still_true() else None
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as exc:
            log.debug("journal note %s: %s", self.path, exc)
            return None

    def is_still_true(self) -> bool:
        """Answer whether the file stands as the note says that was taken. Asked in a transaction that has written
        nothing yet, it tells that nobody has come in between.
        """
        try:
            return self._taken is not None and self._is_closed_as(self._taken)
        except OSError:
            return False

    def _is_closed_as(self, stand: Stand) -> bool:
        is_folded = not any(inode_and_size(Path(f"{self._journal_path}{suffix}"))[1] for suffix in _LOGS)
        return is_folded and self._stand() == stand

    def _stand(self) -> Stand:
        found = os.stat(self._journal_path)
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    def _write(self, text: bytes) -> None:
        # A new file each time: what another user has put there, be it a link, is not written to.
        self.path.unlink(missing_ok=True)
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE)
        with os.fdopen(fd, "wb") as file:
            file.write(text)

    def _sync_directory(self) -> None:
        fd = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
