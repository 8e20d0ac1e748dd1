"""Messages in the pages of a damaged journal, told by their shape. Knows what a row of each table looks like."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from vigiloconn.journal.leaves import Leaves, Row, Value
from vigiloconn.journal.pages import HELD, PARKED, WAITING, Entry


class _Page(NamedTuple):
    first: int
    last: int
    number: int


class Remains:
    """What stands in `leaves`, looked through when it is first asked for."""

    def __init__(self, leaves: Leaves) -> None:
        self._leaves = leaves
        self._pages: dict[str, list[_Page]] | None = None

    def between(self, table: str, after: int, before: int) -> Iterator[Entry]:
        """Go through the messages of a table at places between these two, each once, in order as far as pages go."""
        seen: set[int] = set()
        reached = after
        for page in self._of(table):
            if page.last <= after or page.first >= before:
                continue
            if page.first > reached:
                seen.clear()  # what follows can't have been there before
            reached = max(reached, page.last)
            for row in self._leaves.rows(page.number):
                entry = _entry(row)
                if entry and entry.table == table and after < entry.at < before and entry.at not in seen:
                    seen.add(entry.at)
                    yield entry

    def _of(self, table: str) -> Sequence[_Page]:
        if self._pages is None:
            pages = defaultdict(list)
            for number in self._leaves.pages():
                first, last = self._edge(number, False), self._edge(number, True)
                if first and last:
                    pages[first.table].append(_Page(first.at, last.at, number))
            self._pages = {name: sorted(found) for name, found in pages.items()}
        return self._pages.get(table, ())

    def _edge(self, number: int, backwards: bool) -> Entry | None:
        entries = map(_entry, self._leaves.rows(number, backwards))
        return next((entry for entry in entries if entry), None)


def _entry(row: Row) -> Entry | None:
    """Return the message that a row is, None for a row of something else."""
    for columns, read in _SHAPES:
        if len(row.values) in columns and (entry := read(row)):
            return entry
    return None


def _waiting(row: Row) -> Entry | None:
    own, body = row.values
    if own is None and isinstance(body, bytes) and body.startswith(b"{"):
        return Entry(WAITING, row.rowid, row.rowid, body)
    return None


def _held(row: Row) -> Entry | None:
    own, exchange, body, *rest = row.values
    if own is None and isinstance(exchange, bytes) and isinstance(body, bytes):
        return Entry(HELD, row.rowid, row.rowid, body, _text(exchange), "", _time(rest[:1]))
    return None


def _parked(row: Row) -> Entry | None:
    own, id, exchange, reason, body, parked_at, *rest = row.values
    if own is not None or not isinstance(id, int):
        return None
    if isinstance(exchange, bytes) and isinstance(reason, bytes) and isinstance(body, bytes):
        times = _time(rest[:1]), None, _time([parked_at])
        return Entry(PARKED, row.rowid, id, body, _text(exchange), _text(reason), *times)
    return None


#: Number of columns, older versions' included -> which message that may be.
_SHAPES: Sequence[tuple[range, Callable[[Row], Entry | None]]] = (
    (range(2, 3), _waiting),
    (range(3, 7), _held),
    (range(6, 10), _parked),
)


def _text(stored: bytes) -> str:
    return stored.decode(errors="replace")


def _time(values: Sequence[Value]) -> float | None:
    # A time without a fraction is stored as a whole number.
    return float(values[0]) if values and isinstance(values[0], int | float) else None
