"""A file that one process at a time holds. Knows `flock`, which ends with its process however that ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from vigiloconn.errors import StartError


class LockHeld(StartError):
    """Raised when another process holds the lock."""


class LockFile:
    """A lock on `path`. The file stays: unlinking it could take it from one who has just locked it.

    So a file that a dead process left is no obstacle; what counts is the lock on it, not that it is there.
    """

    def __init__(self, path: str) -> None:
        self.path = path
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
        try:
            # O_NOFOLLOW: the directory may be one that others write to.
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
        except OSError as exc:
            raise StartError(f"lock_file {self.path} can't be opened: {exc.strerror}") from exc
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(fd, 0)
            os.write(fd, b"%d\n" % os.getpid())
        except BlockingIOError:
            holder = os.read(fd, 32).split(b"\n")[0].decode("ascii", "replace")
            os.close(fd)
            raise LockHeld(f"lock_file {self.path} is held by process {holder or '(unknown)'}") from None
        except OSError as exc:
            os.close(fd)
            raise StartError(f"lock_file {self.path} can't be locked: {exc.strerror}") from exc
        self._fd = fd

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
