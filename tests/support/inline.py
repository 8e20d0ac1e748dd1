"""What stands in for native threads where a test turns the crank itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from gevent.event import AsyncResult

P = ParamSpec("P")
T = TypeVar("T")


class InLine:
    """Runs each call at once, where gevent's `ThreadPool` gives it to a thread: `JournalThread(journal, InLine)`."""

    def spawn(self, func: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> AsyncResult[T]:
        answer: AsyncResult[T] = AsyncResult()
        answer.set(func(*args, **kwargs))
        return answer

    def kill(self) -> None:
        """There is nothing to end."""


class Held(InLine):
    """Runs a call only when it is told to: what a slow disk looks like to those that wait."""

    def __init__(self) -> None:
        self.is_slow = False
        self._waiting: list[Callable[[], None]] = []

    def spawn(self, func: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> AsyncResult[T]:
        if not self.is_slow:
            return super().spawn(func, *args, **kwargs)
        answer: AsyncResult[T] = AsyncResult()
        self._waiting.append(lambda: answer.set(func(*args, **kwargs)))
        return answer

    def finish(self) -> None:
        """Run what was given so far."""
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            call()
