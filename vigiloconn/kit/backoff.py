"""Delays that grow between attempts. Knows arithmetic, nothing of what is tried."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator


def backoff_delays(
    first_s: float, max_s: float, jitter: Callable[[], float] = random.random
) -> Iterator[float]:
    """Yield delays that double from `first_s` up to `max_s`, each shortened by up to a quarter at random.

    The jitter keeps many hosts that lost the same broker from coming back in the same instant.
    """
    delay_s = first_s
    while True:
        yield min(delay_s, max_s) * (1.0 - 0.25 * jitter())
        delay_s = min(delay_s * 2, max_s)
