"""What was read ahead of the publisher: pages of the main table and of what is held, and requests for more.

Pure bookkeeping: knows how far was read, not how a page is read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter

from vigiloconn.interfaces import Record
from vigiloconn.journal.runs import Run, runs_of
from vigiloconn.journal.transaction import HeldRequest, Wanted

_ID, _BODY = attrgetter("id"), attrgetter("body")
#: Bodies that are kept ahead of the publisher; one page more may come on top.
_MEMORY_BYTES = 4 << 20


class ReadAhead:
    """Hands messages on in the order of their ids: from memory at the journal's end, in pages behind it."""

    def __init__(self, capacity: int) -> None:
        self.read_upto = 0
        """Everything up to this id was handed on or is in memory."""
        self.last_id = 0
        """The newest message's id."""
        self._capacity = capacity
        self._memory: deque[Record] = deque()
        self._memory_bytes = 0
        self._is_page_wanted = False
        self._held_wanted: dict[str, HeldRequest] = {}
        self._held_pages: dict[str, list[Record]] = {}
        self._unfinished: set[int] = set()

    def __len__(self) -> int:
        return len(self._memory)

    def first(self) -> Record | None:
        """Return the oldest message in memory, None where there is none. Leaves it there."""
        return self._memory[0] if self._memory else None

    @property
    def is_at_end(self) -> bool:
        """Answer whether nothing newer is left in the table."""
        return self.read_upto == self.last_id

    def has_room(self, messages: int) -> bool:
        """Answer whether so many new messages may go on from memory."""
        return (
            self.is_at_end
            and len(self._memory) + messages <= self._capacity
            and self._memory_bytes <= _MEMORY_BYTES
        )  # fmt: skip

    def take(self, limit: int) -> list[Record]:
        """Return the next messages, and want a page when few are left."""
        memory = self._memory
        before = len(memory)
        taken = [memory.popleft() for _ in range(min(limit, before))]
        # On an average: to look at each again would cost more than the figure is worth.
        self._memory_bytes = self._memory_bytes * len(memory) // max(1, before)
        # At 1 message, half of it would never be fallen below.
        if len(memory) < max(1, self._capacity // 2) and not self.is_at_end:
            self._is_page_wanted = True
        return taken

    def withdraw(self, is_meant: Callable[[Record], bool]) -> list[int]:
        """Take out what waits here and is meant; return the ids."""
        gone = [record.id for record in self._memory if is_meant(record)]
        if gone:
            named = set(gone)
            self._memory = deque(record for record in self._memory if record.id not in named)
            self._memory_bytes = sum(map(len, map(_BODY, self._memory)))
            self._is_page_wanted = self._is_page_wanted or not self.is_at_end
        return gone

    def finish(self, ids: Iterable[int]) -> None:
        """What was handed on needs nothing more from the main table."""
        self._unfinished.difference_update(ids)

    def unfinished(self) -> list[Run]:
        """Return what is in memory, or was handed on and is not finished."""
        return runs_of(self._unfinished)

    def ask_held(self, exchange: str, after_id: int) -> None:
        """Want the oldest messages held for `exchange` with ids above `after_id`."""
        self._held_wanted[exchange] = HeldRequest(after_id)
        # The answer to an earlier request must not be taken for the answer to this one.
        self._held_pages.pop(exchange, None)

    def take_held(self, exchange: str) -> list[Record] | None:
        """Return the page that was asked for, [] if there are no more; None while it is not there yet."""
        return self._held_pages.pop(exchange, None)

    def wants_any(self) -> bool:
        """Answer whether something is to be read back."""
        return self._is_page_wanted or bool(self._held_wanted)

    def wanted(self) -> Wanted:
        """Return what is to be read back now."""
        return Wanted(self.read_upto if self._is_page_wanted else None, dict(self._held_wanted))

    def add_new(self, records: Sequence[Record], *, must_keep: bool) -> None:
        """Messages have been accepted: as many as there is room for go on from memory, where nothing older is left in
        the table.

        `must_keep`: they are in memory only.
        """
        room = self._capacity - len(self._memory) if self.has_room(0) else 0
        kept = records if must_keep else records[:room]
        self.last_id = records[-1].id
        if kept:
            self._extend(kept)
            self.read_upto = kept[-1].id

    def add_page(self, page: Sequence[Record], last_id: int) -> None:
        """A page has been read, of a table that ended at `last_id`."""
        self._is_page_wanted = False
        # What another program has put behind it is not numbered by us: it comes with a later page.
        page = [record for record in page if record.id <= last_id]
        self._extend(page)
        # None: everything between was discarded or moved.
        self.read_upto = page[-1].id if page else last_id

    def add_held_page(self, exchange: str, asked: HeldRequest, page: list[Record]) -> None:
        """A held page has been read; it is of no use when another one was asked for meanwhile."""
        if self._held_wanted.get(exchange) is asked:
            del self._held_wanted[exchange]
            self._held_pages[exchange] = page

    def skip_to_end(self) -> None:
        """What is in the table only is not to be read any more."""
        self.read_upto = self.last_id
        self._is_page_wanted = False

    def _extend(self, records: Sequence[Record]) -> None:
        self._memory.extend(records)
        self._unfinished.update(map(_ID, records))
        self._memory_bytes += sum(map(len, map(_BODY, records)))
