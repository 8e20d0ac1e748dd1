"""Giving back to the disk what was taken from a followed file: in place, or with the file. Knows no lines."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable

from vigiloconn.sources import rotated
from vigiloconn.sources.identity import FileId, Mark, has_before

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
        finally:
            os.close(fd)
        given, self._upto = end - self._upto, end
        return given


def _punch(fd: int, start: int, length: int, path: str) -> None:
    fallocate: Callable[..., int] = _libc.fallocate
    if length > 0 and fallocate(fd, _KEEP_SIZE | _PUNCH_HOLE, _OFF(start), _OFF(length)):
        raise CantReclaim(f"{path}: blocks can't be given back in place: {os.strerror(ctypes.get_errno())}")


def remove(path: str, identity: FileId) -> bool:
    """Delete the renamed file of `path` with this number; False when there is none. Raises `CantReclaim`.

    It may be renamed again at any moment, so it gets a name first that nobody else uses.
    """
    aside = f"{path}.taken-{identity.inode}"
    try:
        for each in rotated.renamed(path):
            if each.id == identity:
                os.rename(each.path, aside)
                found = rotated.look_at(aside)
                if found is not None and found.id == identity:
                    os.unlink(aside)
                    return True
                # Another one has come to that name in this moment. Not renamed: that would overwrite what is there.
                os.link(aside, each.path)
                os.unlink(aside)
    except OSError as exc:
        raise CantReclaim(f"{exc.filename}: can't be removed: {exc.strerror}") from exc
    return False
