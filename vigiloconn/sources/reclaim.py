"""Giving back to the disk what was taken from a followed file: in place, or with the file. Knows no lines."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable

from vigiloconn.sources import rotated
from vigiloconn.sources.identity import FileId, Mark, has_before
from vigiloconn.sources.rotated import Found

#: What stays before the position: it tells which file it is.
_KEPT_BYTES = 64 << 10
#: Given back at a time, at least and at most: a call for each batch would cost more than it gives, and one for a whole
#: day's file would hold everybody up.
_STEP_BYTES = 1 << 20
_MOST_BYTES = 64 << 20
#: linux/falloc.h
_KEEP_SIZE, _PUNCH_HOLE = 1, 2

_libc = ctypes.CDLL(None, use_errno=True)
_OFF = ctypes.c_int64


class CantReclaim(Exception):
    """Raised when nothing can be given back here; what was taken stays in the file."""


class Puncher:
    """Gives back the beginning of one file while somebody appends to it. Its size stays, its blocks go."""

    def __init__(self) -> None:
        self._id = FileId(0, 0)
        self._upto = 0

    def is_due(self, safe: Mark) -> bool:
        """Answer whether it is time to give back what is before a mark, which is safe."""
        if safe.id != self._id or safe.position < self._upto:
            # Another file, or one that was emptied.
            self._id, self._upto = safe.id, 0
        return safe.position - _KEPT_BYTES - self._upto >= _STEP_BYTES

    def punch(self, path: str, safe: Mark) -> int:
        """Give back whole blocks; return how many bytes that were, 0 where it is another file by now. Raises
        `CantReclaim`."""
        try:
            # The kernel wants it open for writing, though nothing is written.
            fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return 0  # renamed
        except OSError as exc:
            raise CantReclaim(f"{path}: can't be opened for writing: {exc.strerror}") from exc
        try:
            status = os.fstat(fd)
            # The same one may have been emptied, and what it has now be unread.
            if FileId(status.st_dev, status.st_ino) != safe.id or not has_before(fd, safe):
                return 0
            end = min(safe.position - _KEPT_BYTES, self._upto + _MOST_BYTES)
            end -= end % status.st_blksize
            _punch(fd, self._upto, end - self._upto, path)
        except OSError as exc:
            raise CantReclaim(f"{path}: what was taken can't be read again: {exc.strerror}") from exc
        finally:
            os.close(fd)
        given, self._upto = end - self._upto, end
        return given


def _punch(fd: int, start: int, length: int, path: str) -> None:
    fallocate: Callable[..., int] = _libc.fallocate
    if length > 0 and fallocate(fd, _KEEP_SIZE | _PUNCH_HOLE, _OFF(start), _OFF(length)):
        raise CantReclaim(f"{path}: blocks can't be given back in place: {os.strerror(ctypes.get_errno())}")


def remove(path: str, done: Mark) -> bool:
    """Delete the renamed file of `path` that was read up to a mark, if it is still there. False: to be tried again.
    Raises `CantReclaim`."""
    try:
        for each in rotated.renamed(path):
            if each.id == done.id and _is_read(each, done):
                _delete(each, f"{path}.taken-{done.inode}")
                break
    except FileNotFoundError:
        return False  # renamed again in this moment
    except OSError as exc:
        raise CantReclaim(f"{exc.filename or path}: can't be removed: {exc.strerror}") from exc
    return True


def _is_read(found: Found, done: Mark) -> bool:
    """Answer whether it is the very file: another one, unread, may have got its number since."""
    fd = os.open(found.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        return has_before(fd, done) and (done.position > 0 or not found.size_bytes)
    finally:
        os.close(fd)


def _delete(found: Found, aside: str) -> None:
    """Delete a file that may be renamed again at any moment: it gets a name first that nobody else uses."""
    os.rename(found.path, aside)
    now = rotated.look_at(aside)
    if now is not None and now.id != found.id:
        # Another one has come to that name in this moment. Not renamed: that would overwrite what is there.
        os.link(aside, found.path)
    os.unlink(aside)
