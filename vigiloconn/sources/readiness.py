"""Which of many descriptors have something to read. All are told together, and in a stream of small reads no more often
than every few milliseconds. Knows descriptors and the loop, nothing of what is read.

One epoll of its own holds all of them, in another one that the loop watches: so to stand back for a while takes one
call for any number of descriptors, and writers that are gentle each, but many, do not wake the loop for each line.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from typing import Any

import gevent
from gevent import monkey
from gevent.event import Event

from vigiloconn.sources.moderation import Moderation

#: Told once and then silent until somebody waits again: what a writer may not read now must not wake the loop.
_ONCE = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLONESHOT


class Readiness:
    """Tells those that wait on their `Seat`. Holds nothing while there is none. For greenlets of one thread."""

    def __init__(self, moderation: Moderation, clock: Callable[[], float] = time.monotonic) -> None:
        self.rounds = 0
        """How often some were told."""
        self._moderation = moderation
        self._clock = clock
        self._size_bytes = 0
        self._seats: dict[int, Seat] = {}
        self._epoll: Any = None
        # The loop's own watcher would be woken once more for each time that it is stopped.
        self._gate: Any = None
        self._watcher: Any = None
        self._timer: Any = None

    def seat(self, descriptor: int) -> Seat:
        """Return a place to wait for what comes on `descriptor`. Close it before that is closed."""
        if not self._seats:
            # The original: where gevent has patched the stdlib there is no other.
            new_epoll = monkey.get_original("select", "epoll")
            self._epoll, self._gate = new_epoll(), new_epoll()
            self._gate.register(self._epoll.fileno(), select.EPOLLIN)
            loop = gevent.get_hub().loop
            self._watcher = loop.io(self._gate.fileno(), 1)
            self._timer = loop.timer(0.0, repeat=max(0.001, self._moderation.pause_s))
            self._watcher.start(self._tell)
        self._epoll.register(descriptor, 0)
        seat = self._seats[descriptor] = Seat(self, descriptor)
        return seat

    def took(self, size_bytes: int) -> None:
        """So much was read, by whomever."""
        self._size_bytes += size_bytes

    def resume(self) -> None:
        """Tell at once what has come while we stood back."""
        if self._seats:
            self._timer.stop()
            self._gate.modify(self._epoll.fileno(), select.EPOLLIN)

    def listen(self, descriptor: int) -> None:
        """Tell the seat once when there is something, be it the end or an error."""
        self._epoll.modify(descriptor, _ONCE)

    def leave(self, descriptor: int) -> None:
        """A seat is closed."""
        if self._seats.pop(descriptor, None) is None:
            return
        self._epoll.unregister(descriptor)
        if not self._seats:
            self._watcher.close()
            self._timer.close()
            self._gate.close()
            self._epoll.close()

    def _tell(self) -> None:
        # On the loop itself: neither blocks nor raises.
        for descriptor, _ in self._epoll.poll(0):
            seat = self._seats.get(descriptor)
            if seat is not None:
                seat.told.set()
        self.rounds += 1
        size_bytes, self._size_bytes = self._size_bytes, 0
        if self._moderation.pause_after(self._clock(), size_bytes):
            self._gate.modify(self._epoll.fileno(), 0)
            self._timer.again(self.resume)


class Seat:
    """Where one reader waits."""

    def __init__(self, readiness: Readiness, descriptor: int) -> None:
        self.told = Event()
        self._readiness = readiness
        self._descriptor = descriptor

    def wait(self) -> None:
        """Return once there is something to read, or may be."""
        self.told.clear()
        self._readiness.listen(self._descriptor)
        self.told.wait()

    def close(self) -> None:
        """Wait no more. Harmless when called twice."""
        self._readiness.leave(self._descriptor)
