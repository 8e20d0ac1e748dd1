"""Waiting for conditions. Knows clocks and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(condition: Callable[[], T], timeout_s: float, what: str, interval_s: float = 0.02) -> T:
    """Return the first true value of `condition()`. It is asked at least once, and once more at the deadline.

    Raises `AssertionError` that names `what` and the last value when `timeout_s` have passed.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        late = time.monotonic() >= deadline
        value = condition()
        if value:
            return value
        if late:
            raise AssertionError(f"{what}: not within {timeout_s:g} s, last value {value!r}")
        time.sleep(min(interval_s, max(0.0, deadline - time.monotonic())))
