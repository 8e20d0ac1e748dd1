"""One native thread that does calls in turn, while only those greenlets wait that want an answer. Knows gevent's loop.

gevent's `ThreadPool` makes watcher and queue anew for each call, which costs as much as a small commit; this is a
lasting eventfd each way. The interpreter's lock is released while one is written: whoever is woken can run at once,
where a lock or the loop's own watcher would wake it only to wait for the one that did.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import gevent
from gevent import monkey
from gevent.event import AsyncResult

P = ParamSpec("P")
T = TypeVar("T")

#: The interpreter's own: gevent's would make a greenlet of it.
_start_thread = monkey.get_original("_thread", "start_new_thread")


class Worker:
    """The thread, from here to `kill`. All methods are for greenlets of the thread that makes it."""

    def __init__(self) -> None:
        self._calls: deque[Callable[[], None]] = deque()
        self._results: deque[tuple[AsyncResult[Any], Any, BaseException | None]] = deque()
        self._is_over = False
        self._is_told = False
        """True while the thread will look for calls before it waits."""
        self._asked = os.eventfd(0, os.EFD_CLOEXEC)
        self._done = os.eventfd(0, os.EFD_CLOEXEC)
        self._loop = gevent.get_hub().loop
        self._watcher = self._loop.io(self._done, 1)
        self._watcher.start(self._hand_out)
        _start_thread(self._work, ())

    def spawn(self, func: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> AsyncResult[T]:
        """Do a call behind those that were asked for before; return its answer to come."""
        answer: AsyncResult[T] = AsyncResult()

        def call() -> None:
            try:
                result = answer, func(*args, **kwargs), None
            except BaseException as exc:  # noqa: BLE001 - it is raised where the answer is waited for
                result = answer, None, exc  # type: ignore[assignment]
            self._results.append(result)

        self._calls.append(call)
        if not self._is_told:
            self._is_told = True
            # When the loop has nothing else to do: what it still did would hold the thread up, and be held up by it.
            self._loop.run_callback(os.eventfd_write, self._asked, 1)
        return answer

    def kill(self) -> None:
        """End the thread once it has done what it was asked for. Blocks until then; harmless when called twice."""
        if not self._is_over:
            self.spawn(self._end).wait()
            self._watcher.close()
            os.close(self._asked)
            os.close(self._done)

    def _end(self) -> None:
        self._is_over = True

    # On the thread.

    def _work(self) -> None:
        while not self._is_over:
            try:
                os.eventfd_read(self._asked)
            except InterruptedError:
                continue  # Python does not try this one again: a process that was stopped and goes on gets here
            # Before the look: what is asked for from here on is told again.
            self._is_told = False
            while self._calls:
                self._calls.popleft()()
                os.eventfd_write(self._done, 1)

    # On the loop.

    def _hand_out(self) -> None:
        os.eventfd_read(self._done)
        while self._results:
            answer, value, failed = self._results.popleft()
            if failed is None:
                answer.set(value)
            else:
                answer.set_exception(failed)
