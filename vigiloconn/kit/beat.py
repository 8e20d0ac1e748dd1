"""The beat of all periodic work: an idle process wakes up once for all of it. Pure: the clock is handed in."""

from __future__ import annotations

import math

#: A beat that is nearer than this share of the period is left out: who has just looked need not look again.
_LEFT_OUT = 0.1


def seconds_to_beat(now_s: float, period_s: float) -> float:
    """Return how long to wait until the next beat of this period (at least a tenth of it, at most a tenth more).

    Beats are multiples of the period on the clock itself, of whole seconds where the period has any. So those who wait
    for the same beat, or for each tenth one, wake up together and need not know of one another.
    """
    if period_s >= 1.0:
        period_s = math.floor(period_s)
    left_s = period_s - now_s % period_s
    return left_s if left_s >= _LEFT_OUT * period_s else left_s + period_s
