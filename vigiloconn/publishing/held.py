"""The reader of one exchange's held messages. Knows pages and where they end, not what becomes of a message."""

from __future__ import annotations

from collections.abc import Sequence

from vigiloconn.interfaces import Journal, Record
from vigiloconn.publishing.watermark import Watermark

#: Messages of a held exchange that are in memory at a time.
_HELD_MESSAGES = 1000


class HeldReader:
    """Puts messages behind those that are held for `exchange`, and reads them back in order, a page at a time.

    What was read stays in the journal, and in `watermark`, until it is finished.
    """

    def __init__(self, exchange: str, journal: Journal, count: int = 0) -> None:
        self.count = count
        """Messages that are held."""
        self.watermark = Watermark(lambda upto_id: journal.discard_held_upto(exchange, upto_id))
        self._exchange = exchange
        self._journal = journal
        self._holds = 0
        self._read_upto = 0
        # Both: how many holds there had been. To know the end, none must have come since the page was asked for.
        self._asked_at: int | None = None
        self._ended_at: int | None = None

    def hold(self, records: list[Record]) -> None:
        """Move messages of the main table behind those that are held."""
        self._journal.hold(self._exchange, records)
        self.count += len(records)
        self._holds += 1

    def finish(self, records: Sequence[Record]) -> None:
        """Messages that were read are done with, each in its way."""
        self.count -= len(records)
        self.watermark.finish(records)

    def begin(self) -> list[Record]:
        """Begin to read again: what was read and is not finished comes first. Return it; the rest is in the table."""
        self._asked_at = self._ended_at = None
        return self.watermark.unfinished()

    def read(self) -> list[Record]:
        """Return what has come of a page, and ask for the next one when there is room for it. Never blocks."""
        page = self._taken_page()
        if self._asked_at is None and not self._is_at_end() and len(self.watermark) <= _HELD_MESSAGES // 2:
            self._asked_at = self._holds
            self._journal.ask_held(self._exchange, self._read_upto)
        return page

    def is_done(self) -> bool:
        """Answer whether all that was ever held is read and finished."""
        return self._is_at_end() and not self.watermark.unfinished()

    def _is_at_end(self) -> bool:
        return self._ended_at == self._holds

    def _taken_page(self) -> list[Record]:
        if self._asked_at is None:
            return []
        page = self._journal.take_held(self._exchange)
        if page is None:
            return []
        asked_at, self._asked_at = self._asked_at, None
        if page:
            self._read_upto = page[-1].id
            self.watermark.take(page)
        else:
            self._ended_at = asked_at
        return page
