"""How fast things go: rates of counters over the last seconds and minutes. Pure; the clock is handed in."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

SHORT_S, LONG_S = 10.0, 300.0


class Meter:
    """Remembers what counters stood at, once a second or so, for five minutes."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, Mapping[str, float]]] = deque()

    def take(self, now_s: float, counters: Mapping[str, float]) -> None:
        """Note what the counters stand at."""
        self._samples.append((now_s, counters))
        # The one before the period's beginning is kept: the period is measured from there.
        while len(self._samples) > 2 and self._samples[1][0] <= now_s - LONG_S:
            self._samples.popleft()

    def rate(self, name: str, period_s: float) -> float:
        """Return a counter's growth per second over the last `period_s`, or over what is known of it."""
        if len(self._samples) < 2:
            return 0.0
        last_s, last = self._samples[-1]
        # From the newest backwards: the short period is asked for most often.
        earlier = (sample for sample in reversed(self._samples) if last_s - sample[0] >= period_s)
        at_s, at = next(earlier, self._samples[0])
        # A part that was begun anew counts from nothing again.
        grown = max(0.0, last.get(name, 0.0) - at.get(name, 0.0))
        return grown / (last_s - at_s) if last_s > at_s else 0.0


def drain_s(waiting: float, in_per_s: float, out_per_s: float) -> float | None:
    """Return in how many seconds a backlog is gone at these rates, None where it is not getting smaller."""
    if waiting <= 0:
        return 0.0
    return waiting / (out_per_s - in_per_s) if out_per_s > in_per_s else None
