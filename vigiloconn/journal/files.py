"""The files around a journal: its place, its reserve, the damaged one set aside.

Knows paths, disks and what SQLite's error codes mean for them; nothing of rows and tables.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
import time
from collections.abc import Callable
from pathlib import Path

from peewee import PeeweeException

from vigiloconn.errors import JournalBusy, JournalDamaged, JournalFull, StartError, VigiloError

log = logging.getLogger(__name__)

#: What SQLite keeps beside a database; a file that is set aside takes these along.
COMPANIONS = ("-wal", "-shm", "-journal")
#: The mode of all of them: messages are nobody's business.
PRIVATE = 0o600
#: With less than this left on the disk, an I/O error while writing means that the disk is full.
_NEARLY_NOTHING_BYTES = 64 * 1024
#: On a small disk a smaller reserve is better than none, down to this; less would not hold the log of one discard.
_SMALLEST_RESERVE_BYTES = 64 * 1024
_ZEROS_BYTES = 1 << 18
_LOG_HEADER_BYTES = 32
_LOG_MAGIC = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")

_DAMAGE_CODES = frozenset(
    {
        sqlite3.SQLITE_IOERR_READ,
        sqlite3.SQLITE_IOERR_SHORT_READ,
        # The file was moved or deleted while it was open: what is written now could never be found again.
        sqlite3.SQLITE_READONLY_DBMOVED,
    }
)
_DAMAGE_PRIMARY_CODES = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_UNWRITABLE_PRIMARY_CODES = frozenset(
    {
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PERM,
    }
)
_BUSY_PRIMARY_CODES = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})


class NoRoom(JournalFull):
    """Raised when it is the disk that has no room; giving something up may help."""


class LogBlocked(JournalFull):
    """Raised when a reader has kept the write-ahead log from being folded for too long."""

    problem = "journal-log"


class Unwritable(JournalFull):
    """Raised when the file can't be written for another reason than room: mounted read-only meanwhile, say."""

    problem = "journal-unwritable"


def sqlite_error(exc: BaseException) -> sqlite3.Error | None:
    """Return the driver's own error behind `exc`: itself, or what peewee wrapped."""
    if isinstance(exc, sqlite3.Error):
        return exc
    cause = exc.__cause__ or exc.__context__
    return cause if isinstance(exc, PeeweeException) and isinstance(cause, sqlite3.Error) else None


def translate(exc: BaseException, path: Path) -> VigiloError | None:
    """Return what a SQLite error means for the journal at `path`; None for a mistake in the program.

    A file that can't be written for another reason than room is `JournalFull` too: the caller's answer is the same.
    """
    error = sqlite_error(exc)
    if error is None:
        return None
    code = getattr(error, "sqlite_errorcode", 0)
    primary = code & 0xFF
    text = str(error)
    if code in _DAMAGE_CODES or primary in _DAMAGE_PRIMARY_CODES or text.startswith("no such table"):
        return JournalDamaged(f"journal {path}: can't be read any more: {text}")
    if primary == sqlite3.SQLITE_FULL:
        return NoRoom(f"journal {path}: the disk is full: {text}; make room on it")
    if primary in _BUSY_PRIMARY_CODES:
        return JournalBusy(f"journal {path}: another program has locked it: {text}; end its transaction")
    if primary in _UNWRITABLE_PRIMARY_CODES:
        if primary == sqlite3.SQLITE_IOERR and free_bytes(path.parent) < _NEARLY_NOTHING_BYTES:
            return NoRoom(f"journal {path}: the disk is full: {text}; make room on it")
        return Unwritable(f"journal {path}: can't be written now: {text}")
    return None


def free_bytes(directory: Path) -> int:
    """Return the bytes that this user may still write below `directory`."""
    disk = os.statvfs(directory)
    return disk.f_bavail * disk.f_frsize


def disk_bytes(directory: Path) -> int:
    """Return the size of the disk below `directory`."""
    disk = os.statvfs(directory)
    return disk.f_blocks * disk.f_frsize


