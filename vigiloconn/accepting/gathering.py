"""When the next commit is due: at once after a pause, and else so late that others can share it. Pure: the clock is
handed in."""

from __future__ import annotations

import math

#: So many messages share a commit well enough; more would only make the first of them wait.
ENOUGH_MESSAGES = 500


class Gathering:
    """Lets `delay_s` pass from the beginning of one commit to the next, unless there is a reason not to wait."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._began_s = -math.inf

    def began(self, now_s: float) -> None:
        """New messages are being committed."""
        self._began_s = now_s

    def seconds_to_commit(self, now_s: float, messages: int, *, is_urgent: bool) -> float:
        """Return for how long the messages that wait may wait for company, 0 when it is time.

        `is_urgent`: somebody waits for their acceptance, or for room.
        """
        if is_urgent or messages >= ENOUGH_MESSAGES:
            return 0.0
        return max(0.0, self._began_s + self._delay_s - now_s)
