"""A look into a running connector's journal file now and then. Knows a native thread, and how old what was seen is."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import gevent
from gevent.event import AsyncResult

from vigiloconn.control.journalfile import Contents, Unreadable, read_contents
from vigiloconn.journal.clock import JournalClock

#: A look that took this much CPU or less is no matter, be one asked for each second.
_CHEAP_S = 0.01
#: A dearer one is followed by a pause of so many times its CPU: looking takes a hundredth of a core at most.
_PAUSE_FACTOR = 100


class JournalFile:
    """The file of a running connector, looked into on a native thread; what was seen last stands meanwhile.

    `with_parked`: the reasons of parked messages are gathered too, which takes longer the more there are. So however
    often it is asked, a look that was dear is not made again at once. `cpu_clock` counts the calling thread's CPU.
    """

    def __init__(
        self, path: Path, table: str, clock: Callable[[], float], *, with_parked: bool,
        cpu_clock: Callable[[], float] = time.thread_time,
    ) -> None:
        self._path = path
        self._table = table
        self._clock = clock
        self._with_parked = with_parked
        self._cpu_clock = cpu_clock
        self._cost_s = 0.0
        self._journal_clock = JournalClock()
        self._answer: AsyncResult[Contents | None] | None = None
        self._seen = Contents((), 0.0, 0, {})
        self._seen_at_s = -1e9

    def seen(self, max_age_s: float, wait_s: float = 0.0) -> Contents:
        """Return what was seen, at most `max_age_s` ago if the disk answers within `wait_s` and looking is cheap."""
        pause_s = self._cost_s * _PAUSE_FACTOR if self._cost_s > _CHEAP_S else 0.0
        if self._answer is None and self._clock() - self._seen_at_s > max(max_age_s, pause_s):
            self._answer = gevent.get_hub().threadpool.spawn(self._look)
        answer = self._answer
        if answer is not None:
            if wait_s:
                answer.wait(wait_s)
            # Another one that waited for the same answer may have taken it.
            if answer.ready() and answer is self._answer:
                self._answer = None
                self._seen, self._seen_at_s = answer.value or self._seen, self._clock()
        return self._seen

    def oldest_s(self) -> float:
        """Return the age of the oldest message, as of now, by what was seen last."""
        return self._seen.oldest_s + self._clock() - self._seen_at_s if self._seen.oldest_s else 0.0

    def _look(self) -> Contents | None:
        began_s = self._cpu_clock()
        try:
            return read_contents(self._path, self._table, self._journal_clock, with_parked=self._with_parked)
        except Unreadable:
            # gevent prints what a thread lets out; what is wrong with the file the journal itself tells.
            return None
        finally:
            self._cost_s = self._cpu_clock() - began_s