def inode_and_size(path: Path | str) -> tuple[tuple[int, int], int]:
    """Return which file is found at `path`, as device and inode, and its bytes; zeros when there is none."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return (0, 0), 0
    return (found.st_dev, found.st_ino), found.st_size


def make_private(path: Path) -> None:
    """Make the file at `path` where there is none; see that nobody but its owner may use it or its companions.

    SQLite gives the companions that it makes the mode of the file itself.
    """
    try:
        # Before SQLite does: that would make it as the umask says.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE))
    except OSError as exc:
        raise StartError(f"journal {path}: can't be opened: {exc.strerror}") from exc
    for suffix in ("", *COMPANIONS):
        _take_from_others(f"{path}{suffix}")


def _take_from_others(path: str) -> None:
    try:
        found = os.lstat(path)
        if stat.S_ISREG(found.st_mode) and stat.S_IMODE(found.st_mode) & ~PRIVATE:
            os.chmod(path, PRIVATE)
    except FileNotFoundError:
        pass  # companions come and go
    except OSError as exc:
        log.warning("journal file %s: others may use it, and that can't be changed: %s", path, exc.strerror)


def log_problem(path: Path) -> str:
    """Return what is wrong with the write-ahead log of the file at `path`, in one line; empty when nothing is.

    SQLite would take such a log for an empty one, and what is committed in it would be gone without a word. Nothing
    but zeros is sound: a power cut may leave that of one in which nothing was committed. File format: section 4.1.
    """
    try:
        with open(f"{path}-wal", "rb") as file:
            header = file.read(_LOG_HEADER_BYTES)
    except FileNotFoundError:
        return ""
    except OSError as exc:
        raise StartError(f"journal {path}: its write-ahead log can't be read: {exc.strerror}") from exc
    if header and not inode_and_size(path)[1]:
        return "the file is empty or missing, but its write-ahead log is not"
    is_sound = len(header) < _LOG_HEADER_BYTES or not any(header) or header.startswith(_LOG_MAGIC)
    return "" if is_sound else "its write-ahead log does not begin as one of SQLite's"


def check_place(path: Path) -> None:
    """Refuse a place where no journal can be kept. Raises `StartError` that says what to do."""
    directory = path.parent
    if not directory.is_dir():
        raise StartError(
            f"journal {path}: directory {directory} does not exist: create it for the connector's user, "
            "or name another file in backup_file"
        )
    if path.exists() and not path.is_file():
        raise StartError(f"journal {path}: expected a file, found something else: name a file in backup_file")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise StartError(
            f"journal {path}: directory {directory} is not writable for user id {os.geteuid()} (SQLite makes files "
            "in it): check its owner and mode and that it is not mounted read-only, or name another file in "
            "backup_file"
        )
    if path.exists() and not os.access(path, os.R_OK | os.W_OK):
        raise StartError(
            f"journal {path}: not readable and writable for user id {os.geteuid()}: check its owner and mode"
        )


def lengthen(path: Path, size_bytes: int) -> None:
    """Fill a file with zeros up to this size, on the disk when it returns; what is in it stays. Raises OSError."""
    with open(path, "r+b", buffering=0) as file:
        file.seek(0, os.SEEK_END)
        while (left_bytes := size_bytes - file.tell()) > 0:
            file.write(bytes(min(left_bytes, _ZEROS_BYTES)))
        os.fdatasync(file.fileno())


class Reserve:
    """Room on the disk that is kept for the moment when there is none."""

    def __init__(self, path: Path, size_bytes: int, free_bytes: Callable[[Path], int] = free_bytes) -> None:
        self.path = path
        self.size_bytes = size_bytes
        """What it has, or would have at least; on a small disk less than was asked for."""
        self.is_missing = size_bytes > 0
        """True while it lacks what was asked for."""
        self.is_spent = False
        """True while there is none: given up, or never made for want of room."""
        self._wanted_bytes = size_bytes
        self._free_bytes = free_bytes

    def keep(self) -> bool:
        """Make the reserve, or find it made. Returns False, and leaves nothing, when the disk has too little room.

        Wants twice its size to be free: a reserve that itself fills the disk would help nobody. Where that is
        not the case it is made half as large, and again, and grows when it is asked to be kept with more room.
        """
        if self._wanted_bytes <= 0:
            return True
        try:
            size_bytes = self._make()
        except OSError as exc:
            log.debug("journal reserve %s: %s", self.path, exc)
            self.path.unlink(missing_ok=True)
            size_bytes = 0
        self.size_bytes = size_bytes or min(self._wanted_bytes, _SMALLEST_RESERVE_BYTES)
        self.is_missing = size_bytes < self._wanted_bytes
        self.is_spent = size_bytes == 0
        return size_bytes > 0

    def _make(self) -> int:
        """Return the size of the reserve that is there now, 0 if there is no room for one."""
        size_bytes = self._wanted_bytes
        while True:
            if self._is_allocated(size_bytes):
                return size_bytes
            if self._free_bytes(self.path.parent) >= 2 * size_bytes:
                self._allocate(size_bytes)
                return size_bytes
            size_bytes //= 2
            if size_bytes < _SMALLEST_RESERVE_BYTES:
                return 0

    def give_up(self) -> None:
        """Return the room to the disk."""
        if self._wanted_bytes > 0:
            self.path.unlink(missing_ok=True)
            self.is_missing = self.is_spent = True

    def _is_allocated(self, size_bytes: int) -> bool:
        try:
            found = self.path.lstat()
        except FileNotFoundError:
            return False
        return stat.S_ISREG(found.st_mode) and found.st_size == size_bytes and found.st_blocks * 512 >= size_bytes

    def _allocate(self, size_bytes: int) -> None:
        # A new file each time: what another user has put there, be it a link, is not written to.
        self.path.unlink(missing_ok=True)
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE)
        try:
            os.posix_fallocate(fd, 0, size_bytes)
        finally:
            os.close(fd)


def set_aside(path: Path) -> Path:
    """Rename a journal with its companions to a dated name and return that name. Overwrites nothing.

    Do it before closing the connection: SQLite, on closing, folds the log only into a file that is still in its
    place, so what was found is kept as it was found.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S")
    target = path.with_name(f"{path.name}.damaged-{stamp}")
    attempt = 1
    while any(os.path.lexists(f"{target}{suffix}") for suffix in ("", *COMPANIONS)):
        attempt += 1
        target = path.with_name(f"{path.name}.damaged-{stamp}-{attempt}")
    for suffix in ("", *COMPANIONS):
        try:
            os.rename(f"{path}{suffix}", f"{target}{suffix}")
            _take_from_others(f"{target}{suffix}")
        except FileNotFoundError:
            pass  # companions come and go; the file itself may be what somebody deleted
    return target
