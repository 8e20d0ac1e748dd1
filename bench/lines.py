"""The lines that are written, and the marker in each by which it is known again. Knows no sockets and no bus.

A marker is `@WRITER:LANE:NUMBER:NANOSECONDS@`: numbers count from 0 for each writer and lane (the exchange it goes to),
and the time is the monotonic clock just before the write, 0 where nobody asks for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

MARKER = re.compile(rb"@(\d{3}):(\d{3}):(\d{8}):(\d{16})@")
#: A writer of its own, whose lines warm everything up and are not counted.
WARM_WRITER = 999


@dataclass(frozen=True)
class Shape:
    """How lines look. `line_bytes` with the newline; `lanes` exchanges and `keys` routing keys in turn."""

    kind: str = "event"
    line_bytes: int = 120
    lanes: int = 1
    keys: int = 1

    def maker(self) -> Callable[[int, int, int], bytes]:
        """Return a function of writer, running number and nanoseconds that gives a line with its newline."""
        if self.kind == "perf":
            return self._perf
        if self.lanes == len(_FOUR):
            return self._four
        return self._event

    def _place(self, number: int) -> tuple[int, int]:
        return number % self.lanes, number // self.lanes

    def _perf(self, writer: int, number: int, nanoseconds: int) -> bytes:
        return b"perf|1165939739|srv1.example.com|@%03d:000:%08d:%016d@|12.5\n" % (writer, number, nanoseconds)

    def _event(self, writer: int, number: int, nanoseconds: int) -> bytes:
        lane, count = self._place(number)
        key = b"|key.%d" % (number % self.keys) if self.keys > 1 else b""
        head = b"event|1165939739|srv1|Load|OK|@%03d:%03d:%08d:%016d@" % (writer, lane, count, nanoseconds)
        return head + b"x" * (self.line_bytes - len(head) - len(key) - 1) + key + b"\n"

    def _four(self, writer: int, number: int, nanoseconds: int) -> bytes:
        lane, count = self._place(number)
        return _FOUR[lane] % (b"@%03d:%03d:%08d:%016d@" % (writer, lane, count, nanoseconds)) + b"\n"


STANDARD = Shape()
_FOUR = (
    b"event|1165939739|srv1|Load|OK|%s" + b"x" * 55,
    b"perf|1165939739|srv1.example.com|%s" + b"x" * 50 + b"|12",
    b"state|1165939739|srv1|10.0.0.1|Load|0|HARD|1|%s" + b"x" * 38,
    b"nagios|1165939739|ADD_SVC_COMMENT|srv1;Load;1;%s" + b"x" * 38,
)
KINDS = ("event", "perf", "state", "nagios")


def markers(body: bytes) -> list[tuple[int, int, int, int]]:
    """Return (writer, lane, number, nanoseconds) of each line that a message carries."""
    return [(int(a), int(b), int(c), int(d)) for a, b, c, d in MARKER.findall(body)]
