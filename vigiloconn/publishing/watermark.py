"""A watermark: messages taken from one table of the journal, and which of them are finished. Pure bookkeeping."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from vigiloconn.interfaces import Record


class Watermark:
    """Turns messages that finish in any order into "everything up to this id is finished".

    The journal discards by id range, so a message that is done ahead of an older one is remembered here
    until that one is done too. `on_moved(upto_id)` is called with the new end of what is finished.
    """

    def __init__(self, on_moved: Callable[[int], None]) -> None:
        self._on_moved = on_moved
        self.taken: deque[Record] = deque()
        """Taken and not discardable, in the order of their ids."""
        self.finished_upto = 0
        """Everything that was taken and has this id or a lower one is finished."""
        self.size_bytes = 0
        """Bytes of the bodies in `taken`."""
        self._finished: set[int] = set()

    def __len__(self) -> int:
        return len(self.taken)

    def take(self, records: Iterable[Record]) -> None:
        """Add messages, ids ascending and above those that were taken before."""
        for record in records:
            self.taken.append(record)
            self.size_bytes += len(record.body)

    def finish(self, records: Iterable[Record]) -> None:
        """Mark messages as finished. Repeats do no harm."""
        taken, finished, before = self.taken, self._finished, self.finished_upto
        for record in records:
            if taken and taken[0].id == record.id:
                self.size_bytes -= len(taken.popleft().body)
                self.finished_upto = record.id
            elif record.id > self.finished_upto:
                finished.add(record.id)
        while finished and taken and taken[0].id in finished:
            done = taken.popleft()
            finished.discard(done.id)
            self.size_bytes -= len(done.body)
            self.finished_upto = done.id
        if self.finished_upto != before:
            self._on_moved(self.finished_upto)

    def unfinished(self) -> list[Record]:
        """Return what is taken and not finished, in order."""
        finished = self._finished
        return [record for record in self.taken if record.id not in finished]
