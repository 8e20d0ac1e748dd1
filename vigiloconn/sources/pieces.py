"""An open file taken apart into whole lines, a piece at a time. Knows one file, not which one comes next."""

from __future__ import annotations

import os
from typing import NamedTuple

from vigiloconn.sources.identity import TAIL_BYTES, tail_of

#: What is read at a time. More than the longest line, so that one which does not end in it is too long.
_PIECE_BYTES = 128 << 10
#: What is read at a time to find the end of a line that is skipped.
_SKIP_BYTES = 1 << 20
_SHOWN_BYTES = 200


class FileChanged(Exception):
    """Raised when the file no longer has what was read: it was truncated, or written over."""


class Piece(NamedTuple):
    """Whole lines, without their newlines."""

    lines: list[bytes]
    too_long: list[bytes]
    """How those lines begin that were skipped."""
    position: int
    """Where the next piece begins."""
    tail: bytes
    """The last bytes before it."""


class FileReader:
    """Reads an open file from a position on. What it returns counts as read once `advance` is told so."""

    def __init__(self, fd: int, position: int, max_line_bytes: int) -> None:
        self.fd = fd
        self.position = position
        self.tail = tail_of(fd, position)
        self._max_line_bytes = max_line_bytes
        self._piece_bytes = max(_PIECE_BYTES, 2 * max_line_bytes)
        self._skipped_upto = 0

    def read(self) -> Piece | None:
        """Return what has come in whole lines, None when nothing has; a piece without lines and with the same position
        asks to be called again. Raises `FileChanged`, `OSError`."""
        start = len(self.tail)
        data = os.pread(self.fd, start + self._piece_bytes, self.position - start)
        if not data.startswith(self.tail):
            raise FileChanged
        end = data.rfind(b"\n") + 1
        if end <= start:
            return self._skip(data[start:]) if len(data) - start > self._max_line_bytes else None
        return self._piece(data, start, end)

    def advance(self, piece: Piece) -> None:
        """What `read` returned is on its way."""
        self.position, self.tail = piece.position, piece.tail
        self._skipped_upto = 0

    def unread_bytes(self) -> int:
        """Return how many bytes there are behind the position."""
        return max(0, os.fstat(self.fd).st_size - self.position)

    def close(self) -> None:
        os.close(self.fd)

    def _piece(self, data: bytes, start: int, end: int) -> Piece:
        lines = data[start : end - 1].split(b"\n")
        too_long: list[bytes] = []
        longest = self._max_line_bytes
        if end - start > longest:
            too_long = [line[:_SHOWN_BYTES] for line in lines if len(line) > longest]
            lines = [line for line in lines if len(line) <= longest] if too_long else lines
        if b"\0" in data:
            # What a power cut leaves of a line, or a writer that did not notice that its file was emptied.
            lines = [line.lstrip(b"\0") for line in lines]
        return Piece(lines, too_long, self.position + end - start, data[max(0, end - TAIL_BYTES) : end])

    def _skip(self, data: bytes) -> Piece | None:
        """Look for the end of a line that is too long; a part of it at a time."""
        upto = max(self._skipped_upto, self.position + len(data))
        more = os.pread(self.fd, _SKIP_BYTES, upto)
        end = more.find(b"\n") + 1
        if end:
            position = upto + end
            return Piece([], [data[:_SHOWN_BYTES]], position, tail_of(self.fd, position))
        self._skipped_upto = upto + len(more)
        return Piece([], [], self.position, self.tail) if more else None
