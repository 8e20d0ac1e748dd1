"""The journal's side of the flow: accepts batches, keeps them safe, hands them on in order.

Knows the journal and its policies, not the bus. One greenlet owns the journal and does everything to it
in cycles, each one trip to the journal's native thread: what has gathered is committed in one
transaction, and a page is read back if the publisher has fallen behind.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable

from gevent.event import Event

from vigiloconn.errors import JournalDamaged, JournalFull
from vigiloconn.interfaces import Batch, Level, Problem, Record
from vigiloconn.journal.intake import Intake
from vigiloconn.journal.runs import FinishedIds
from vigiloconn.journal.store import DbRetry, OpenReport, Transaction
from vigiloconn.journal.thread import PAGE_MESSAGES, HeldRequest, JournalReply, JournalThread, readable
from vigiloconn.kit.ratelog import RateLimitedLog
from vigiloconn.options import ConnectorSettings, Settings
from vigiloconn.supervisor import Handler

log = logging.getLogger(__name__)

#: How long a confirmed message may stay in the journal when nothing else is to be written.
_DISCARD_LINGER_S = 0.1
#: Between attempts while the disk is full.
_FULL_RETRY_S = 1.0


class BackupProvider(Handler):
    """Makes a push producer safe and pausable: `put` on one side, `take` on the other, SQLite between.

    With durability `journal` a batch is handed on after its commit. With `overflow` it is handed on at
    once while the bus keeps up, and committed, in order, when the bus is lost, when the consumer falls
    behind, at a request for acceptance and at the stop.

    Gauges in `stats()`: queue, backup, backup_bytes, backup_in_buf, backup_out_buf, held, parked.
    """

    name = "journal"

    def __init__(self, journal: DbRetry, settings: ConnectorSettings) -> None:
        self.journal = journal
        self.report: OpenReport | None = None
        self.full = False
        """True while the disk has no room for the journal."""
        self.on_available: Callable[[], None] = lambda: None
        """Called when `take` or a held page has something new for the consumer."""
        self.bus_is_up = False
        self.accepted = 0
        self._settings = settings
        self._overflow = settings.durability == "overflow"
        self._memory_messages = settings.max_queue_size or PAGE_MESSAGES
        self._thread: JournalThread | None = None
        self._wake = Event()
        self.is_stopping = False
        """True once the stop was asked for: nothing more comes in."""
        self._intake = Intake(journal, settings, self._wake.set)
        self._group: list[Batch] = []
        self._portion: int | None = None
        self._memory: deque[Record] = deque()
        self._read_upto = 0
        self._last_id = 0
        self._uncommitted: OrderedDict[int, Record] = OrderedDict()
        self._holds: list[tuple[str, Record]] = []
        self._parks: list[tuple[str, Record, str]] = []
        self._discard_upto = 0
        self._held_discard_upto: dict[str, int] = {}
        self._discards = FinishedIds()
        self._held_discards = FinishedIds()
        self._discard_due: float | None = None
        self._page_wanted = False
        self._held_wanted: dict[str, HeldRequest] = {}
        self._held_pages: dict[str, list[Record]] = {}
        self._retry_at = 0.0
        self._full_log = RateLimitedLog(log, logging.ERROR)

    # -- life --------------------------------------------------------------------------------------

    def start_service(self) -> None:
        thread = self._thread = JournalThread(self.journal)
        self.report = thread.call(self.journal.open)
        if self.report.volatile:
            log.warning("backup_file is :memory:, as the settings say: what is not sent ends with the process")
        if self.report.taken_over:
            log.info("journal %s: %d messages are waiting", self.journal.path, self.report.taken_over)
        self._last_id = thread.call(self.journal.last_id)

    def run(self) -> None:
        while not (self.is_stopping and self._intake.is_empty() and not self._group):
            self._wait_for_work()
            self._cycle()
            if self.full and self.is_stopping:
                self._refuse_at_stop()
                break
        self._spill_all()

    def stop_service(self) -> None:
        self.is_stopping = True
        self._intake.close()
        self._wake.set()

    def close(self) -> None:
        """Discard what was confirmed since the last cycle and close the journal."""
        thread = self._thread
        if thread is None:
            return
        self._cycle()
        thread.call(self.journal.close)
        thread.end()
        self._thread = None

    @property
    def uuid(self) -> str:
        """What the ids of this journal's messages begin with."""
        return self.journal.uuid

    def held_exchanges(self) -> dict[str, int]:
        """Return the exchanges for which messages are held -> their number."""
        return self.journal.held_exchanges()

    def connection_initialized(self) -> None:
        self.bus_is_up = True

    def connection_lost(self) -> None:
        self.bus_is_up = False
        self._wake.set()

    def problems(self) -> list[Problem]:
        journal, settings = self.journal, self._settings
        found = []
        if self.full:
            found.append(Problem("disk-full", Level.CRITICAL, "no room on the disk for the journal"))
        elif journal.rows >= settings.journal_max_messages or journal.size_bytes >= settings.journal_max_bytes:
            text = f"the journal is full: {journal.rows} messages, {journal.size_bytes} bytes"
            found.append(Problem("journal-full", Level.CRITICAL, text))
        if self.report is not None and self.report.set_aside is not None:
            text = f"the journal was damaged and is set aside as {self.report.set_aside}"
            found.append(Problem("journal-damaged", Level.CRITICAL, text))
        if self.report is not None and self.report.volatile:
            text = "the journal is in memory only (backup_file = :memory:)"
            found.append(Problem("journal-volatile", Level.WARNING, text))
        if journal.parked_rows:
            found.append(Problem("messages-parked", Level.WARNING, f"{journal.parked_rows} messages are parked"))
        if dropped := sum(self._intake.dropped.values()):
            text = f"{dropped} messages were dropped as when_full says"
            found.append(Problem("messages-dropped", Level.WARNING, text))
        return found

    def stats(self) -> dict[str, float]:
        journal = self.journal
        return {
            "accepted": self.accepted,
            "dropped": sum(self._intake.dropped.values()),
            "queue": len(self._memory) + self._intake.messages,
            "backup": journal.rows,
            "backup_bytes": journal.size_bytes,
            "backup_in_buf": self._intake.messages,
            "backup_out_buf": len(self._memory),
            "held": sum(journal.held_exchanges().values()),
            "parked": journal.parked_rows,
            "parked_dropped": journal.parked_dropped,
        }

    # -- push side ---------------------------------------------------------------------------------

    def put(self, batch: Batch) -> None:
        """Take a batch; blocks while there is no room for its messages (see `when_full`).

        What is taken is in memory only until its commit: `batch.on_accepted` tells of that.
        """
        self._intake.put(batch)

    # -- pull side: called by the publisher, nothing here blocks --------------------------------------

    def take(self, limit: int) -> list[Record]:
        """Return up to `limit` oldest messages that were not taken yet. They stay stored until discarded."""
        memory = self._memory
        taken = [memory.popleft() for _ in range(min(limit, len(memory)))]
        # At 1 message, half of it would never be fallen below.
        is_low = len(memory) < max(1, self._memory_messages // 2)
        if is_low and self._read_upto < self._last_id and not self._page_wanted:
            self._page_wanted = True
            self._wake.set()
        return taken

    def age_s(self, record: Record) -> float:
        """Return the seconds since a message was accepted."""
        return max(0.0, time.time() - record.accepted_at)

    def discard(self, ids: Iterable[int]) -> None:
        """These messages of the main table are finished, in any order."""
        ids = list(ids)
        self._discards.add(ids)
        for id in ids:
            self._uncommitted.pop(id, None)
        self._discard_soon()

    def discard_held(self, ids: Iterable[int]) -> None:
        """These held messages are finished, in any order."""
        self._held_discards.add(ids)
        self._discard_soon()

    def has_fresh(self) -> bool:
        """Answer whether messages are on their way to `take`, or wait for it, that need not be read back first."""
        is_coming = bool(self._memory or self._group) or not self._intake.is_empty()
        return is_coming and not self.full and self._read_upto == self._last_id

    def discard_upto(self, id: int) -> None:
        """Every message of the main table up to `id` is finished."""
        self._discard_upto = id
        uncommitted = self._uncommitted
        while uncommitted and next(iter(uncommitted)) <= id:
            uncommitted.popitem(last=False)
        self._discard_soon()

    def discard_held_upto(self, exchange: str, id: int) -> None:
        """Every message held for `exchange` up to `id` is finished."""
        self._held_discard_upto[exchange] = id
        self._discard_soon()

    def _discard_soon(self) -> None:
        if self._discard_due is None:
            self._discard_due = time.monotonic() + _DISCARD_LINGER_S
            self._wake.set()

    def hold(self, exchange: str, records: list[Record]) -> None:
        """Move messages behind those that are held for `exchange`."""
        self._holds += [(exchange, record) for record in records]
        self._forget_uncommitted(records)
        self._wake.set()

    def park(self, exchange: str, records: list[Record], reason: str) -> None:
        """Move messages that can't be delivered to the parked table."""
        self._parks += [(exchange, record, reason) for record in records]
        self._forget_uncommitted(records)
        self._wake.set()

    def ask_held(self, exchange: str, after_id: int) -> None:
        """Read the oldest messages held for `exchange` with ids above `after_id`, holds asked for before
        included; `on_available` is called when `take_held` has them."""
        self._held_wanted[exchange] = HeldRequest(after_id)
        # The answer to an earlier request must not be taken for the answer to this one.
        self._held_pages.pop(exchange, None)
        self._wake.set()

    def take_held(self, exchange: str) -> list[Record] | None:
        """Return the page that was asked for, [] if there are no more; None while it is not there yet."""
        return self._held_pages.pop(exchange, None)

    def _forget_uncommitted(self, records: list[Record]) -> None:
        for record in records:
            self._uncommitted.pop(record.id, None)

    # -- the cycle -----------------------------------------------------------------------------------

    def _wait_for_work(self) -> None:
        # Looked at before each wait, not only told by `_wake`: a writer that waits for room in the intake
        # can't say that it is there.
        while (delay_s := self._seconds_to_work()) is None or delay_s > 0:
            self._wake.clear()
            self._wake.wait(delay_s)

    def _seconds_to_work(self) -> float | None:
        """Return after how long there is something to do, 0 for now; None if not before something comes."""
        if self.is_stopping or self._page_wanted:
            return 0.0
        if self.full:
            return max(0.0, self._retry_at - time.monotonic())
        if (
            self._group or not self._intake.is_empty() or self._holds or self._parks or self._held_wanted
            or (self._uncommitted and not self.bus_is_up)
        ):  # fmt: skip
            return 0.0
        # A discard alone waits for company.
        return None if self._discard_due is None else max(0.0, self._discard_due - time.monotonic())

    def _cycle(self) -> None:
        retry = not self.full or self.is_stopping or time.monotonic() >= self._retry_at
        if retry:
            self._intake.gather(self._group)
        group = self._group[: self._portion] if retry else []
        now = time.time()
        first_id = self._next_id()
        records = [
            Record(id, key, body, now)
            for id, (key, body) in enumerate((item for batch in group for item in batch.items), first_id)
        ]
        keep = not retry or self._keeps_in_memory(group, records)
        appends = records if not keep else []
        if self._uncommitted and not keep:
            appends = [*self._uncommitted.values(), *records]
        changes = self._changes(appends)
        try:
            reply = self._journal_thread().commit_and_read(
                changes, self._read_upto if self._page_wanted else None, self._held_wanted
            )
        except JournalDamaged as exc:
            self._start_afresh(exc)
            return
        if reply.is_written:
            self._settle_changes(changes)
        if reply.error is not None and len(group) > 1:
            # All that has gathered finds no room at once; a part of it may.
            self._portion = len(group) // 2
        elif reply.error is not None:
            self._disk_is_full(reply.error, retry)
        elif retry:
            self._portion = self._portion and (2 * self._portion if len(group) < len(self._group) else None)
            self._settle_group(group, records, keep)
            self.full = self._intake.disk_is_full = False
            self._intake.look_again()
        self._settle_pages(reply)

    def _journal_thread(self) -> JournalThread:
        assert self._thread is not None, "start_service() comes first"
        return self._thread

    def _next_id(self) -> int:
        return max(self.journal.next_id, self._last_id + 1)

    def _keeps_in_memory(self, group: list[Batch], records: list[Record]) -> bool:
        """Answer whether this group may skip its commit: durability `overflow`, and the bus keeps up."""
        return (
            self._overflow and self.bus_is_up and not self.is_stopping
            and self._read_upto == self._last_id
            and len(self._memory) + len(records) <= self._memory_messages
            and len(self._uncommitted) + len(records) <= 2 * self._memory_messages
            and not any(batch.on_accepted for batch in group)
        )  # fmt: skip

    def _changes(self, appends: list[Record]) -> Transaction:
        return Transaction(
            appends=appends,
            holds=list(self._holds),
            parks=list(self._parks),
            discards=self._discards.runs(),
            held_discards=self._held_discards.runs(),
            discard_upto=self._discard_upto,
            held_discard_upto=dict(self._held_discard_upto),
        )

    def _settle_changes(self, changes: Transaction) -> None:
        """Take off the lists what a transaction has done; more may have been added meanwhile."""
        del self._holds[: len(changes.holds)]
        del self._parks[: len(changes.parks)]
        if self._discard_upto == changes.discard_upto:
            self._discard_upto = 0
        for exchange, upto in changes.held_discard_upto.items():
            if self._held_discard_upto.get(exchange) == upto:
                del self._held_discard_upto[exchange]
        self._discards.forget(changes.discards)
        self._held_discards.forget(changes.held_discards)
        is_done = not (self._discard_upto or self._held_discard_upto or self._discards or self._held_discards)
        self._discard_due = None if is_done else time.monotonic() + _DISCARD_LINGER_S

    def _settle_group(self, group: list[Batch], records: list[Record], keep: bool) -> None:
        if not keep:
            self._uncommitted.clear()
        if records:
            at_head = self._read_upto == self._last_id
            self._last_id = records[-1].id
            if keep:
                self._uncommitted.update((record.id, record) for record in records)
                # The journal counts ids that it has not seen as used, so that none comes again after a restart.
                self.journal.next_id = self._last_id + 1
            if keep or (at_head and len(self._memory) + len(records) <= self._memory_messages):
                self._memory.extend(records)
                self._read_upto = self._last_id
            self.accepted += len(records)
            self.on_available()
        for batch in group:
            self._intake.accepted(batch)
            if batch.on_accepted is not None:
                batch.on_accepted()
        del self._group[: len(group)]

    def _settle_pages(self, reply: JournalReply) -> None:
        if reply.page is not None:
            self._page_wanted = False
            if reply.page:
                self._read_upto = reply.page[-1].id
                self._memory.extend(readable(reply.page))
                self.on_available()
            else:
                # Everything between was discarded or moved.
                self._read_upto = self._last_id
        for exchange, (asked, stored) in reply.held.items():
            if self._held_wanted.get(exchange) is asked:
                del self._held_wanted[exchange]
                self._held_pages[exchange] = readable(stored)
        if reply.held:
            self.on_available()

    # -- bad weather -----------------------------------------------------------------------------------

    def _disk_is_full(self, error: JournalFull, is_retry: bool) -> None:
        """Nothing of the group was accepted: it stays in hand, and so does what could not be moved or discarded."""
        if not self.full:
            # Limited as well: where publishing makes a little room again and again it begins again and again.
            self._full_log("%s: nothing more is accepted until there is room; publishing goes on", error)
        else:
            self._full_log("%s: tried again every %.0f s", error, _FULL_RETRY_S)
        self.full = self._intake.disk_is_full = True
        if is_retry:
            # What else goes to the journal in between must not put the next attempt off.
            self._retry_at = time.monotonic() + _FULL_RETRY_S

    def _start_afresh(self, error: JournalDamaged) -> None:
        """Set the damaged file aside. What is in memory goes on, and into the new file."""
        aside = self._journal_thread().call(self.journal.start_afresh, str(error))
        self.report = OpenReport(aside, str(error), 0, False)
        # What was only in the old file stays there; ids go on above.
        self._read_upto = self._last_id
        self._page_wanted = False
        self.on_available()

    def _refuse_at_stop(self) -> None:
        lost = sum(len(batch.items) for batch in self._group) + self._intake.messages
        if lost:
            log.error("the disk is full: %d messages that were read could not be accepted before the stop", lost)

    def _spill_all(self) -> None:
        if self._uncommitted and not self.full:
            self._cycle()


def backupprovider_factory(settings: Settings) -> BackupProvider:
    """Return a provider on the journal that `settings` name. Opens nothing yet."""
    conn = settings.runtime
    journal = DbRetry(
        conn.backup_file,
        table=conn.backup_table,
        synchronous="normal" if conn.synchronous == "normal" else "full",
    )
    return BackupProvider(journal, conn)
