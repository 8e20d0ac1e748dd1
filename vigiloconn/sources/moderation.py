"""When to read writers again: those that write line by line are read every few milliseconds, as a network card raises
an interrupt for many packets. Pure: the clock is handed in."""

from __future__ import annotations

import math

#: A read of this size has gathered enough by itself.
_ENOUGH_BYTES = 16384
#: Quick small reads in a row, by whomever, that make it a stream of single lines.
_STREAK = 8
#: A read that comes this much later than it could have ends the streak.
_SLACK = 1.5


class Moderation:
    """Tells how long lines may gather in the kernel; `pause_s` is the longest, 0 for never."""

    def __init__(self, pause_s: float) -> None:
        self.pause_s = pause_s
        self._streak = 0
        self._read_s = -math.inf

    def pause_after(self, now_s: float, size_bytes: int) -> float:
        """Return how long to wait before the reads that follow one, or a few at once, of this size."""
        longest_s = self.pause_s * (_SLACK if self._streak >= _STREAK else 1.0)
        is_quick = now_s - self._read_s < longest_s and size_bytes < _ENOUGH_BYTES
        self._read_s = now_s
        self._streak = self._streak + 1 if is_quick else 0
        return self.pause_s if self._streak >= _STREAK else 0.0
