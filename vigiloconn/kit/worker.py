"""One native thread that does calls in turn, while only those greenlets wait that want an answer. Knows gevent's loop.

gevent's `ThreadPool` makes watcher and queue anew for each call, which costs as much as a small commit; this is a lock
one way and one lasting watcher the other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import gevent
from gevent import monkey
from gevent.event import AsyncResult

P = ParamSpec("P")
T = TypeVar("T")

#: The interpreter's own: gevent's would make the thread wait for the loop.
_allocate_lock = monkey.get_original("_thread", "allocate_lock")
_start_thread = monkey.get_original("_thread", "start_new_thread")


class Worker:
    """The thread, from here to `kill`. All methods are for greenlets of the thread that makes it."""

    def __init__(self) -> None:
        self._calls: deque[Callable[[], None]] = deque()
        self._results: deque[tuple[AsyncResult[Any], Any, BaseException | None]] = deque()
        self._is_over = False
        # Free while there may be calls that the thread does not know of.
        self._gate = _allocate_lock()
        self._gate.acquire()
        self._watcher = gevent.get_hub().loop.async_()
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
        if self._gate.locked():
            self._gate.release()
        return answer

    def kill(self) -> None:
        """End the thread once it has done what it was asked for. Blocks until then; harmless when called twice."""
        if not self._is_over:
            self.spawn(self._end).wait()
            self._watcher.close()

    def _end(self) -> None:
        self._is_over = True

    # On the thread.

    def _work(self) -> None:
        while not self._is_over:
            self._gate.acquire()
            while self._calls:
                self._calls.popleft()()
                self._watcher.send()

    # On the loop.

    def _hand_out(self) -> None:
        while self._results:
            answer, value, failed = self._results.popleft()
            if failed is None:
                answer.set(value)
            else:
                answer.set_exception(failed)
