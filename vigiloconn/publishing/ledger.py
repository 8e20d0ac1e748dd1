"""A ledger: messages that were taken from one table of the journal and are not finished. Pure bookkeeping."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter

from vigiloconn.interfaces import Record

_ID = attrgetter("id")
_BODY = attrgetter("body")


class Ledger:
    """Remembers what is taken, in order, until it is finished, in any order.

    Finished messages are named to `discard` by their ids: nothing else leaves the journal's table, whatever
    stands beside them there.
    """

    def __init__(self, discard: Callable[[list[int]], None]) -> None:
        self.size_bytes = 0
        """Bytes of the bodies of what is unfinished."""
        self._discard = discard
        self._unfinished: dict[int, Record] = {}

    def __len__(self) -> int:
        return len(self._unfinished)

    def __contains__(self, id: int) -> bool:
        return id in self._unfinished

    def take(self, records: Sequence[Record]) -> None:
        """Add messages that were taken from the journal, in order."""
        self._unfinished.update(zip(map(_ID, records), records, strict=True))
        self.size_bytes += sum(map(len, map(_BODY, records)))

    def first(self) -> Record | None:
        """Return the oldest that is unfinished, None where there is none."""
        return next(iter(self._unfinished.values()), None)

    def finish(self, records: Iterable[Record]) -> None:
        """These are done, and go from the journal. Repeats, and messages that are not here, do no harm."""
        ids = self._removed(records)
        if ids:
            self._discard(ids)

    def hand_over(self, records: Iterable[Record]) -> None:
        """These are no longer in this table, or are somebody else's to finish."""
        self._removed(records)

    def unfinished(self) -> list[Record]:
        """Return what is taken and not finished, in order."""
        return list(self._unfinished.values())

    def _removed(self, records: Iterable[Record]) -> list[int]:
        unfinished = self._unfinished
        ids: list[int] = []
        size_bytes = 0
        for record in records:
            id = record.id
            if id in unfinished:
                del unfinished[id]
                size_bytes += len(record.body)
                ids.append(id)
        self.size_bytes -= size_bytes
        return ids
