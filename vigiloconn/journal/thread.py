"""Trips to the journal's native thread: SQLite blocks the thread that calls it, and must not block the loop."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from gevent.threadpool import ThreadPool

from vigiloconn.errors import BadMessage, JournalFull, VigiloError
from vigiloconn.interfaces import UNREADABLE, Record
from vigiloconn.journal.store import DbRetry, StoredRecord, Transaction
from vigiloconn.serialize import stored_route_key

log = logging.getLogger(__name__)

#: What is read back at a time, and at most kept in memory ahead of the publisher.
PAGE_MESSAGES = 2000
PAGE_BYTES = 2 << 20

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class HeldRequest:
    """One request for a held page; told from others by identity, since one may come while a trip answers another."""

    after_id: int


@dataclass(slots=True)
class JournalReply:
    """What one trip brought back."""

    error: JournalFull | None = None
    is_written: bool = True
    """False when holds, parks and discards could not be done either."""
    page: list[StoredRecord] | None = None
    """None when none was asked for as the trip began; one may have been asked for since."""
    held: dict[str, tuple[HeldRequest, list[StoredRecord]]] = field(default_factory=dict)


class JournalThread:
    """One native thread that alone touches a journal. Calls wait for it, and only the calling greenlet waits."""

    def __init__(self, journal: DbRetry) -> None:
        self._journal = journal
        self._pool: Any = ThreadPool(1)

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Return what `function` returns on the thread, or raise the error of ours that it raised."""
        outcome = self._pool.apply(_outcome, (function, *args))
        if isinstance(outcome, VigiloError):
            raise outcome
        result: T = outcome
        return result

    def commit_and_read(
        self, changes: Transaction, page_after: int | None, held_wanted: Mapping[str, HeldRequest]
    ) -> JournalReply:
        """Commit `changes`, then read a page behind `page_after` (None: none) and the held pages.

        Raises `JournalDamaged`; a full disk is told in the result.
        """
        return self.call(self._commit_and_read, changes, page_after, dict(held_wanted))

    def end(self) -> None:
        """End the thread."""
        self._pool.kill()

    def _commit_and_read(
        self, changes: Transaction, page_after: int | None, held_wanted: dict[str, HeldRequest]
    ) -> JournalReply:
        reply = JournalReply()
        journal = self._journal
        try:
            if changes.appends or _has_more(changes):
                journal.apply(changes)
        except JournalFull as exc:
            reply.error = exc
            reply.is_written = bool(changes.appends) and self._applied_without_appends(changes)
        # Without room for holds and parks, reading on would gather them in memory without an end.
        may_read = reply.is_written or len(changes.holds) + len(changes.parks) < 2 * PAGE_MESSAGES
        if page_after is not None and may_read:
            reply.page = journal.peek(page_after, PAGE_MESSAGES, PAGE_BYTES)
        if reply.is_written:
            for exchange, asked in held_wanted.items():
                page = journal.peek_held(exchange, asked.after_id, PAGE_MESSAGES // 4, PAGE_BYTES // 4)
                reply.held[exchange] = (asked, page)
        return reply

    def _applied_without_appends(self, changes: Transaction) -> bool:
        if not _has_more(changes):
            # To commit nothing would cost the reserve all the same.
            return True
        try:
            self._journal.apply(replace(changes, appends=()))
        except JournalFull:
            return False
        return True


def _has_more(changes: Transaction) -> bool:
    """Answer whether there is something in it besides appends."""
    return bool(
        changes.holds or changes.parks or changes.discards or changes.held_discards
        or changes.discard_upto or changes.held_discard_upto
    )  # fmt: skip


def readable(stored: Sequence[StoredRecord]) -> list[Record]:
    """Return a page with its route keys. A row that is no message gets `UNREADABLE`: it is parked in its turn."""
    records = []
    for row in stored:
        try:
            key = stored_route_key(row.body)
        except BadMessage as exc:
            log.error("journal: row %d is no message: %s", row.id, exc)
            key = UNREADABLE
        records.append(Record(row.id, key, row.body, row.accepted_at))
    return records


def _outcome(function: Callable[..., Any], *args: Any) -> Any:
    """Return what `function` returns, or the error of ours that it raised: gevent prints what a thread lets out."""
    try:
        return function(*args)
    except VigiloError as exc:
        return exc
