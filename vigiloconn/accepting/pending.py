"""What waits to be written: moves to other tables, finished ids, and messages that skipped their commit.

Pure bookkeeping: knows what a transaction is made of and when it is due, not how it is committed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from vigiloconn.interfaces import Record
from vigiloconn.journal.runs import FinishedIds, Run, merged, runs_of
from vigiloconn.journal.transaction import Transaction

#: How long a finished message may stay in the journal when nothing else is to be written.
DISCARD_LINGER_S = 0.1


class Pending:
    """Gathers what the next transaction does beside accepting new messages.

    `transaction` copies and `settle` removes, so that what gathers in between is not lost, and a transaction that
    failed is simply built again. One is under way at a time.
    """

    def __init__(self) -> None:
        self._holds: list[tuple[str, Record]] = []
        self._parks: list[tuple[str, Record, str]] = []
        self._discards = FinishedIds()
        self._held_discards = FinishedIds()
        self._finished_holds: set[int] = set()
        self._uncommitted: dict[int, Record] = {}
        self._is_committing = False
        self._discard_due_s: float | None = None

    @property
    def uncommitted(self) -> int:
        """Messages that were handed on without a commit and are not finished."""
        return len(self._uncommitted)

    def hold(self, exchange: str, records: Iterable[Record]) -> None:
        """Move messages to the held table, behind those of their exchange."""
        for record in records:
            self._holds.append((exchange, record))
            self._uncommitted.pop(record.id, None)

    def park(self, exchange: str, records: Iterable[Record], reason: str) -> None:
        """Move messages to the parked table."""
        for record in records:
            self._parks.append((exchange, record, reason))
            self._uncommitted.pop(record.id, None)

    def discard(self, ids: Iterable[int], now_s: float) -> None:
        """Delete messages of the main table, or never write them."""
        uncommitted = self._uncommitted
        if uncommitted:
            # One that a transaction under way may be writing just now has to be deleted all the same.
            ids = [id for id in ids if uncommitted.pop(id, None) is None or self._is_committing]
            if not ids:
                return
        self._discards.add(ids)
        self._discard_soon(now_s)

    def discard_held(self, ids: Iterable[int], now_s: float) -> None:
        """Delete held messages, or such as were not yet moved to the held table."""
        ids = list(ids)
        self._held_discards.add(ids)
        if self._holds:
            self._finished_holds.update({record.id for _, record in self._holds}.intersection(ids))
        self._discard_soon(now_s)

    def keep(self, records: Iterable[Record]) -> None:
        """Remember messages that are handed on without a commit."""
        self._uncommitted.update((record.id, record) for record in records)

    def seconds_to_work(self, now_s: float) -> float | None:
        """Return after how long a transaction is due, 0 for now; None while there is nothing for one."""
        if self._holds or self._parks:
            return 0.0
        # A discard alone waits for company.
        return None if self._discard_due_s is None else max(0.0, self._discard_due_s - now_s)

    def transaction(
        self, appends: Sequence[Record], with_uncommitted: bool, kept: Mapping[str, str | None]
    ) -> Transaction:
        """Return one transaction that does all that waits and appends these messages, behind the uncommitted ones.

        `kept` are the texts that go with the messages.
        """
        if self._finished_holds:
            self._holds = [hold for hold in self._holds if hold[1].id not in self._finished_holds]
            self._discards.add(self._finished_holds)
            self._finished_holds = set()
        self._is_committing = with_uncommitted and bool(self._uncommitted)
        if self._is_committing:
            appends = [*self._uncommitted.values(), *appends]
        return Transaction(
            appends=appends,
            kept=kept,
            holds=tuple(self._holds),
            parks=tuple(self._parks),
            discards=self._discards.runs(),
            held_discards=self._held_discards.runs(),
        )

    def settle(
        self, done: Transaction, now_s: float, *, has_appended: bool, has_moved: bool = True, has_deleted: bool = True
    ) -> None:
        """Forget what was done of a transaction; the rest waits for the next one."""
        if has_appended:
            for record in done.appends if self._is_committing else ():
                self._uncommitted.pop(record.id, None)
        self._is_committing = False
        if has_moved:
            del self._holds[: len(done.holds)]
            del self._parks[: len(done.parks)]
        if has_deleted:
            self._discards.forget(done.discards)
            self._held_discards.forget(done.held_discards)
        self._discard_due_s = None
        if self._discards or self._held_discards:
            self._discard_soon(now_s)

    def leaving(self) -> list[Run]:
        """Return what is finished or moved but still in the main table."""
        moves = [*(record.id for _, record in self._holds), *(record.id for _, record, _ in self._parks)]
        return merged(self._discards.runs(), runs_of(moves))

    def unmoved(self, exchange: str, after_id: int, limit: int) -> list[Record]:
        """Return the oldest messages with ids above `after_id` that are not yet moved behind those of `exchange`."""
        waiting = [record for name, record in self._holds if name == exchange and record.id > after_id]
        return sorted(waiting, key=lambda record: record.id)[:limit]

    def give_back(self) -> None:
        """A transaction has failed: all that it was to do still waits."""
        self._is_committing = False

    def _discard_soon(self, now_s: float) -> None:
        if self._discard_due_s is None:
            self._discard_due_s = now_s + DISCARD_LINGER_S
