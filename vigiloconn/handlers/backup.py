"""The journal's side of the flow: accepts batches, keeps them safe, hands them on in order.

Knows the journal and its policies, not the bus. One greenlet owns the journal and does everything to it
in cycles, each one call of the journal's native thread: what has gathered is committed in one
transaction, and a page is read back if the publisher has fallen behind.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import gevent
from gevent.event import Event

from vigiloconn.accepting.amendments import Amendment, Amendments
from vigiloconn.accepting.condition import Condition
from vigiloconn.accepting.gathering import Gathering
from vigiloconn.accepting.intake import Intake
from vigiloconn.accepting.obstacle import RETRY_S, Obstacle
from vigiloconn.accepting.pending import DISCARD_LINGER_S, Pending
from vigiloconn.accepting.readahead import ReadAhead
from vigiloconn.errors import (
    BadMessage,
    BadMoment,
    JournalBusy,
    JournalDamaged,
    JournalFull,
    OutsideChange,
    StartError,
    VigiloError,
)
from vigiloconn.interfaces import Answer, Batch, Problem, Record
from vigiloconn.journal.runs import merged
from vigiloconn.journal.store import DbRetry, OpenReport, Transaction
from vigiloconn.journal.thread import PAGE_MESSAGES, JournalReply, JournalThread, outcome, readable
from vigiloconn.kit.beat import seconds_to_beat
from vigiloconn.kit.histogram import Histogram
from vigiloconn.kit.ratelog import RateLimitedLog
from vigiloconn.options import ConnectorSettings, Settings
from vigiloconn.serialize import stored_route_key
from vigiloconn.supervisor import Handler

log = logging.getLogger(__name__)

#: How long the stop waits for the thread's last word. A commit under way is worth more than the stop's budget.
_CLOSE_S = 30.0
#: How often an idle journal looks whether another program has written to it.
_LOOK_S = 10.0
#: How long one step of giving the disk back is behind the other: the journal is to have most of its thread.
_GIVE_BACK_S = 0.05


@dataclass(slots=True, eq=False)
class _Step:
    """What one cycle has given to the thread."""

    group: list[Batch]
    records: list[Record]
    transaction: Transaction
    is_kept: bool
    """The records skip their commit."""
    may_accept: bool
    """New messages were looked for; False while a full disk is left alone."""
    amend: Amendment | None
    answer: Answer


class BackupProvider(Handler):
    """Makes a push producer safe and pausable: `put` on one side, `take` on the other, SQLite between.

    With durability `journal` a batch is handed on after its commit. With `overflow` it is handed on at
    once while the bus keeps up, and committed, in order, when the bus is lost, when the consumer falls
    behind, at a request for acceptance and at the stop.

    Gauges in `stats()`: queue, backup, backup_bytes, backup_in_buf, backup_out_buf, held, parked.
    `monotonic` gives seconds; `cycle` may be called instead of letting `run` do it.
    """

    name = "journal"

    def __init__(
        self,
        journal: DbRetry,
        settings: ConnectorSettings,
        *,
        thread: JournalThread | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.journal = journal
        self.report: OpenReport | None = None
        """What was found when the journal was opened; None before."""
        self.on_available: Callable[[], None] = lambda: None
        """Called when `take` or a held page has something new for the consumer."""
        self.accepted = 0
        self.is_stopping = False
        """True once the stop was asked for: nothing more comes in."""
        self.acceptance = Histogram()
        """Seconds from `put` to the commit, for each message."""
        self._settings = settings
        self._monotonic = monotonic
        self._thread = thread or JournalThread(journal)
        self._wake = Event()
        self._memory_messages = settings.max_queue_size or PAGE_MESSAGES
        self._intake = Intake(journal, settings, self._wake.set, monotonic)
        self._gathering = Gathering(settings.commit_delay_ms / 1000)
        self._pending = Pending()
        self._ahead = ReadAhead(self._memory_messages)
        self._obstacle = Obstacle(monotonic)
        self._look_at_s = 0.0
        self._give_back_at_s = 0.0
        self._accepted_at_s = 0.0
        self._awake_at_s = 0.0
        """When `run` looks by itself at what there is to do."""
        self._read_at_s = 0.0
        self._read_log = RateLimitedLog(log, clock=monotonic)
        self._bus_is_up = False
        self._step: _Step | None = None
        self._taking_in: Answer | None = None
        self._amendments = Amendments(self._wake.set)
        self._condition = Condition(journal, settings, self._intake, self._obstacle, monotonic)

    # -- life --------------------------------------------------------------------------------------

    def start_service(self) -> None:
        report = self._thread.call(self.journal.open)
        self._thread.call(self.journal.lay_out_log)
        if report.volatile:
            log.warning("backup_file is :memory:, as the settings say: what is not sent ends with the process")
        if report.taken_over:
            log.info("journal %s: %d messages are waiting", self.journal.path, report.taken_over)
        self._ahead.last_id = self._thread.call(self.journal.last_id)
        self.report = report

    def run(self) -> None:
        while not (self.is_stopping and self._intake.is_empty()):
            self._wait_for_work()
            self.cycle()
            # A busy journal is tried for as long as the stop has time.
            if self._obstacle.is_full and self.is_stopping:
                return
        if self._pending.uncommitted:
            self.cycle()

    def stop_service(self) -> None:
        self.is_stopping = True
        self._amendments.refuse_all(BadMoment("the connector is stopping"))
        self._intake.close()
        self._wake.set()

    def close(self) -> None:
        """Discard what was confirmed since the last cycle and close the journal."""
        if self.report is None:
            return
        self.report = None
        try:
            gevent.with_timeout(_CLOSE_S, self._close)
        except gevent.Timeout:
            log.error("journal %s: the disk does not answer: left as after a kill", self.journal.path)

    def _close(self) -> None:
        self.cycle()
        if unaccepted := self._intake.messages + self._pending.uncommitted:
            log.error("%d messages that were read could not be accepted before the stop", unaccepted)
        self._thread.call(self.journal.close)
        self._thread.end()

    @property
    def uuid(self) -> str:
        """What the ids of this journal's messages begin with."""
        return self.journal.uuid

    def is_alive(self, timeout_s: float) -> bool:
        """Answer whether the journal's thread takes its turns. Waits for that, at most `timeout_s`."""
        if self.report is None:
            return False
        turn = self._thread.begin(_nothing)
        turn.wait(timeout_s)
        return turn.ready()

    def refusal(self) -> str:
        """Return why no message is accepted now, "" where they are."""
        if self.is_stopping or self.report is None:
            return "the connector is stopping" if self.is_stopping else "the journal is not open"
        if (problem := self._obstacle.problem()) is not None:
            return problem.text
        return "" if self._intake.has_room() else "the journal is full"

    def held_exchanges(self) -> dict[str, int]:
        """Return the exchanges for which messages are held -> their number."""
        return self.journal.held_exchanges()

    def readdress_held(self, publications: str, exchange_of: Callable[[str], str]) -> None:
        """Let what was held before the start follow the settings; `exchange_of` gives the exchange of a type.

        `publications` is what the settings say, as a text: nothing is done while it stays the same. Raises `StartError`
        while the journal is not open.
        """
        if self.report is None:
            raise StartError(f"journal {self.journal.path}: not open: add it to the supervisor before the publisher")

        def exchange_of_body(body: bytes) -> str | None:
            try:
                return exchange_of(stored_route_key(body).type)
            except BadMessage:
                return None

        try:
            moved = self._thread.call(self.journal.readdress_held, publications, exchange_of_body)
        except (JournalFull, JournalBusy, JournalDamaged) as exc:
            log.warning("held messages stay with the exchanges of before: %s", exc)
        else:
            if moved:
                log.warning("%d held messages follow [publications] to another exchange", moved)

    def kept(self, prefix: str) -> dict[str, str]:
        """Return the texts that were kept with accepted batches, those whose names begin with `prefix`.

        Call it before the part lives that keeps them: what is on its way to the journal is not among them.
        """
        found: dict[str, str] = self._thread.call(self.journal.kept, prefix)
        return found

    def is_synced(self) -> bool:
        """Answer whether all that was accepted before is on the disk, and would outlive a power cut. May block."""
        try:
            return self.journal.syncs_commits or bool(self._thread.call(self.journal.sync))
        except (JournalFull, JournalBusy, JournalDamaged):
            return False

    def connection_initialized(self) -> None:
        self._bus_is_up = True

    def connection_lost(self) -> None:
        self._bus_is_up = False
        self._wake.set()

    def problems(self) -> list[Problem]:
        return self._condition.problems(self.report, self.why_waiting)

    def why_waiting(self) -> str:
        """Return why a writer waits for the acceptance of what it wrote."""
        return self.refusal() or "the journal's disk is slow"

    def details(self) -> dict[str, Any]:
        return self._condition.details(self.report)

    def stats(self) -> dict[str, float]:
        journal = self.journal
        return {
            "accepted": self.accepted,
            "dropped": sum(self._intake.dropped.values()),
            "queue": len(self._ahead) + self._intake.messages,
            "backup": journal.rows,
            "backup_bytes": journal.size_bytes,
            "backup_in_buf": self._intake.messages,
            "backup_out_buf": len(self._ahead),
            "held": sum(journal.held_exchanges().values()),
            "parked": journal.parked_rows,
            "all_rows": journal.all_rows,
            "all_bytes": journal.all_bytes,
            "writers_waiting": len(self._intake.waiting_since),
        }

    # -- push side ---------------------------------------------------------------------------------

    def put(self, batch: Batch) -> None:
        """Take a batch; blocks while there is no room for its messages (see `when_full`).

        What is taken is in memory only until its commit: `batch.on_accepted` tells of that.
        """
        self._intake.put(batch)

    # -- an operator's changes ---------------------------------------------------------------------

    def amend(self, change: Callable[[DbRetry, int], Any], timeout_s: float = 30.0) -> Any:
        """Let `change` alter what is stored, between two transactions; wait for it and return what it returns.

        It is called on the journal's thread with the journal and the id up to which messages of the main table were
        read: those are under way, and not to be touched. What it adds is read in its turn. Make it short: everything
        waits for it. Raises `BadMoment`, `JournalFull`, `JournalBusy`, or another error of ours that it raised.
        """
        if self.is_stopping or self.report is None:
            raise BadMoment("the connector is stopping" if self.is_stopping else "the journal is not open")
        return self._amendments.ask(change, timeout_s)

    def withdraw(self, is_meant: Callable[[Record], bool]) -> int:
        """Discard what was read ahead of the publisher, was not taken and is meant; return how many."""
        ids = self._ahead.withdraw(is_meant)
        if ids:
            self.discard(ids)
        return len(ids)

    # -- pull side: called by the publisher, nothing here blocks --------------------------------------

    def take(self, limit: int) -> list[Record]:
        """Return up to `limit` oldest messages that were not taken yet. They stay stored until discarded."""
        taken = self._ahead.take(limit)
        if self._ahead.wants_any():
            self._wake.set()
        return taken

    def oldest_in_memory_s(self) -> float:
        """Return the age of the oldest message that was read ahead or not yet handed on, 0 where there is none."""
        first = self._ahead.first()
        return self.age_s(first) if first is not None else 0.0

    def age_s(self, record: Record) -> float:
        """Return the seconds since a message was accepted, whatever the wall clock did meanwhile."""
        return self.journal.clock.age_s(record)

    def discard(self, ids: Iterable[int]) -> None:
        """These messages of the main table are finished, in any order."""
        ids = list(ids)
        self._ahead.finish(ids)
        self._pending.discard(ids, self._monotonic())
        self._wake_for_discards()

    def discard_held(self, ids: Iterable[int]) -> None:
        """These held messages are finished, in any order."""
        self._pending.discard_held(ids, self._monotonic())
        self._wake_for_discards()

    def _wake_for_discards(self) -> None:
        # They ride with the next commit, or wait for company: often `run` wakes up before they are due.
        if self._monotonic() + DISCARD_LINGER_S < self._awake_at_s:
            self._wake.set()

    def has_more(self) -> bool:
        """Answer whether `take` may give something, at once or after it was asked to."""
        return len(self._ahead) > 0 or not self._ahead.is_at_end

    def has_fresh(self) -> bool:
        """Answer whether messages are on their way to `take`, or wait for it, that need not be read back first."""
        is_coming = len(self._ahead) > 0 or not self._intake.is_empty()
        return is_coming and self._ahead.is_at_end and not self._obstacle

    def hold(self, exchange: str, records: Iterable[Record]) -> None:
        """Move messages behind those that are held for `exchange`."""
        records = list(records)
        self._ahead.finish(record.id for record in records)
        self._pending.hold(exchange, records)
        self._wake.set()

    def park(self, exchange: str, records: Iterable[Record], reason: str) -> None:
        """Move messages that can't be delivered to the parked table."""
        records = list(records)
        self._ahead.finish(record.id for record in records)
        self._pending.park(exchange, records, reason)
        self._wake.set()

    def ask_held(self, exchange: str, after_id: int) -> None:
        """Read the oldest messages held for `exchange` with ids above `after_id`, holds asked for before
        included; `on_available` is called when `take_held` has them."""
        self._ahead.ask_held(exchange, after_id)
        self._wake.set()

    def take_held(self, exchange: str) -> list[Record] | None:
        """Return the page that was asked for, [] if there are no more; None while it is not there yet."""
        return self._ahead.take_held(exchange)

    # -- the cycle -----------------------------------------------------------------------------------

    def cycle(self) -> None:
        """Commit what has gathered, read back what is wanted, and tell those whom it concerns.

        May be ended while it waits for the thread: the next cycle takes up what that has done meanwhile.
        """
        for _ in range(2):
            if self._taking_in is None and self._is_done():
                return
            # Another program has written to the journal: that comes first, and then what was to be done.
            if not self._is_taken_in():
                return

    def _is_done(self) -> bool:
        """Take one step, or take up one that was begun. False when `_taking_in` was begun in its place."""
        step = self._step or self._begin()
        if step is None:
            return True
        self._step = step
        step.answer.wait()
        # No switch from here to the end: what the thread has done and what is known of it must not part.
        self._step = None
        try:
            reply: JournalReply = outcome(step.answer)
        except JournalDamaged as exc:
            self._pending.give_back()
            if step.amend is not None:
                step.amend.answer.set(exc)
            self._start_afresh(exc)
        except OutsideChange:
            self._pending.give_back()
            if step.amend is not None:
                self._amendments.put_back(step.amend)
            self._begin_to_take_in()
        else:
            self._settle(step, reply)
            if reply.is_changed:
                self._begin_to_take_in()
        return self._taking_in is None

    def _wait_for_work(self) -> None:
        # Looked at before each wait, not only told by `_wake`: a writer that waits for room in the intake
        # can't say that it is there.
        while (delay_s := self._seconds_to_work()) > 0:
            self._wake.clear()
            now_s = self._monotonic()
            # What was accepted a moment ago is finished soon: to look then costs less than to be woken by each.
            if (soon_s := self._accepted_at_s + DISCARD_LINGER_S - now_s) > 0:
                delay_s = min(delay_s, soon_s)
            self._awake_at_s = now_s + delay_s
            self._wake.wait(delay_s)

    def _seconds_to_work(self) -> float:
        """Return after how long there is something to do, 0 for now."""
        if self.is_stopping or self._amendments:
            return 0.0
        delay_s = self._seconds_to_write()
        return min(delay_s, max(0.0, self._read_at_s - self._monotonic())) if self._ahead.wants_any() else delay_s

    def _seconds_to_write(self) -> float:
        if self._obstacle:
            return self._obstacle.seconds_to_retry()
        if self._pending.uncommitted and not self._bus_is_up:
            return 0.0
        now_s = self._monotonic()
        due_s = self._pending.seconds_to_work(now_s)
        delay_s = max(0.0, self._look_at_s - now_s) if due_s is None else due_s
        return delay_s if self._intake.is_empty() else min(delay_s, self._seconds_to_commit(now_s))

    def _seconds_to_commit(self, now_s: float) -> float:
        messages, is_urgent = self._intake.messages, self._intake.is_urgent
        return self._gathering.seconds_to_commit(now_s, messages, is_urgent=is_urgent)

    def _begin(self) -> _Step | None:
        """Give the thread what has gathered; None where that needs no commit, and nothing else is to be done."""
        may_accept = self.is_stopping or self._obstacle.seconds_to_retry() == 0
        group = self._intake.next_group() if may_accept else []
        now = self.journal.clock.now()
        # Numbered before the commit, so that what skips it has its number too.
        first_id = max(self.journal.next_id, self._ahead.last_id + 1)
        items = group[0].items if len(group) == 1 else [item for batch in group for item in batch.items]
        records = [Record(id, key, body, *now) for id, (key, body) in enumerate(items, first_id)]
        is_kept = not may_accept or self._may_skip_commit(group, records)
        if is_kept and records:
            # The journal counts ids that it has not seen as used: none is given to another message, nor again later.
            self.journal.next_id = records[-1].id + 1
        now_s = self._monotonic()
        if is_kept and records and not self._is_thread_wanted(now_s):
            self._accept(group, records, is_kept=True)
            return None
        # Of these batches and no others: what is built anew after an error may have fewer.
        texts = {name: text for batch in group for name, text in batch.kept.items()}
        transaction = self._pending.transaction([] if is_kept else records, not is_kept, texts)
        self._look_at_s = now_s + seconds_to_beat(now_s, _LOOK_S)
        if transaction.accepts:
            self._gathering.began(now_s)
        amend = self._next_amendment(is_kept)
        answer = self._thread.commit_and_read(
            transaction, self._ahead.wanted(), self._change(amend), gives_back=self._may_give_back(now_s)
        )
        return _Step(group, records, transaction, is_kept, may_accept, amend, answer)

    def _may_give_back(self, now_s: float) -> bool:
        if now_s < self._give_back_at_s or self.is_stopping:
            return False
        self._give_back_at_s = now_s + seconds_to_beat(now_s, _LOOK_S)
        return True

    def _change(self, amendment: Amendment | None) -> Callable[[DbRetry], Any] | None:
        if amendment is None:
            return None
        change, read_upto = amendment.change, self._ahead.read_upto
        return lambda journal: change(journal, read_upto)

    def _next_amendment(self, is_kept: bool) -> Amendment | None:
        if not self._amendments:
            return None
        amendment = self._amendments.next()
        if is_kept and self._pending.uncommitted:
            # What it adds must come behind them in the file.
            amendment.answer.set(BadMoment("the journal does not accept now", soon=True))
            return None
        return amendment

    def _is_thread_wanted(self, now_s: float) -> bool:
        """Answer whether something beside new messages is due."""
        is_due = self._pending.seconds_to_work(now_s) == 0.0 or now_s >= self._look_at_s
        return is_due or bool(self._obstacle) or self._ahead.wants_any()

    def _may_skip_commit(self, group: list[Batch], records: list[Record]) -> bool:
        """Answer whether this group may go without a commit: durability `overflow`, and the bus keeps up."""
        return (
            self._settings.durability == "overflow" and self._bus_is_up and not self.is_stopping
            and not self._amendments
            and self._ahead.has_room(len(records))
            and self._pending.uncommitted + len(records) <= 2 * self._memory_messages
            and not any(batch.on_accepted or batch.kept for batch in group)
        )  # fmt: skip

    def _settle(self, step: _Step, reply: JournalReply) -> None:
        """Take up what the thread has done."""
        self._pending.settle(
            step.transaction, self._monotonic(), has_appended=reply.error is None,
            has_moved=reply.has_moved, has_deleted=reply.has_deleted,
        )  # fmt: skip
        if reply.error is None:
            if step.may_accept:
                self._accept(step.group, step.records, is_kept=step.is_kept)
        # All that has gathered finds no room at once; a part of it may.
        elif isinstance(reply.error, JournalBusy) or not self._intake.try_half(step.group):
            self._obstacle.met(reply.error, was_tried=step.may_accept)
            self._intake.disk_is_full = self._obstacle.is_full
        if step.amend is not None:
            self._take_amended(step.amend, reply)
        if reply.has_more_to_give:
            self._give_back_at_s = self._monotonic() + _GIVE_BACK_S
            self._look_at_s = min(self._look_at_s, self._give_back_at_s)
        self._take_pages(reply)

    def _take_amended(self, amendment: Amendment, reply: JournalReply) -> None:
        if isinstance(reply.amended, OutsideChange):
            # That is taken in at once, and then its turn comes.
            reply.is_changed = True
            self._amendments.put_back(amendment)
            return
        if not isinstance(reply.amended, VigiloError):
            # What it has added stands behind all others.
            self._ahead.last_id = max(self._ahead.last_id, self.journal.written_upto)
            self._intake.look_again()
            self.on_available()
        amendment.answer.set(reply.amended)

    def _accept(self, group: list[Batch], records: list[Record], *, is_kept: bool) -> None:
        """These messages are in the journal, or may go without it."""
        self._intake.accepted(group)
        self._obstacle.passed()
        self._intake.disk_is_full = False
        if records:
            if is_kept:
                self._pending.keep(records)
            self._ahead.add_new(records, must_keep=is_kept)
            self.accepted += len(records)
            self._accepted_at_s = self._monotonic()
            self.on_available()
        now_s = self._monotonic()
        for batch in group:
            self.acceptance.observe(now_s - batch.put_at_s, len(batch.items))
            if batch.on_accepted is not None:
                batch.on_accepted()
        self._intake.look_again()

    def _take_pages(self, reply: JournalReply) -> None:
        if reply.read_error is not None:
            self._read_at_s = self._monotonic() + RETRY_S
            self._read_log("%s: what waits can't be read back; tried again in %.0f s", reply.read_error, RETRY_S)
        if reply.page is not None:
            self._ahead.add_page(readable(reply.page), self._ahead.last_id)
        for exchange, (asked, stored) in reply.held.items():
            page = readable(stored)
            if not reply.has_moved:
                page = self._with_unmoved(exchange, asked.after_id, page)
            self._ahead.add_held_page(exchange, asked, page)
        if reply.page or reply.held:
            self.on_available()

    def _with_unmoved(self, exchange: str, after_id: int, page: list[Record]) -> list[Record]:
        """Add to a held page what a full disk keeps out of its table, but not from the bus: it goes on from memory."""
        limit = PAGE_MESSAGES // 4
        unmoved = self._pending.unmoved(exchange, after_id, limit)
        if not page:
            return unmoved
        # Behind the page there may be more in the table; before its end stands what an operator has put back.
        between = [record for record in unmoved if record.id < page[-1].id]
        return sorted([*page, *between], key=lambda record: record.id)[:limit]

    def _begin_to_take_in(self) -> None:
        known = merged(self._ahead.unfinished(), self._pending.leaving())
        self._taking_in = self._thread.begin(self.journal.take_in, self._ahead.read_upto, known)

    def _is_taken_in(self) -> bool:
        """Let the messages that another program has put into the journal be read in their turn."""
        answer = self._taking_in
        assert answer is not None
        answer.wait()
        self._taking_in = None
        try:
            self._ahead.last_id = outcome(answer)
        except JournalDamaged as exc:
            self._start_afresh(exc)
            return False
        except (JournalFull, JournalBusy) as exc:
            self._obstacle.met(exc, was_tried=True)
            # Nor is anything read before.
            self._read_at_s = self._monotonic() + RETRY_S
            self._intake.disk_is_full = self._obstacle.is_full
            return False
        self.on_available()
        return True

    # -- bad weather -----------------------------------------------------------------------------------

    def _start_afresh(self, error: JournalDamaged) -> None:
        """Set the damaged file aside. What is in memory goes on, and into the new file."""
        aside = self._thread.call(self.journal.start_afresh, str(error))
        self.report = OpenReport(aside, str(error), 0, False)
        # What was only in the old file stays there; ids go on above.
        self._ahead.skip_to_end()
        self.on_available()


def _nothing() -> None:
    """A turn of the thread that does nothing."""


def backupprovider_factory(settings: Settings) -> BackupProvider:
    """Return a provider on the journal that `settings` name. Opens nothing yet."""
    runtime = settings.runtime
    journal = DbRetry(
        runtime.backup_file,
        table=runtime.backup_table,
        min_free_bytes=runtime.journal_min_free_bytes,
        synchronous="normal" if runtime.synchronous == "normal" else "full",
    )
    return BackupProvider(journal, runtime)
