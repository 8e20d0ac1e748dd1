"""The journal's native thread: SQLite blocks the thread that calls it, and must not block the loop."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ParamSpec, Protocol, TypeVar

from gevent.event import AsyncResult

from vigiloconn.errors import BadMessage, JournalBusy, JournalDamaged, JournalFull, OutsideChange, VigiloError
from vigiloconn.interfaces import UNREADABLE, Answer, Record
from vigiloconn.journal.store import DbRetry
from vigiloconn.journal.transaction import HeldRequest, StoredRecord, Transaction, Wanted
from vigiloconn.kit.escape import printable
from vigiloconn.kit.worker import Worker
from vigiloconn.serialize import stored_route_key

log = logging.getLogger(__name__)

#: What is read back at a time.
PAGE_MESSAGES = 2000
PAGE_BYTES = 2 << 20

P = ParamSpec("P")
T = TypeVar("T")


class Pool(Protocol):
    """Where calls are run one after the other: a `Worker`, or one that runs them in line."""

    def spawn(self, func: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> AsyncResult[T]:
        """Run a call and return its answer to come."""

    def kill(self) -> None:
        """End what runs them. Blocks while a call runs."""


@dataclass(slots=True)
class JournalReply:
    """What one call brought back."""

    error: JournalFull | JournalBusy | None = None
    """Why not all was done: the new messages were not accepted then."""
    has_moved: bool = True
    """False when the holds and parks could not be done."""
    has_deleted: bool = True
    """False when the discards could not be done."""
    read_error: JournalFull | JournalBusy | None = None
    """Why not all that was wanted could be read; it is wanted still."""
    is_changed: bool = False
    """Another program has written to the file since the commit: nothing is read before that is taken in."""
    page: list[StoredRecord] | None = None
    """None when none was wanted as the call began; one may be wanted since."""
    held: dict[str, tuple[HeldRequest, list[StoredRecord]]] = field(default_factory=dict)
    has_more_to_give: bool = False
    """The disk was given back a little, and there is more of it."""
    amended: Any = None
    """What the operator's change has returned, or the error of ours that it raised; nothing is changed then."""


class JournalThread:
    """One native thread that alone touches a journal. Calls wait for it, and only the calling greenlet waits."""

    def __init__(self, journal: DbRetry, pool: Callable[[], Pool] = Worker) -> None:
        self._journal = journal
        self._new_pool = pool
        self._pool: Pool | None = None

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Return what `function` returns on the thread, or raise the error of ours that it raised."""
        result: T = outcome(self.begin(function, *args))
        return result

    def commit_and_read(
        self,
        transaction: Transaction,
        wanted: Wanted,
        amend: Callable[[DbRetry], Any] | None = None,
        gives_back: bool = False,
    ) -> Answer:
        """Begin to commit a transaction, to make an operator's change, to read back what is wanted, and where that is
        asked to give the disk back what is empty, in this order.

        Give the answer to `outcome` for the `JournalReply`. The thread finishes it whatever becomes of those that
        wait: to begin the same transaction again before its answer is there would be to append its messages twice.
        """
        return self.begin(self._commit_and_read, transaction, wanted, amend, gives_back)

    def end(self) -> None:
        """End the thread. Harmless when called twice."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.kill()

    def begin(self, function: Callable[..., Any], *args: Any) -> Answer:
        """Begin a call; give the answer to `outcome`."""
        if self._pool is None:
            self._pool = self._new_pool()
        return self._pool.spawn(_caught, function, *args)

    def _commit_and_read(
        self, transaction: Transaction, wanted: Wanted, amend: Callable[[DbRetry], Any] | None, gives_back: bool
    ) -> JournalReply:
        reply = JournalReply()
        journal = self._journal
        try:
            if transaction:
                journal.apply(transaction)
            else:
                journal.look()
        except JournalBusy as exc:
            # What is less would be locked out as well, and each attempt waits.
            reply.error = exc
            reply.has_moved = reply.has_deleted = False
        except JournalFull as exc:
            reply.error = exc
            rest = replace(transaction, appends=(), kept={})
            # Deletions first: the moves can use the room that they make.
            reply.has_deleted = self._is_applied(replace(rest, holds=(), parks=()))
            reply.has_moved = self._is_applied(replace(rest, discards=(), held_discards=()))
        if amend is not None:
            reply.amended = reply.error or self._amended(amend)
        self._read(reply, transaction, wanted)
        if gives_back and reply.error is None and not reply.is_changed:
            self._give_back(reply)
        return reply

    def _give_back(self, reply: JournalReply) -> None:
        try:
            reply.has_more_to_give = self._journal.give_back()
        except (JournalFull, JournalBusy) as exc:
            # Nobody waits for it.
            log.debug("%s: nothing is given back now", exc)
        except OutsideChange:
            reply.is_changed = True

    def _amended(self, amend: Callable[[DbRetry], Any]) -> Any:
        try:
            return amend(self._journal)
        except JournalDamaged:
            raise
        except VigiloError as exc:
            return exc

    def _is_applied(self, transaction: Transaction) -> bool:
        try:
            if transaction:
                self._journal.apply(transaction)
        except (JournalFull, JournalBusy):
            return False
        return True

    def _read(self, reply: JournalReply, transaction: Transaction, wanted: Wanted) -> None:
        journal = self._journal
        # Without room for holds and parks, reading on would gather them in memory without an end.
        may_read = reply.has_moved or len(transaction.holds) + len(transaction.parks) < 2 * PAGE_MESSAGES
        try:
            if wanted.after_id is not None and may_read:
                reply.page = journal.peek(wanted.after_id, PAGE_MESSAGES, PAGE_BYTES)
            elif wanted.after_id is not None:
                # Said, or it would be asked for again at once.
                reply.read_error = reply.error
            for exchange, asked in wanted.held.items():
                page = journal.peek_held(exchange, asked.after_id, PAGE_MESSAGES // 4, PAGE_BYTES // 4)
                reply.held[exchange] = (asked, page)
        except (JournalFull, JournalBusy) as exc:
            reply.read_error = exc
        except OutsideChange:
            # Not raised: what was committed is to be told.
            reply.is_changed = True


def readable(stored: Sequence[StoredRecord]) -> list[Record]:
    """Return a page with its route keys. A row that is no message gets `UNREADABLE`: it is parked in its turn."""
    records = []
    for row in stored:
        try:
            key = stored_route_key(row.body)
        except BadMessage as exc:
            log.error("journal: row %d is no message: %s", row.id, printable(exc))
            key = UNREADABLE
        records.append(Record(row.id, key, row.body, row.accepted_at, row.boot_s))
    return records


def outcome(answer: Answer) -> Any:
    """Wait for an answer of the thread and return it, or raise the error of ours that it holds."""
    found = answer.get()
    if isinstance(found, VigiloError):
        raise found
    return found


def _caught(function: Callable[..., Any], *args: Any) -> Any:
    """Return what `function` returns, or the error of ours that it raised: what else is raised is a mistake."""
    try:
        return function(*args)
    except VigiloError as exc:
        return exc
