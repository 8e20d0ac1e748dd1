"""Turns on the one loop. Knows time, nothing of the work that stands back."""

from __future__ import annotations

import time
from collections.abc import Callable

import gevent

#: How long a greenlet that always has more to do may keep the loop to itself.
_TURN_S = 0.002
#: How long it then stands back. It must be positive: after `sleep(0)` timers may starve.
_PAUSE_S = 0.0001


class Turns:
    """Gives the others a turn while there is always more to do: a flood must starve no writer, no timer and no signal.

    `clock` gives monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began_s = 0.0

    def waited_since(self, asked_s: float) -> None:
        """Something was asked for at `asked_s` and is there now: if that took a while, the others had a turn."""
        now_s = self._clock()
        if now_s - asked_s > _PAUSE_S:
            self._began_s = now_s

    def stand_back(self) -> None:
        """Let the others run if this one has kept the loop for long enough."""
        if self._clock() - self._began_s > _TURN_S:
            gevent.sleep(_PAUSE_S)
            self._began_s = self._clock()
