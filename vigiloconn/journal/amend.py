"""What an operator changes in a journal: send again, move, discard, put back. Knows tables; not who asks, nor buses.

Each function does one slice, in one transaction, and tells where the next one begins. A process that ends in between
has done some slices whole and the others not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from vigiloconn.interfaces import UNREADABLE, Record
from vigiloconn.journal.clock import Stamp
from vigiloconn.journal.counts import Counts
from vigiloconn.journal.pages import HELD, PARKED, WAITING, Entry, Pages
from vigiloconn.journal.rows import JournalRows
from vigiloconn.journal.runs import runs_of
from vigiloconn.journal.store import DbRetry
from vigiloconn.journal.transaction import Transaction

#: What the names of the texts begin with that say how far a source has been put back.
PUT_BACK = "put-back:"


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """Which messages of a table are meant: those that meet all that is said."""

    table: str
    ids: list[int] | None = None
    """These, at most 500."""
    exchange: str | None = None
    type: str | None = None
    reason: str | None = None
    """A part of the reason why they are parked."""
    older_than_s: float | None = None
    """Accepted longer ago than this."""
    after: int = 0
    """Only those with a place behind this one."""
    upto: int = 2**63 - 1
    """And no further: what comes later is not meant."""


class Move(msgspec.Struct, frozen=True):
    """An order, and the exchange that its messages are to be held for; None: where the settings send their type."""

    order: Order
    to: str | None = None


class Slice(msgspec.Struct, frozen=True):
    """What was done of an order."""

    done: int
    after: int
    """Where the next slice begins."""
    is_end: bool
    """True when there is no next one."""


class Progress(NamedTuple):
    """How far a source has been put back; None: it is done, and that is forgotten."""

    source: str
    """What tells it from others, whatever its name is."""
    taken: int | None

    @property
    def name(self) -> str:
        return f"{PUT_BACK}{self.source}"

    @property
    def text(self) -> str | None:
        return None if self.taken is None else str(self.taken)


@dataclass(frozen=True)
class Moved:
    """What was moved to one exchange."""

    first_id: int
    count: int


def retry(journal: DbRetry, order: Order) -> Slice:
    """Let parked messages wait again, behind all others: under new numbers, with the time of their first acceptance.

    A consumer that drops repeats by number takes them. Raises as `DbRetry.amend` does.
    """
    found, slice = _chosen(journal, order)
    records = _renumbered(journal, found)
    runs = runs_of(entry.id for entry in found)

    def change(rows: JournalRows, counts: Counts) -> None:
        rows.restore(counts, records)
        rows.discard_parked(counts, runs)

    if found:
        journal.amend(_weight_of_moves(found), change)
    return slice


def discard(journal: DbRetry, order: Order, spared_upto: int = 0) -> Slice:
    """Delete messages for good, those with ids above `spared_upto`. Raises as `DbRetry.amend` does."""
    found, slice = _chosen(journal, order, spared_upto)
    runs = runs_of(entry.id for entry in found)

    def change(rows: JournalRows, counts: Counts) -> None:
        {WAITING: rows.discard, HELD: rows.discard_held, PARKED: rows.discard_parked}[order.table](counts, runs)

    if found:
        journal.amend(Transaction(discards=runs), change)
    return slice


def move(journal: DbRetry, order: Order, exchange_of: Callable[[str], str]) -> tuple[Slice, Mapping[str, Moved]]:
    """Hold messages that are held for the order's exchange for another one: what `exchange_of` their type says.

    Returns what each other exchange was given too. Raises as `DbRetry.amend` does.
    """
    found, slice = _chosen(journal, order)
    moves = [(other, entry.id) for entry in found if (other := exchange_of(entry.type)) != entry.exchange]
    moved: dict[str, Moved] = {}
    for other, id in moves:
        before = moved.get(other, Moved(id, 0))
        moved[other] = Moved(min(before.first_id, id), before.count + 1)

    def change(rows: JournalRows, counts: Counts) -> None:
        rows.readdress(counts, order.exchange or "", moves)

    if moves:
        journal.amend(_weight_of_moves(found), change)
    return Slice(len(moves), slice.after, slice.is_end), moved


def put_back(journal: DbRetry, entries: Sequence[Entry], progress: Progress | None = None) -> None:
    """Accept messages of another journal, under new numbers, with the times that they have.

    What was parked there is parked here, all others wait. How far that is in what it is taken from is stored with it.
    Raises as `DbRetry.amend` does.
    """
    kept = {} if progress is None else {progress.name: progress.text}
    records = _renumbered(journal, entries)
    parks = [
        (entry.exchange, record, entry.reason)
        for entry, record in zip(entries, records, strict=True) if entry.table == PARKED
    ]  # fmt: skip
    parked_at = journal.clock.now().wall_s

    def change(rows: JournalRows, counts: Counts) -> None:
        if records:
            rows.restore(counts, records)
            rows.park(counts, parks, parked_at)
        rows.write_kept(kept)

    if records or kept:
        journal.amend(Transaction(appends=records, kept=kept), change)


def _chosen(journal: DbRetry, order: Order, spared_upto: int = 0) -> tuple[list[Entry], Slice]:
    """Return the messages of the next slice."""

    def look(rows: JournalRows) -> list[Entry]:
        pages = Pages(rows.connection, rows.main, journal.clock.boot_id)
        if order.ids is not None:
            return pages.named(order.table, order.ids)
        return pages.page(order.table, max(order.after, spared_upto), order.upto)

    page = journal.examine(look)
    now = journal.clock.now()
    chosen = [entry for entry in page if entry.id > spared_upto and is_meant(entry, order, now)]
    is_end = order.ids is not None or not page
    return chosen, Slice(len(chosen), page[-1].at if page else order.after, is_end)


def is_meant(entry: Entry, order: Order, now: Stamp) -> bool:
    """Answer whether an order means this message of its table, wherever the order begins and ends."""
    return (
        (order.ids is None or entry.id in order.ids)
        and (order.exchange is None or entry.exchange == order.exchange)
        and (order.type is None or entry.type == order.type)
        and (order.reason is None or order.reason in entry.reason)
        and (order.older_than_s is None or age_s(entry, now) > order.older_than_s)
    )


def age_s(entry: Entry, now: Stamp) -> float:
    """Return the seconds since a message was accepted; by the clock that does not jump where that can tell."""
    if now.boot_s is not None and entry.boot_s is not None:
        return max(0.0, now.boot_s - entry.boot_s)
    return max(0.0, now.wall_s - entry.since) if entry.since is not None else 0.0


def _renumbered(journal: DbRetry, entries: Sequence[Entry]) -> list[Record]:
    now = journal.clock.now()
    stamps = [now if entry.since is None else Stamp(entry.since, entry.boot_s) for entry in entries]
    return [
        Record(id, UNREADABLE, entry.body, *stamp)
        for id, (entry, stamp) in enumerate(zip(entries, stamps, strict=True), journal.next_id)
    ]


def _weight_of_moves(entries: Sequence[Entry]) -> Transaction:
    """Return a transaction that writes as much as to move these from one table to another does."""
    parks = [(entry.exchange, Record(entry.id, UNREADABLE, entry.body, 0.0), entry.reason) for entry in entries]
    return Transaction(parks=parks)
