"""A log call that a flood of bad input can't turn into a flood of log lines."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable


class RateLimitedLog:
    """Logs the first call, then at most one per `period_s`, with the number of those it kept back.

    What is kept back after the last logged line shows only with the next one: count elsewhere what must be exact.
    """

    def __init__(
        self,
        log: logging.Logger,
        level: int = logging.WARNING,
        *,
        period_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._level = level
        self._period_s = period_s
        self._clock = clock
        self._next_s: float | None = None
        self._suppressed = 0

    def __call__(self, text: str, *values: object) -> None:
        """Log `text % values`, or count the call."""
        now_s = self._clock()
        if self._next_s is not None and now_s < self._next_s:
            self._suppressed += 1
            return
        self._next_s = now_s + self._period_s
        if self._suppressed:
            text += " (and %d more since the last such line)"
            values = (*values, self._suppressed)
            self._suppressed = 0
        self._log.log(self._level, text, *values)
