"""Which file it was, and how far it was read. Knows inodes and fingerprints, not what a file holds.

An inode's number alone tells nothing: a deleted file's comes back at once. So a mark has a fingerprint of the bytes
before its position too, and a file is the one that was read only if it still has them there.
"""

from __future__ import annotations

import errno
import os
from hashlib import blake2b
from typing import NamedTuple

import msgspec

#: How many bytes before the position tell that a file is the one that was read.
TAIL_BYTES = 4096


class FileId(NamedTuple):
    """What a file is known by while it is open."""

    device: int
    inode: int


class Mark(msgspec.Struct, frozen=True):
    """How far one file was read: what is kept in the journal, as JSON."""

    device: int
    inode: int
    position: int
    """Everything before it was taken."""
    print: str
    """The fingerprint of the bytes before it."""
    began_ns: int
    """When the file had last been written to as it was begun: files that were written to later come after it."""
    boot_id: str = ""

    @property
    def is_waiting(self) -> bool:
        """Answer whether it is of no file yet: the first one was waited for."""
        return not self.inode

    @property
    def id(self) -> FileId:
        return FileId(self.device, self.inode)

    def text(self) -> str:
        """Return the mark as it is kept."""
        return msgspec.json.encode(self).decode()


def parse_mark(text: str | None) -> Mark | None:
    """Return the mark that a text holds, None where it holds none."""
    try:
        return msgspec.json.decode(text, type=Mark) if text else None
    except msgspec.MsgspecError:
        return None


def fingerprint(tail: bytes) -> str:
    """Return what the bytes before a position are known by."""
    return blake2b(tail, digest_size=16).hexdigest()


def tail_of(fd: int, position: int) -> bytes:
    """Return the bytes before a position that tell which file it is; fewer where the file is shorter."""
    length = min(position, TAIL_BYTES)
    return os.pread(fd, length, position - length)


def has_before(fd: int, mark: Mark) -> bool:
    """Answer whether an open file has before the mark's position what was read there."""
    tail = tail_of(fd, mark.position)
    return len(tail) == min(mark.position, TAIL_BYTES) and fingerprint(tail) == mark.print


def first_data(fd: int) -> int:
    """Return where a file's data begins: behind what was given back to the disk."""
    try:
        return os.lseek(fd, 0, os.SEEK_DATA)
    except OSError as exc:
        # ENXIO: nothing but a hole; else the filesystem knows of no holes.
        return os.fstat(fd).st_size if exc.errno == errno.ENXIO else 0
