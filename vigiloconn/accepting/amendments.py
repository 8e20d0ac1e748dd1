"""Changes that an operator has asked for: each waits for its turn between two transactions, and for its answer.

Knows who waits and for how long, not what a change does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gevent
from gevent.event import AsyncResult

from vigiloconn.errors import BadMoment, VigiloError
from vigiloconn.journal.store import DbRetry


@dataclass(slots=True, eq=False)
class Amendment:
    """A change, which is given the journal and the id up to which messages of the main table were read."""

    change: Callable[[DbRetry, int], Any]
    answer: AsyncResult[Any] = field(default_factory=AsyncResult)
    """What it returned, or the error of ours that it raised."""


class Amendments:
    """Those that wait, the oldest first. `on_asked` is called when one has come."""

    def __init__(self, on_asked: Callable[[], None]) -> None:
        self._on_asked = on_asked
        self._waiting: deque[Amendment] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def ask(self, change: Callable[[DbRetry, int], Any], timeout_s: float) -> Any:
        """Wait for a change to be made and return what it returns. Raises the error of ours that it raised, and
        `BadMoment` when there was no time for it."""
        amendment = Amendment(change)
        self._waiting.append(amendment)
        self._on_asked()
        try:
            found = amendment.answer.get(timeout=timeout_s)
        except gevent.Timeout:
            if amendment not in self._waiting:
                raise BadMoment(f"the disk does not answer within {timeout_s:g} s: it may be done yet") from None
            raise BadMoment(f"the journal had no time for it within {timeout_s:g} s") from None
        finally:
            if amendment in self._waiting:
                self._waiting.remove(amendment)
        if isinstance(found, VigiloError):
            raise found
        return found

    def next(self) -> Amendment:
        """Take the oldest out: it is made now."""
        return self._waiting.popleft()

    def put_back(self, amendment: Amendment) -> None:
        """One that was taken out could not be made yet: it is the next again."""
        self._waiting.appendleft(amendment)

    def refuse_all(self, error: VigiloError) -> None:
        """None of those that wait will be made."""
        while self._waiting:
            self._waiting.popleft().answer.set(error)
