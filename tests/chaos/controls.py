"""What the harness and the connector that it runs tell each other: some numbers in a mapped file. Knows no faults.

A mapped file, because a number in it outlives a `kill -9` of the side that wrote it and costs no system call to read.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

_SIZE = 64
_NOTHING = -1


class _Number:
    """A number at its place in the file."""

    def __init__(self, offset: int, form: str) -> None:
        self._offset = offset
        self._form = form

    def __get__(self, controls: Controls, owner: object = None) -> float:
        (value,) = struct.unpack_from(self._form, controls.memory, self._offset)
        return value  # type: ignore[no-any-return]

    def __set__(self, controls: Controls, value: float) -> None:
        struct.pack_into(self._form, controls.memory, self._offset, value)


class Controls:
    """Set by the harness: `clock_offset_s`, what the connector's wall clock is ahead; `commit_stall_s`, how long each
    commit takes in addition; `point` and `passages`, where it dies and how many passages before that it survives.
    Set by the connector: `stall_s`, the longest time for which its loop did nothing; `deaths`."""

    clock_offset_s = _Number(0, "d")
    commit_stall_s = _Number(8, "d")
    point = _Number(16, "q")
    passages = _Number(24, "q")
    stall_s = _Number(32, "d")
    deaths = _Number(40, "q")

    def __init__(self, path: Path) -> None:
        """Map `path`, which is made when it is missing."""
        if not path.exists():
            path.write_bytes(bytes(_SIZE))
        with path.open("r+b") as file:
            self.memory = mmap.mmap(file.fileno(), _SIZE)

    def arm(self, point: int, passages: int) -> None:
        """Let the connector die at its passage number `passages` of a point, counted from now."""
        self.disarm()
        self.passages = passages
        self.point = point

    def disarm(self) -> None:
        """Let the connector live."""
        self.point = _NOTHING

    def is_last_passage(self, point: int) -> bool:
        """In the connector: count a passage, and answer whether it is the one to die at."""
        if self.point != point:
            return False
        self.passages -= 1
        if self.passages > 0:
            return False
        self.disarm()
        self.deaths += 1
        return True
