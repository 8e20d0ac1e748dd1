"""What may be worked next where several work side by side: in order within a key, keys beside each other.

Pure: knows keys and time, nothing of greenlets or brokers.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar


class Keyed(Protocol):
    """What stands in a lane."""

    @property
    def key(self) -> Hashable:
        """None where it has no place in any order."""


K = TypeVar("K", bound=Keyed)


class Lanes(Generic[K]):
    """Hands out what is first in its lane, and the next one of a lane once that has ended.

    `on_ready()` is called for each item that may be taken. `clock` gives monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float], on_ready: Callable[[], object]) -> None:
        self._clock = clock
        self._on_ready = on_ready
        self._lanes: dict[Hashable, deque[K]] = {}
        """By key, while one of it is ready, in work or waits for its next try: those behind it."""
        self._ready: deque[K] = deque()
        self._later: list[tuple[float, int, K, bool]] = []
        """Due time, number, item, and whether it keeps its lane meanwhile."""
        self._numbers = itertools.count()
        self._behind = 0

    def __len__(self) -> int:
        """How many wait, for whatever."""
        return len(self._ready) + self._behind + len(self._later)

    @property
    def aside(self) -> int:
        """How many wait for their next try and let others pass."""
        return sum(not keeps for _, _, _, keeps in self._later)

    def add(self, item: K) -> None:
        """Put an item behind those of its key."""
        lane = self._lanes.get(item.key) if item.key is not None else None
        if lane is not None:
            lane.append(item)
            self._behind += 1
            return
        if item.key is not None:
            self._lanes[item.key] = deque()
        self._let_go(item)

    def take(self) -> K | None:
        """Return what may be worked now, None if there is nothing."""
        return self._ready.popleft() if self._ready else None

    def end(self, item: K) -> None:
        """One that was taken is over: the next of its key may be taken."""
        if item.key is None:
            return
        lane = self._lanes[item.key]
        if lane:
            self._behind -= 1
            self._let_go(lane.popleft())
        else:
            del self._lanes[item.key]

    def keep(self, item: K, delay_s: float) -> None:
        """One that was taken is to be taken again after that time; those of its key wait."""
        self._wait(item, delay_s, True)

    def put_aside(self, item: K, delay_s: float) -> None:
        """One that was taken is to be taken again after that time; those of its key go on."""
        self.end(item)
        self._wait(item, delay_s, False)

    def due_in_s(self) -> float | None:
        """Return the time until the next one is due, None where none waits for its time."""
        return max(0.0, self._later[0][0] - self._clock()) if self._later else None

    def wake_due(self) -> None:
        """Let those go whose time has come."""
        now_s = self._clock()
        while self._later and self._later[0][0] <= now_s:
            _, _, item, keeps = heapq.heappop(self._later)
            if keeps:
                self._let_go(item)
            else:
                self.add(item)

    def drop(self, is_dropped: Callable[[K], bool]) -> None:
        """Forget all that waits and is not wanted any more."""
        for key, lane in self._lanes.items():
            kept = deque(item for item in lane if not is_dropped(item))
            self._behind -= len(lane) - len(kept)
            self._lanes[key] = kept
        waiting, self._later = self._later, []
        for due_s, number, item, keeps in waiting:
            if not is_dropped(item):
                heapq.heappush(self._later, (due_s, number, item, keeps))
            elif keeps:
                self.end(item)
        ready, self._ready = self._ready, deque()
        for item in ready:
            if is_dropped(item):
                self.end(item)
            else:
                self._ready.append(item)

    def _wait(self, item: K, delay_s: float, keeps: bool) -> None:
        heapq.heappush(self._later, (self._clock() + delay_s, next(self._numbers), item, keeps))

    def _let_go(self, item: K) -> None:
        self._ready.append(item)
        self._on_ready()
