"""Room on the disk: what a transaction takes of it, and what must be left. Pure: all figures are handed in.

The rule that keeps a full disk from locking the journal up: whatever is written, enough is left to fold the
write-ahead log into the file, and on top of it room for those that matter more. New messages leave the most,
moves to the held and parked tables half of it, deletions need nothing but the log's own room.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vigiloconn.journal.runs import Run
from vigiloconn.journal.transaction import Transaction

#: The log's size in fair weather: SQLite folds it after 1000 pages.
LOG_BYTES = 4 << 20
#: Where a reader with an open transaction keeps the log from being folded, acceptance stops here.
LOG_MAX_BYTES = 32 << 20
#: Pages that hold nothing are as good as free disk to the journal itself: so much is not worth giving back.
_SPARE_BYTES = 4 << 20
#: What is given back at a time.
GIVE_BACK_BYTES = 1 << 20
#: On a small disk no more than this share of it is kept free.
_MOST_SHARE = 8
#: A row that leaves, or a text that is replaced, may change a page of its own and a neighbour; in the log each has a
#: header. The pages that a large body leaves are named, some thousand in one, and not written (`secure_delete`).
_LEAVING_BYTES = 2 * (4096 + 24)
#: What each transaction takes beside its rows: totals, inner pages of the trees, the log's index.
_FIXED_BYTES = 64 << 10
#: Longest body of a transaction -> what its bodies may take, since one that does not fit into the rest of a page begins
#: a new one. One a little above half a page has a page for itself, and so has the end of a longer one.
_WASTE = ((512, 1.25), (1024, 1.5))
_MOST_WASTE = 2.2
_ROW_BYTES = 24


@dataclass(frozen=True, slots=True)
class Need:
    """What one transaction takes, at most."""

    log_bytes: int
    growth_bytes: int
    """By how much it makes the file grow once the log is folded, where no emptied pages are left to fill."""


@dataclass(frozen=True, slots=True)
class Disk:
    """What there is."""

    free_bytes: int
    unfolded_bytes: int
    """By how much the file grows when the log is folded now."""
    emptied_bytes: int
    """Pages of the file that hold nothing any more."""


@dataclass(frozen=True, slots=True)
class Reckoning:
    """The most that can have become of log and file since they were looked at: to look costs as much as a small
    transaction does."""

    unfolded_bytes: int
    log_bytes: int

    def after(self, need: Need) -> Reckoning:
        """Return what it is after a transaction with this need, which has moved nothing."""
        # A page by which the file grows was in the log.
        return Reckoning(self.unfolded_bytes + need.log_bytes, self.log_bytes + need.log_bytes)


def is_worth_giving_back(file_bytes: int, disk: Disk, floor: int) -> bool:
    """Answer whether a file has grown by a backlog that is gone, and the disk has room for the log of its shortening.

    Half of it must be empty: what fills and drains all the time would else be moved about for nothing.
    """
    is_much = disk.emptied_bytes >= max(_SPARE_BYTES, file_bytes // 2)
    # A page that goes may be moved, and those that point to it change.
    return is_much and disk.free_bytes >= floor + disk.unfolded_bytes + 4 * GIVE_BACK_BYTES


def floor_bytes(min_free_bytes: int, disk_bytes: int) -> int:
    """Return what new messages leave free on a disk of this size."""
    return min(min_free_bytes, disk_bytes // _MOST_SHARE)


def need_of(transaction: Transaction) -> Need:
    """Return what a transaction takes."""
    growth_bytes = _pages_bytes([len(record.body) for record in transaction.appends])
    # The exchange stands in the row and in an index; an index's pages may be half empty. A letter may have four octets.
    if transaction.holds:
        growth_bytes += _pages_bytes([len(record.body) + 16 * len(name) for name, record in transaction.holds])
    if transaction.parks:
        growth_bytes += _pages_bytes(
            [len(record.body) + 4 * len(name + reason) + 32 for name, record, reason in transaction.parks]
        )
    if transaction.kept:
        growth_bytes += _pages_bytes([4 * len(name + (text or "")) for name, text in transaction.kept.items()])
    leaving = len(transaction.kept) + len(transaction.holds) + 2 * len(transaction.parks)
    leaving += _named(transaction.discards) + _named(transaction.held_discards)
    return Need(growth_bytes + leaving * _LEAVING_BYTES + _FIXED_BYTES, growth_bytes)


def fits(transaction: Transaction, need: Need, disk: Disk, floor: int) -> bool:
    """Answer whether a transaction leaves what it has to."""
    growth_bytes = max(0, need.growth_bytes - disk.emptied_bytes)
    left_bytes = 0
    if transaction.accepts:
        # What only fills emptied pages may go lower: it must not wait for room that the file itself holds.
        left_bytes = floor if growth_bytes else floor // 4
    elif transaction.holds or transaction.parks:
        left_bytes = floor // 2
    return disk.free_bytes >= disk.unfolded_bytes + need.log_bytes + growth_bytes + left_bytes


def _pages_bytes(sizes: list[int]) -> int:
    """Return the size of the pages that rows of these sizes take, at most."""
    if not sizes:
        return 0
    longest = max(sizes)
    waste = next((factor for size, factor in _WASTE if longest <= size), _MOST_WASTE)
    return int(waste * (sum(sizes) + _ROW_BYTES * len(sizes)))


def _named(runs: Sequence[Run]) -> int:
    return sum(last - first + 1 for first, last in runs)
