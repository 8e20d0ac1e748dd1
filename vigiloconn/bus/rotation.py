"""Which broker next, and after how long. Pure: decides, and connects nothing."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from vigiloconn.ipv6 import Endpoint
from vigiloconn.kit.backoff import backoff_delays

#: Failures in a row after which the next broker is tried.
FAILURES_BEFORE_NEXT = 3
_FIRST_DELAY_S = 0.25


class Rotation:
    """A list of brokers in order of preference, with the back-off between attempts.

    `failed()` gives the delay before the next attempt; `note_success()` says that a broker has done its work
    (confirmed or delivered), which alone makes the delays short again.
    """

    def __init__(
        self, endpoints: Sequence[Endpoint], max_delay_s: float, jitter: Callable[[], float] = random.random
    ) -> None:
        if not endpoints:
            raise ValueError("expected at least one broker")
        self._endpoints = tuple(endpoints)
        self._max_delay_s = max_delay_s
        self._jitter = jitter
        self._index = 0
        self._failures = 0
        self._delays = backoff_delays(_FIRST_DELAY_S, max_delay_s, jitter)
        self._is_proved = True

    @property
    def current(self) -> Endpoint:
        """The broker to try now."""
        return self._endpoints[self._index]

    @property
    def preferred(self) -> Endpoint:
        """The first of the list."""
        return self._endpoints[0]

    @property
    def is_preferred(self) -> bool:
        """True while the current broker is the first of the list."""
        return self._index == 0

    @property
    def has_others(self) -> bool:
        """True where there is another broker to go to."""
        return len(self._endpoints) > 1

    def failed(self, *, leave: bool = False, slow: bool = False) -> float:
        """Note a failure of the current broker and return the delay in seconds before the next attempt.

        `leave` goes to the next broker, the first time at once (it shuts down, or is blocked); `slow` takes the longest
        delay (the broker refuses the login: haste does not help).
        """
        self._failures += 1
        # Brokers that all send us away at once would be asked in a circle, without a pause.
        is_first, self._is_proved = self._is_proved, False
        went_on = False
        if self.has_others and (leave or self._failures >= FAILURES_BEFORE_NEXT):
            self._index = (self._index + 1) % len(self._endpoints)
            self._failures = 0
            went_on = True
        delay_s = next(self._delays)
        if leave and went_on and is_first:
            return 0.0
        return self._max_delay_s if slow else delay_s

    def note_success(self) -> None:
        """The current broker has confirmed or delivered something."""
        if not self._is_proved:
            self._is_proved = True
            self._failures = 0
            self._delays = backoff_delays(_FIRST_DELAY_S, self._max_delay_s, self._jitter)

    def prefer(self) -> None:
        """Go back to the first broker of the list."""
        self._index = 0
        self._failures = 0
