"""Frames that come in: bytes cut at their ends, none larger than agreed. Knows AMQP's layout, not what a frame says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from struct import Struct

from vigiloconn.errors import LeaveBroker
from vigiloconn.kit.escape import printable

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
_head = Struct(">BHI").unpack_from
_KINDS = (METHOD, HEADER, BODY, HEARTBEAT)
_NAMES = {METHOD: "method", HEADER: "header", BODY: "body", HEARTBEAT: "heartbeat"}
#: Octets before a frame's payload: type, channel, size; and the one behind it.
_HEAD = 7
_FRAME_OVERHEAD = _HEAD + 1
_FRAME_END = 0xCE
#: The largest frame that we take, whatever a broker offers, and the largest before anything was agreed.
FRAME_MAX = 131072
#: Less than this no peer may ask for: AMQP 0-9-1, constant frame-min-size.
FRAME_MIN = 4096


#: Takes what it knows as a whole from a buffer: (buffer, from, to, largest frame) -> where it has stopped.
TakeWhole = Callable[[bytes, int, int, int], int]


class Malformed(LeaveBroker):
    """Raised when what came is not what AMQP allows here: nothing behind it can be read."""

    def __init__(self, what: str) -> None:
        super().__init__(f"speaks no AMQP that was agreed: {printable(what)}")


class FrameSplitter:
    """Calls `on_frame(kind, channel, buffer, start, stop)` for each frame; its payload is `buffer[start:stop]`.

    What begins with a method on a channel of `whole` is offered there first, to be taken without a call a frame.

    An unfinished frame is kept in the pieces in which it came and joined once, so a slow one costs no more than a quick
    one. Raises `Malformed`. Frames: AMQP 0-9-1 specification, section 2.3.5.
    """

    def __init__(
        self, on_frame: Callable[[int, int, bytes, int, int], None], whole: Mapping[int, TakeWhole] | None = None
    ) -> None:
        self.frame_max = FRAME_MAX
        """The largest frame, overhead included. May be lowered while a frame is handled."""
        self._on_frame = on_frame
        self._whole = {} if whole is None else whole
        self._pieces: list[bytes] = []
        self._kept = 0
        self._wanted = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes and hand on all frames that are complete."""
        if self._pieces:
            self._pieces.append(data)
            self._kept += len(data)
            if self._kept < self._wanted:
                return
            data = b"".join(self._pieces)
        rest, self._wanted = self._split(data)
        self._pieces = [data[rest:]] if rest < len(data) else []
        self._kept = len(data) - rest

    def release(self) -> None:
        """Take no more, and hold on to nobody."""
        self._pieces = []
        self._on_frame = _ignore

    def _split(self, buffer: bytes) -> tuple[int, int]:
        """Return where the unfinished frame begins, and how many bytes it needs before it is worth a look."""
        position, end = 0, len(buffer)
        while end - position >= _HEAD:
            kind, channel, size = _head(buffer, position)
            if kind == METHOD and channel in self._whole:
                taken = self._whole[channel](buffer, position, end, self.frame_max)
                if taken > position:
                    position = taken
                    continue
            if kind not in _KINDS:
                raise Malformed(f"a frame of type {kind}, it begins with {buffer[position : position + 20]!r}")
            # Before anything of it is kept.
            if size > self.frame_max - _FRAME_OVERHEAD:
                raise Malformed(f"a {_NAMES[kind]} frame of {size} bytes, frames of {self.frame_max} were agreed")
            start = position + _HEAD
            stop = start + size
            if stop >= end:
                return position, size + _FRAME_OVERHEAD
            if buffer[stop] != _FRAME_END:
                raise Malformed(f"a {_NAMES[kind]} frame of {size} bytes without its end")
            self._on_frame(kind, channel, buffer, start, stop)
            position = stop + 1
        return position, _HEAD


def _ignore(kind: int, channel: int, buffer: bytes, start: int, stop: int) -> None:
    """Nobody listens any more."""
