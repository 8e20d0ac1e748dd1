"""A file's renamed predecessors: which there are, and in which order they were written. Knows names and times.

The order is that of the last writing, which a renaming leaves as it is. Files are given back in place only while they
bear their own name, since that counts as writing.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection
from typing import NamedTuple

from vigiloconn.sources.identity import FileId

_COMPRESSED = (".gz", ".xz", ".bz2", ".zst", ".lz4", ".lzma", ".z", ".zip")
_NUMBER = re.compile(r"\.([0-9]{1,4})\Z")


class Found(NamedTuple):
    """A file that was found beside, or at, the path that is followed."""

    path: str
    id: FileId
    size_bytes: int
    written_ns: int

    @property
    def is_compressed(self) -> bool:
        """Answer whether its name says that its lines can't be read."""
        return self.path.lower().endswith(_COMPRESSED)


def look_at(path: str) -> Found | None:
    """Return what is at `path`, whatever it is; None when there is nothing. Raises `OSError`."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return Found(path, FileId(found.st_dev, found.st_ino), found.st_size, found.st_mtime_ns)


def renamed(path: str, others: Collection[str] = ()) -> list[Found]:
    """Return the regular files whose names begin with that of `path` and a sign (`.1`, `-20260101`), those written to
    first in front. `others` are followed themselves: theirs are left out. Raises `OSError`."""
    directory, name = os.path.split(path)
    longer = [os.path.basename(each) for each in others if each.startswith(path) and each != path]
    found = []
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name == name or not _is_of(name, entry.name) or any(_is_of(each, entry.name) for each in longer):
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue  # renamed again meanwhile: the next look finds it
            if stat.S_ISREG(status.st_mode):
                identity = FileId(status.st_dev, status.st_ino)
                found.append(Found(entry.path, identity, status.st_size, status.st_mtime_ns))
    return sorted(found, key=_age)


def after(found: list[Found], identity: FileId, since_ns: int) -> list[Found]:
    """Return those that come after one of them; where that is gone, those that were written to since a time."""
    for at, each in enumerate(found):
        if each.id == identity:
            return found[at + 1 :]
    return since(found, since_ns)


def since(found: list[Found], since_ns: int) -> list[Found]:
    """Return those that were written to since a time."""
    return [each for each in found if each.written_ns >= since_ns]


def _is_of(name: str, found: str) -> bool:
    """Answer whether a file is the one of this name or, by its own, a renamed one of it."""
    return found.startswith(name) and not found[len(name) : len(name) + 1].isalnum()


def _age(found: Found) -> tuple[int, int, str]:
    # In one tick of the clock, `.2` was written before `.1`.
    number = _NUMBER.search(found.path)
    return found.written_ns, -int(number[1]) if number else 0, found.path
