"""Which broker next, and after how long. Pure: decides, and connects nothing."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

from vigiloconn.kit.backoff import backoff_delays
from vigiloconn.kit.endpoint import Endpoint

#: Failures in a row after which the next broker is tried.
FAILURES_BEFORE_NEXT = 3
_FIRST_DELAY_S = 0.25


class Rotation:
    """A list of brokers in order of preference, each with a back-off that is its own.

    `failed()` gives the delay before the next attempt. Going to a broker that has not failed costs none, so only when
    all have failed there is a pause. `note_success()` says that the current one has done its work, which alone makes
    its delays short again. `clock` gives monotonic seconds, `jitter` a number from 0 to 1.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        max_delay_s: float,
        jitter: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not endpoints:
            raise ValueError("expected at least one broker")
        self._max_delay_s = max_delay_s
        self._clock = clock
        self._brokers = [_Broker(endpoint, max_delay_s, jitter) for endpoint in endpoints]
        self._index = 0

    @property
    def current(self) -> Endpoint:
        """The broker to try now."""
        return self._brokers[self._index].endpoint

    @property
    def preferred(self) -> Endpoint:
        """The first of the list."""
        return self._brokers[0].endpoint

    @property
    def is_preferred(self) -> bool:
        """True while the current broker is the first of the list."""
        return self._index == 0

    @property
    def has_others(self) -> bool:
        """True where there is another broker to go to."""
        return len(self._brokers) > 1

    def failed(self, *, leave: bool = False, slow: bool = False) -> float:
        """Note a failure of the current broker and return the delay in seconds before the next attempt.

        `leave`: another one is tried next (this one shuts down, is blocked, does not answer or confirms nothing).
        `slow`: likewise, and this one not before the longest delay (it refuses the login: haste does not help).
        Else it takes three failures in a row.
        """
        now_s = self._clock()
        current = self._brokers[self._index]
        current.note_failure(now_s, self._max_delay_s if slow else 0.0)
        if leave or slow or current.failures >= FAILURES_BEFORE_NEXT:
            self._go_on(now_s, may_stay=not leave)
        return max(0.0, self._brokers[self._index].due_s - now_s)

    def note_success(self) -> None:
        """The current broker has confirmed or delivered something, or is idle and has lived for long enough."""
        self._brokers[self._index].forget_failures()

    def prefer(self) -> None:
        """Go back to the first broker of the list."""
        self._index = 0
        self._brokers[0].forget_failures()

    def _go_on(self, now_s: float, may_stay: bool) -> None:
        """Go to the broker that may be tried first, in the list's order behind this one where several may."""
        count = len(self._brokers)
        behind = [(self._index + step) % count for step in range(1, count)]
        candidates = [*behind, self._index] if may_stay or not behind else behind
        self._index = min(candidates, key=lambda index: max(now_s, self._brokers[index].due_s))


class _Broker:
    """What is known of one broker: its failures since it last did its work, and when it may be tried again."""

    def __init__(self, endpoint: Endpoint, max_delay_s: float, jitter: Callable[[], float]) -> None:
        self.endpoint = endpoint
        self.failures = 0
        self.due_s = 0.0
        self._max_delay_s = max_delay_s
        self._jitter = jitter
        self._delays = backoff_delays(_FIRST_DELAY_S, max_delay_s, jitter)

    def note_failure(self, now_s: float, least_delay_s: float) -> None:
        self.failures += 1
        self.due_s = now_s + max(least_delay_s, next(self._delays))

    def forget_failures(self) -> None:
        # Asked at each confirm: only after a failure is there something to do.
        if self.failures:
            self.failures = 0
            self.due_s = 0.0
            self._delays = backoff_delays(_FIRST_DELAY_S, self._max_delay_s, self._jitter)
