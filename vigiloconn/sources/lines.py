"""A byte stream taken apart into lines and what is between them. Pure."""

from __future__ import annotations

from typing import NamedTuple

from vigiloconn.serialize import MAX_LINE_BYTES, parse_sync

_SHOWN_BYTES = 200


class Sync(NamedTuple):
    """A writer's question: is all that I wrote before this safe?"""

    token: str


class TooLong(NamedTuple):
    """A line over the limit, of which only the start is left."""

    start: bytes


Part = list[bytes] | Sync | TooLong
"""What a stream holds, in its order: a run of lines without their newlines, or one of the special ones."""


class LineSplitter:
    """Gathers the chunks of one stream into lines. Holds at most one line's worth of bytes."""

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._max_line_bytes = max_line_bytes
        self._rest = b""
        self._skipping = False

    @property
    def unfinished_bytes(self) -> int:
        """The length of the line whose newline has not come yet."""
        return len(self._rest)

    def feed(self, data: bytes) -> list[Part]:
        """Return what `data` completes. Only a newline ends a line."""
        if self._skipping:
            _, newline, data = data.partition(b"\n")
            if not newline:
                return []
            self._skipping = False
        end = data.rfind(b"\n")
        if end < 0:
            self._rest += data
            parts: list[Part] = []
        else:
            parts = self._parts(self._rest + data[:end])
            self._rest = data[end + 1:]
        if len(self._rest) > self._max_line_bytes:
            parts.append(TooLong(self._rest[:_SHOWN_BYTES]))
            self._rest = b""
            self._skipping = True
        return parts

    def finish(self) -> list[Part]:
        """Return what is left at the end of the stream: its last line may lack the newline."""
        rest, self._rest = self._rest, b""
        return self._parts(rest) if rest else []

    def _parts(self, chunk: bytes) -> list[Part]:
        lines = chunk.split(b"\n")
        # Nearly every chunk: nothing special in it, and found out without looking at each line.
        if b"sync|" not in chunk and (
            len(chunk) <= self._max_line_bytes or max(map(len, lines)) <= self._max_line_bytes
        ):
            return [lines]
        parts: list[Part] = []
        run: list[bytes] = []
        for line in lines:
            special: Sync | TooLong | None = None
            if len(line) > self._max_line_bytes:
                special = TooLong(line[:_SHOWN_BYTES])
            elif (token := parse_sync(line)) is not None:
                special = Sync(token)
            if special is None:
                run.append(line)
                continue
            if run:
                parts.append(run)
                run = []
            parts.append(special)
        if run:
            parts.append(run)
        return parts
