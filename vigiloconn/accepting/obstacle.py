"""What keeps the journal from accepting, and when to try again. Knows errors and time, both handed in; no disks."""

from __future__ import annotations

import logging
from collections.abc import Callable

from vigiloconn.errors import JournalBusy, JournalFull
from vigiloconn.interfaces import Level, Problem
from vigiloconn.kit.ratelog import RateLimitedLog

log = logging.getLogger(__name__)

#: Between attempts to accept.
RETRY_S = 1.0


class Obstacle:
    """Remembers the error that new messages met, until some are accepted again."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._error: JournalFull | JournalBusy | None = None
        self._retry_at_s = 0.0
        # Limited: where publishing makes a little room again and again, it comes again and again.
        self._log = RateLimitedLog(log, logging.ERROR, clock=clock)

    def __bool__(self) -> bool:
        return self._error is not None

    @property
    def is_full(self) -> bool:
        """Answer whether there is no room: the full policy applies. To a journal that is merely busy it does not."""
        return isinstance(self._error, JournalFull)

    def met(self, error: JournalFull | JournalBusy, *, was_tried: bool) -> None:
        """Nothing could be accepted. `was_tried`: there was something to accept, so that it is tried again later."""
        if self._error is None:
            self._log("%s: nothing more is accepted until then; publishing goes on", error)
        else:
            self._log("%s: tried again every %.0f s", error, RETRY_S)
        self._error = error
        if was_tried:
            # What else goes to the journal in between must not put the next attempt off.
            self._retry_at_s = self._clock() + RETRY_S

    def passed(self) -> None:
        """Messages could be accepted."""
        self._error = None

    def seconds_to_retry(self) -> float:
        """Return the seconds until new messages may be tried, 0 when they may be now."""
        return max(0.0, self._retry_at_s - self._clock()) if self._error is not None else 0.0

    def problem(self) -> Problem | None:
        """Return what an operator should know."""
        if self._error is None:
            return None
        return Problem(self._error.problem, Level.CRITICAL, str(self._error))
