"""Giving back to the disk what was taken from a followed file: in place, or with the file. Knows no lines."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable

from vigiloconn.sources import rotated
from vigiloconn.sources.identity import FileId

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

    def __init__(self, identity: FileId, start: int) -> None:
        self.id = identity
        self.upto = start
        """All before it is given back, or was never there."""

    def due(self, position: int) -> int:
        """Return up to where it is time to give back when all before `position` is safe, 0 when it is not."""
        end = min(position - _KEPT_BYTES, self.upto + _MOST_BYTES)
        return end if end - self.upto >= _STEP_BYTES else 0

    def punch(self, path: str, end: int) -> int:
        """Give back whole blocks up to `end`; return how many bytes that were; 0 where `path` is another file now.
        Raises `CantReclaim`."""
        try:
            # The kernel wants it open for writing, though nothing is written.
            fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return 0  # renamed
        except OSError as exc:
            raise CantReclaim(f"{path}: can't be opened for writing: {exc.strerror}") from exc
        try:
            status = os.fstat(fd)
            if FileId(status.st_dev, status.st_ino) != self.id:
                return 0
            end -= end % status.st_blksize
            _punch(fd, self.upto, end - self.upto, path)
        finally:
            os.close(fd)
        given, self.upto = end - self.upto, end
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
