"""The reader of one exchange's held messages. Knows pages and where they end, not what becomes of a message."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from vigiloconn.interfaces import Journal, Record
from vigiloconn.publishing.ledger import Ledger

#: Messages of a held exchange that are in memory at a time.
_HELD_MESSAGES = 1000


class HeldReader:
    """Puts messages behind those that are held for `exchange`, and reads them back in order, a page at a time.

    What was read stays in the journal, and in `ledger`, until it is finished.
    """

    def __init__(self, exchange: str, journal: Journal, count: int = 0) -> None:
        self.count = count
        """Messages that are held."""
        self.ledger = Ledger(journal.discard_held)
        self._exchange = exchange
        self._journal = journal
        self._holds = 0
        self._read_upto = 0
        self._reread_upto = 0
        self._gone_meanwhile: set[int] = set()
        # Both: how many holds there had been. To know the end, none must have come since the page was asked for.
        self._asked_at: int | None = None
        self._ended_at: int | None = None
        self._lowest_since = sys.maxsize

    def hold(self, records: list[Record]) -> None:
        """Move messages of the main table behind those that are held."""
        self._journal.hold(self._exchange, records)
        self.count += len(records)
        self._holds += 1
        self._comes_in(min(record.id for record in records))

    def moved_in(self, first_id: int, count: int) -> None:
        """An operator has put so many messages, the lowest of this id, among those that are held."""
        self.count += count
        self._holds += 1
        self._comes_in(first_id)

    def moved_out(self, count: int) -> None:
        """An operator has taken so many out, while none that was read was on its way: all is read anew."""
        self.count -= count
        self.ledger.hand_over(self.ledger.unfinished())
        self._asked_at = self._ended_at = None
        self._read_upto = self._reread_upto = 0
        self._gone_meanwhile.clear()

    def _comes_in(self, first_id: int) -> None:
        # Rows that an operator put back may come in anywhere: below what was read, or what is being read.
        self._lowest_since = min(self._lowest_since, first_id)
        if first_id <= self._read_upto:
            self._reread_upto = max(self._reread_upto, self._read_upto)
            self._read_upto = first_id - 1

    def finish(self, records: Sequence[Record]) -> None:
        """Messages that were read are done."""
        self.ledger.finish(records)
        self._gone(records)

    def hand_over(self, records: Sequence[Record]) -> None:
        """Messages that were read have left the held table in another way."""
        self.ledger.hand_over(records)
        self._gone(records)

    def begin(self) -> list[Record]:
        """Begin to read again: what was read and is not finished comes first. Return it; the rest is in the table."""
        self._asked_at = self._ended_at = None
        return self.ledger.unfinished()

    def read(self) -> list[Record]:
        """Return what has come of a page, and ask for the next one when there is room for it. Never blocks."""
        page = self._taken_page()
        if self._asked_at is None and not self.is_at_end() and len(self.ledger) <= _HELD_MESSAGES // 2:
            self._asked_at = self._holds
            self._lowest_since = sys.maxsize
            self._journal.ask_held(self._exchange, self._read_upto)
        return page

    def is_done(self) -> bool:
        """Answer whether all that was ever held is read and finished."""
        return self.is_at_end() and not self.ledger

    def is_at_end(self) -> bool:
        """Answer whether all that was ever held is read."""
        return self._ended_at == self._holds

    def _taken_page(self) -> list[Record]:
        if self._asked_at is None:
            return []
        page = self._journal.take_held(self._exchange)
        if page is None:
            return []
        asked_at, self._asked_at = self._asked_at, None
        if not page:
            self._ended_at = asked_at
            return []
        if page[-1].id > self._lowest_since:
            page = [record for record in page if record.id < self._lowest_since]
        if page:
            self._read_upto = page[-1].id
        if self._reread_upto:
            page = [r for r in page if r.id not in self.ledger and r.id not in self._gone_meanwhile]
            if self._read_upto >= self._reread_upto:
                self._reread_upto = 0
                self._gone_meanwhile.clear()
        self.ledger.take(page)
        return page

    def _gone(self, records: Sequence[Record]) -> None:
        self.count -= len(records)
        if self._reread_upto:
            # A page that is on its way may still have them.
            self._gone_meanwhile.update(record.id for record in records)
