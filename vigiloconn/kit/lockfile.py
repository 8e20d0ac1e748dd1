"""A file that one process at a time holds. Knows `flock`, which ends with its process however that ends."""

from __future__ import annotations

import fcntl
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from vigiloconn.errors import StartError

log = logging.getLogger(__name__)


def holder_of(path: str) -> int | None:
    """Return the process that holds the lock at `path`, None where none does. Takes nothing, not for a moment."""
    try:
        with open(path, "rb") as file:
            holder, inode = file.read(32).split(b"\n")[0], os.fstat(file.fileno()).st_ino
        with open("/proc/locks", encoding="ascii") as file:
            locks = [line.split() for line in file]
    except OSError:
        return None
    for row in locks:
        # Not the device: filesystems that lie over others are told by two numbers.
        if row[1] == "FLOCK" and row[4].encode() == holder and row[5].endswith(f":{inode}"):
            return int(row[4])
    return None


class LockHeld(StartError):
    """Raised when another process holds the lock."""


class LockFile:
    """A lock on `path`. The file stays: unlinking it could take it from one who has just locked it.

    So a file that a dead process left is no obstacle; what counts is the lock on it, not that it is there.
    `name` is what errors call it, `advice` what they tell to do when it is held.
    """

    def __init__(self, path: str, *, name: str = "lock_file", advice: str = "", mode: int = 0o644) -> None:
        self.path = path
        self._title = f"{name} {path}"
        self._advice = advice
        self._mode = mode
        self._fd: int | None = None

    @classmethod
    @contextmanager
    def held(cls, path: str | None) -> Iterator[None]:
        """Hold the lock in a `with` block; without a path, nothing is locked."""
        if path is None:
            yield
            return
        lock = cls(path)
        lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def acquire(self) -> None:
        """Take the lock and write our process id. Raises `LockHeld`, and `StartError` when the file can't be used."""
        fd = self._open()
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(fd, 32).split(b"\n")[0].decode("ascii", "replace")
            os.close(fd)
            raise LockHeld(f"{self._title} is held by process {holder or '(unknown)'}{self._advice}") from None
        except OSError as exc:
            os.close(fd)
            raise StartError(f"{self._title} can't be locked: {exc.strerror}") from exc
        self._fd = fd
        try:
            os.ftruncate(fd, 0)
            os.write(fd, b"%d\n" % os.getpid())
        except OSError as exc:
            # The number is for people only, and a full disk must keep nobody from starting.
            log.debug("%s: the process id can't be noted: %s", self._title, exc.strerror)

    def release(self) -> None:
        """Give the lock up. Harmless when it is not held."""
        fd, self._fd = self._fd, None
        if fd is not None:
            try:
                # Who finds it held right after us must not be told our number.
                os.ftruncate(fd, 0)
            except OSError:
                # A disk that fails is no reason to fail with the work done.
                pass
            os.close(fd)

    def _open(self) -> int:
        # O_NOFOLLOW: the directory may be one that others write to. O_NONBLOCK: a FIFO must not hang.
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            fd = os.open(self.path, flags, self._mode)
        except OSError as exc:
            raise StartError(f"{self._title} can't be opened: {exc.strerror}") from exc
        found = os.fstat(fd)
        # With another name it may be a file that somebody wants to see emptied.
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            os.close(fd)
            raise StartError(f"{self._title}: expected a regular file with no other name, found something else")
        if found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) & ~self._mode:
            os.fchmod(fd, self._mode)
        return fd
