"""Deliveries that wait for another try while others pass. Knows time, nothing of what is tried.

They stay unacknowledged, so it is the broker that keeps them: no copy on the bus or in a journal could be lost or come
twice, and nothing has to be declared for them. That is why they may only be some, and wait for minutes at most.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator

from vigiloconn.consuming.work import Work


class Postponed:
    """Works by the time at which each is due. `clock` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._heap: list[tuple[float, int, Work]] = []
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._heap)

    def has_room(self, prefetch_messages: int) -> bool:
        """Answer whether one more may wait: half of what the broker sends ahead is left to the others."""
        return len(self._heap) < prefetch_messages // 2

    def add(self, work: Work, delay_s: float) -> None:
        """Keep this one for so long."""
        heapq.heappush(self._heap, (self._clock() + delay_s, next(self._numbers), work))

    def due_in_s(self) -> float:
        """Return the time until the first is due."""
        return max(0.0, self._heap[0][0] - self._clock())

    def stale(self, is_stale: Callable[[Work], bool]) -> list[Work]:
        """Take out those that the broker has back."""
        found = [entry[2] for entry in self._heap if is_stale(entry[2])]
        if found:
            self._heap = [entry for entry in self._heap if not is_stale(entry[2])]
            heapq.heapify(self._heap)
        return found

    def due(self) -> Iterator[Work]:
        """Take out those that are due, one after the other."""
        now_s = self._clock()
        while self._heap and self._heap[0][0] <= now_s:
            yield heapq.heappop(self._heap)[2]
