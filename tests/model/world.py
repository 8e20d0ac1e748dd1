"""Core, bus, disk, clocks and ledger together: all that may happen to a connector, each as one method.

Knows what may happen; what is chosen and in which order is the model's, or a test's. `check()` holds the ledger
against what there is, `heal()` brings all to its end.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.model.clocks import Clocks
from tests.model.core import (
    HELD_MESSAGES,
    IN_CYCLE,
    PAGE_MESSAGES,
    PLENTY_BYTES,
    Core,
    Crashed,
    Killed,
)
from tests.model.ledger import Given, Ledger, Rows
from tests.support.scripted import Published, ScriptedChannel
from vigiloconn.options import parse_settings
from vigiloconn.serialize import encode, make_batch

TTL_S = 20
#: type -> exchange, TTL, and whether it is parked where nobody wants it
KINDS = {
    "event": ("event", None, True), "state": ("event", None, False), "perf": ("perf", None, True),
    "nagios": ("command", TTL_S, True),
}  # fmt: skip
_SETTINGS = f"""
[bus]
window = {{window}}
batch_send_perf = {{batch_send_perf}}
[connector]
durability = {{durability}}
max_queue_size = {{memory_messages}}
journal_max_messages = {{journal_max_messages}}
when_unroutable = park, state:drop
[publications]
event = {{events_to}}
state = event
nagios = command:{TTL_S}
"""
_EVENTS_TO = ("event", "other")
#: What a message may be, beside plain: the broker closes the channel because of it; no queue is bound for it; it can't
#: be encoded; it fills more than a frame, and more than a page of the file.
POISON, UNWANTED, UNSENDABLE, LARGE = "poison", "unwanted", "unsendable", "large"
#: What may happen while the core is in the middle of something; with a number that says to whom, or how much.
ANSWERS = ("ack", "ack one", "nack", "return", "close 404", "close 406", "lose")
ASIDES = (*ANSWERS, "cut", "block", "put", "advance", "other", "crash", "kill")
_LONGEST_HEALING = 500
_OUTSIDE = 9
#: This writer can give its messages again, as a file can: its position goes with them.
_FILE, _POSITION = 2, "file:2"
_TOLD = ("exchange-held", "exchange-silent")


class _Writer:
    """Notes what the full policy refuses of one batch."""

    def __init__(
        self, numbers: Sequence[int], droppable: Sequence[int], on_refused: Callable[[list[int]], object]
    ) -> None:
        self.kept = list(numbers)
        self._droppable = list(droppable)
        self._on_refused = on_refused

    def dropped(self, count: int, reason: str) -> None:
        assert reason
        # All that is left at the stop; else one after the other of the types that may be dropped.
        refused = list(self.kept) if count == len(self.kept) else [self._droppable.pop(0) for _ in range(count)]
        self.kept = [n for n in self.kept if n not in refused]
        self._on_refused(refused)


class World:
    """One machine with a connector, and its bus. Begins running and connected."""

    def __init__(
        self,
        *,
        window: int = 8,
        batch_send_perf: int = 1,
        memory_messages: int = 4,
        journal_max_messages: int = 10_000,
        durability: str = "journal",
        has_others: bool = False,
        **limits: int,
    ) -> None:
        """`has_others`: there are more brokers; `limits`: what each allows, as `ScriptedConnection` takes it."""
        # In memory where there is such a place: almost every step commits.
        place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self._directory = Path(tempfile.mkdtemp(prefix="model-", dir=place))
        self._window, self._memory_messages = window, memory_messages
        self._batch_send_perf = batch_send_perf
        self._most_messages = journal_max_messages
        self._answers_always = durability == "journal"
        self._count = 0
        self._traits: dict[int, str] = {}
        self._lock: sqlite3.Connection | None = None
        # False from when another program has written to the file until the journal has seen it.
        self._is_counted = True
        self._seen_changes = 0
        self.clocks = Clocks()
        self.ledger = Ledger()
        self.ledger.accepts_in_memory = durability != "journal"
        self._settings = {
            events_to: parse_settings(_SETTINGS.format(
                window=window, batch_send_perf=batch_send_perf, memory_messages=memory_messages,
                journal_max_messages=journal_max_messages, durability=durability, events_to=events_to,
            ))
            for events_to in _EVENTS_TO
        }  # fmt: skip
        self.core = Core(self._directory, self._settings["event"], self.clocks)
        self.ledger.exchanges.update((kind, exchange) for kind, (exchange, *_) in KINDS.items())
        self.core.on_published = lambda message: self.ledger.published(message, self.clocks.now())
        self.core.on_loss = lambda: self._note_loss(0, False)
        self.core.limits = limits
        self.core.has_others = has_others
        self.start()

    def __enter__(self) -> World:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.unlock()
        self.core.close()
        shutil.rmtree(self._directory)

    # -- writers ----------------------------------------------------------------------------------------------

    def put(self, *chosen: str | tuple[str, str], writer: int = 0, wants_answer: bool = True) -> list[int]:
        """Write messages, each a type or a type and what is special about it; return their numbers. Nothing is written
        by a writer that still waits with an earlier batch."""
        if self.core.is_waiting(writer):
            return []
        messages = [self._message(writer, *((each, "") if isinstance(each, str) else each)) for each in chosen]
        numbers = [message["n"] for message in messages]
        batch = make_batch(messages)
        droppable = [message["n"] for message in messages if message["type"] == "perf"]
        batch.writer = told = _Writer(numbers, droppable, self._refused)
        if writer == _FILE:
            batch.kept = {_POSITION: str(numbers[-1])}
        if wants_answer or self._answers_always or writer == _FILE:
            batch.on_accepted = lambda: self._accepted(told)
        self.core.put(writer, batch)
        return numbers

    def _message(self, writer: int, kind: str, trait: str) -> dict[str, Any]:
        n, self._count = self._count, self._count + 1
        self._traits[n] = trait
        _, ttl_s, is_parked = KINDS[kind]
        message: dict[str, Any] = {"type": kind, "n": n}
        # In a batch a message's own key says nothing about how it travels.
        can_be_sent = trait != UNSENDABLE or (kind == "perf" and self._batch_send_perf > 1)
        if trait == UNSENDABLE:
            message["routing_key"] = "k" * 256
        if trait == LARGE:
            message["text"] = "x" * 5000
        self.ledger.give(Given(n, writer, kind, ttl_s, self.clocks.now(), can_be_sent, is_parked))
        return message

    def _refused(self, numbers: list[int]) -> None:
        """The full policy has refused messages: there must be a reason that an operator is told of."""
        figures, problems = self.figures(), self.core.provider.problems()
        share = (figures["backup"] + figures["backup_in_buf"] + self.core.journal.parked_rows) / self._most_messages
        is_told = any(problem.name in ("disk-full", "journal-full", "log-blocked") for problem in problems)
        assert is_told or share >= 0.8, f"{numbers} are refused: {figures}, {problems}"
        assert all(self.ledger.given[n].writer != _FILE for n in numbers), f"{numbers} could have waited"
        self.ledger.lapse(numbers)

    def _accepted(self, writer: _Writer) -> None:
        """The core says that what a writer wrote is safe: then it is in the file, but for what was refused."""
        self.look()
        lacking = [n for n in writer.kept if not self.ledger.given[n].is_safe]
        assert not lacking, f"{lacking} are said to be safe"

    # -- the crank ---------------------------------------------------------------------------------------------

    def turn(self) -> None:
        """Let everybody do what is due, until nothing is."""
        self._guarded(self.core.turn)

    def cycle(self) -> None:
        """Let the journal do what is due, once."""
        self._guarded(self.core.cycle)

    def pump(self) -> None:
        """Let the publisher do what is due, once."""
        self._guarded(self.core.pump)

    def _guarded(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Killed:
            self.kill()

    def advance(self, seconds: float) -> None:
        """Let time pass; the client looks after its connection."""
        self.clocks.advance(seconds)
        connection = self.core.client.connection if self.core.is_running else None
        if connection is not None:
            self.core.publisher.tick()
            if connection.lost is not None:
                self.lose()

    def meanwhile(self, point: str, aside: str, number: int = 0) -> None:
        """The next time that the core is at `point`, something happens."""
        self.core.meanwhile(point, lambda: self._happen(point, aside, number))

    def _happen(self, point: str, aside: str, number: int) -> None:
        core = self.core
        if aside in ("ack", "ack one", "nack"):
            self.answer(number, multiple=aside != "ack one", acked=aside != "nack")
        elif aside == "return":
            self.return_(number)
        elif aside.startswith("close"):
            self.close_channel(number, int(aside[-3:]), number % 3)
        elif aside == "lose":
            self.lose(number % 3)
        elif aside == "cut" and core.client.connection is not None:
            core.client.connection.cut_after(1 + number % 3)
        elif aside == "block":
            self.block(number % 2 == 0)
        elif aside == "put":
            self.put("event", "perf", writer=number % 3, wants_answer=number % 2 == 0)
        elif aside == "advance":
            self.clocks.advance(number)
        elif aside == "other" and point in IN_CYCLE and not core.pumping:
            core.pump()
        elif aside == "other" and point not in IN_CYCLE and not core.cycling:
            core.cycle()
        elif aside == "crash":
            self.ledger.is_exact = False
            raise Crashed(f"at {point}")
        elif aside == "kill":
            raise Killed

    # -- the bus -----------------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Connect, where there is no connection."""
        if self.core.is_running and self.core.client.connection is None:
            self.core.connect()

    def answer(self, number: int, *, multiple: bool = False, acked: bool = True) -> None:
        """Answer one of the messages that have no answer, or all up to it on its channel."""
        if found := self._unanswered(number):
            channel, message = found
            named = [each for each in channel.unanswered if each is message or (multiple and each.tag < message.tag)]
            self._note(channel, named, acked)
            (channel.ack if acked else channel.nack)(message.tag, multiple=multiple)

    def ack_all(self) -> None:
        """Confirm all that was sent."""
        for channel in self.core.channels:
            self._note(channel, channel.unanswered, True)
            channel.ack()

    def return_(self, number: int, *, confirm: bool = True) -> None:
        """Give one message back, as nobody wants it, and confirm it, now or (not `confirm`) by a later answer."""
        if found := self._unanswered(number):
            channel, message = found
            channel.return_(message.tag)
            self.ledger.gave_back(message)
            if confirm:
                self._note(channel, [message], True)
                channel.ack(message.tag)

    def _unanswered(self, number: int) -> tuple[ScriptedChannel, Published] | None:
        waiting = [(channel, message) for channel in self.core.channels for message in channel.unanswered]
        return waiting[number % len(waiting)] if waiting else None

    def _note(self, channel: ScriptedChannel, named: list[Published], acked: bool) -> None:
        # A channel that was given up has nobody who hears.
        if channel.channel_id in channel.connection.confirms:
            self.ledger.answered(named, acked)

    def close_channel(self, number: int, code: int, taken: int = 0) -> None:
        """Close a channel as the broker, for one of the messages on it; of what it has not answered it has taken the
        first `taken`."""
        if channels := [channel for channel in self.core.channels if channel.unanswered]:
            channel = channels[number % len(channels)]
            self.ledger.channel_ended(channel, taken, is_for_cause=code not in (403, 404))
            channel.close_by_broker(code)

    def lose(self, taken: int = 0) -> None:
        """Lose the connection; of what has no answer the broker has taken the first `taken` of each channel."""
        self._note_loss(taken, False)
        self.core.client.lose()

    def close_connection(self, taken: int = 0) -> None:
        """Close the connection as the broker, for something that the core did."""
        connection = self.core.client.connection
        if connection is not None and connection.lost is None:
            self._note_loss(taken, True)
            connection.close_by_broker(501, "FRAME_ERROR")
            self.core.client.lose()

    def _note_loss(self, taken: int, is_for_cause: bool) -> None:
        connection = self.core.client.connection
        for channel in connection.opened if connection is not None else ():
            self.ledger.channel_ended(channel, taken, is_for_cause)

    def block(self, blocked: bool = True) -> None:
        """Let the broker say that it takes nothing, or does again."""
        connection = self.core.client.connection if self.core.is_running else None
        if connection is not None and connection.lost is None:
            self.core.client.block(blocked)

    # -- the machine --------------------------------------------------------------------------------------------

    def fill_disk(self, pages: int = 0) -> None:
        """Leave the file room for so many pages, and the disk none."""
        self.core.free_bytes = 0
        self.core.limit_pages(self.core.pages() + pages)

    def free_disk(self) -> None:
        """Make room."""
        self.core.free_bytes = PLENTY_BYTES
        self.core.limit_pages(None)

    def lock(self) -> None:
        """Let another program lock the file: nothing can be written, and nothing may be refused for it."""
        if self._lock is None:
            self._lock = self.core.look()
            self._lock.execute("BEGIN IMMEDIATE")

    def unlock(self) -> None:
        """Let the other program end its transaction."""
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.close()

    def insert(self, *kinds: str) -> None:
        """Let another program put messages into the file, while the core runs or not."""
        if self._lock is not None or not self.core.path.exists():
            return
        messages = [self._message(_OUTSIDE, kind, "") for kind in kinds]
        self.ledger.outside([message["n"] for message in messages], adds_only=True)
        with closing(self.core.look()) as file:
            for message in messages:
                file.execute("INSERT INTO tobus (msg) VALUES (?)", (encode(message).decode(),))
        self._is_counted = False

    def put_back(self) -> None:
        """Let the user send all parked messages again, as README says."""
        if self._lock is not None or not self.core.path.exists():
            return
        parked = list(self.look().parked.values())
        with closing(self.core.look()) as file:
            file.execute("BEGIN IMMEDIATE")
            try:
                file.execute("INSERT INTO tobus (id, msg) SELECT id, msg FROM vigiloconn_parked")
            except sqlite3.IntegrityError:
                # SQLite has given such a number to another program's message, which is not taken in yet: later.
                return
            self.ledger.outside(parked)
            self.ledger.put_back += len(parked)
            file.execute("DELETE FROM vigiloconn_parked")
            file.execute("COMMIT")
        self._is_counted = False

    def delete(self) -> None:
        """Let the user delete the oldest message of the main table, if it is not the newest too: SQLite would give its
        number to another program's next message, while it may be on its way under it."""
        rows = self.look().main if self._lock is None and self.core.path.exists() else {}
        if len(rows) > 1 and not self.ledger.may_have_ended(rows[min(rows)], self.clocks.now()):
            self.ledger.deleted.add(rows[min(rows)])
            self.ledger.outside(())
            with closing(self.core.look()) as file:
                file.execute("DELETE FROM tobus WHERE id = ?", (min(rows),))
            self._is_counted = False

    def clear_parked(self) -> None:
        """Let the user delete all parked messages: they have filled the journal, and were told of."""
        problems = {problem.name for problem in self.core.provider.problems()}
        assert "journal-full" in problems, f"nobody is told that the journal is full: {problems}"
        rows = self.look().parked
        self.ledger.cleared |= set(rows.values())
        self.ledger.outside(())
        with closing(self.core.look()) as file:
            file.execute("DELETE FROM vigiloconn_parked")
        self._is_counted = False

    def reboot(self) -> None:
        """Let the machine crash and boot again."""
        if self.core.is_running:
            self.kill()
        self.clocks.reboot()

    def kill(self, taken: int = 2) -> None:
        """End the process by SIGKILL."""
        self.unlock()
        self._note_loss(taken, False)
        self.core.on_life_ends = lambda: self.ledger.life_ended(self.figures(), in_order=False)
        self.core.end_by_kill()
        self._lapse()

    def stop(self, taken: int = 0) -> None:
        """Stop the process in order; `taken` messages are confirmed before it is over."""
        self.core.forget_meanwhile()
        self.unlock()
        self._guarded(self.core.begin_stop)
        for _ in range(taken):
            self.answer(0)
        self._note_loss(taken, False)
        has_room = self.core.free_bytes == PLENTY_BYTES and self.core.page_limit is None
        self.core.on_life_ends = lambda: self.ledger.life_ended(self.figures(), in_order=has_room)
        self.core.stop()
        lapsed = self._lapse()
        assert not has_room or not lapsed, f"{lapsed} messages were read, and are gone without a word"

    def move_events(self) -> None:
        """Let other settings name another exchange for events, from the next start on; the next time the first one."""
        if not self.core.is_running:
            events_to = next(name for name in _EVENTS_TO if name != self.ledger.exchanges["event"])
            self.ledger.readdress("event", events_to)
            self.core.settings = self._settings[events_to]

    def start(self) -> None:
        """Start a process, where none runs, and connect it."""
        if not self.core.is_running:
            self.core.start()
            self.core.connect()
            self._is_counted, self._seen_changes = True, self.core.journal.outside_changes

    def _lapse(self) -> int:
        """What was in memory only, and of what nobody was told that it is safe, ends with the process. Returns how much
        of it can't be given again."""
        self.look()
        lapsed = [given for given in self.ledger.open() if not given.is_safe]
        self.ledger.lapse(given.n for given in lapsed)
        return sum(given.writer != _FILE for given in lapsed)

    # -- what there is ------------------------------------------------------------------------------------------

    def figures(self) -> dict[str, float]:
        return {**self.core.provider.stats(), **self.core.publisher.stats()}

    def look(self) -> Rows:
        """Return what is in the file, as somebody else reads it."""
        with closing(self.core.look()) as file:
            rows = self.ledger.read(file, self.clocks.now())
            kept = file.execute("SELECT text FROM vigiloconn_kept WHERE name = ?", (_POSITION,)).fetchone()
        self._check_position(int(kept[0]) if kept else -1)
        return rows

    def _check_position(self, position: int) -> None:
        """What is up to the position was accepted, and nothing behind it."""
        for given in self.ledger.given.values():
            if given.writer == _FILE and not given.is_lapsed:
                assert (given.n <= position) == bool(given.row), f"{given}, and the position is {position}"

    def check(self) -> None:
        """Raise `AssertionError` where the promise is broken."""
        if not self.core.is_running:
            return
        rows, figures = self.look(), self.figures()
        self.ledger.check(rows, figures, self.clocks.now())
        if self.core.journal.outside_changes != self._seen_changes:
            self._is_counted, self._seen_changes = True, self.core.journal.outside_changes
        if self._is_counted:
            self._check_totals(rows)
        self._check_told(rows)
        assert figures["backup_out_buf"] <= self._memory_messages + PAGE_MESSAGES
        assert figures["in_flight"] <= self._window + len(KINDS) * HELD_MESSAGES

    def _check_totals(self, rows: Rows) -> None:
        journal = self.core.journal
        assert journal.rows == len(rows.main) + len(rows.held)
        assert journal.size_bytes == rows.size_bytes
        assert journal.held_exchanges() == rows.held_by_exchange
        assert journal.parked_rows == len(rows.parked)

    def _check_told(self, rows: Rows) -> None:
        problems = [problem for problem in self.core.publisher.problems() if problem.name in _TOLD]
        for n in rows.held.values():
            exchange = self.ledger.exchanges[self.ledger.given[n].kind]
            is_told = any(exchange in problem.text for problem in problems)
            assert is_told or self.ledger.may_have_ended(n, self.clocks.now()), f"nobody is told that {n} is held"

    # -- the end ------------------------------------------------------------------------------------------------

    def is_hindered(self) -> bool:
        """Answer whether there is something for `mend` to do."""
        connection = self.core.client.connection if self.core.is_running else None
        is_locked = self._lock is not None
        return connection is None or connection.blocked or self.core.free_bytes < PLENTY_BYTES or is_locked

    def mend(self) -> None:
        """Start what is stopped, connect, unblock, unlock, and make room on the disk."""
        self.unlock()
        self.start()
        self.connect()
        if self.core.client.connection is not None and self.core.client.connection.blocked:
            self.block(False)
        self.free_disk()

    def heal(self) -> None:
        """Hinder nothing any more, and turn until everything has ended: it must."""
        core = self.core
        core.forget_meanwhile()
        for _ in range(_LONGEST_HEALING):
            self.mend()
            self.turn()
            self.check()
            if self._is_at_rest():
                break
            if self.core.waiting_writers() and not self.core.journal.rows and self.core.journal.parked_rows:
                self.clear_parked()
            if not sum(self._answer_well(channel) for channel in core.channels):
                self.advance(1.0)
        else:
            raise AssertionError(f"never at rest: {self.figures()}")
        self.ledger.check_end(self.look(), self.figures(), self.clocks.now())

    def _is_at_rest(self) -> bool:
        figures = self.figures()
        busy = ("backup", "queue", "backup_in_buf", "in_flight", "held_exchanges")
        is_waiting = self.core.waiting_writers() or self.core.is_waiting_to_pump()
        return self._is_counted and not is_waiting and not any(figures[name] for name in busy)

    def _answer_well(self, channel: ScriptedChannel) -> bool:
        """Answer as a broker in order does. False where there was nothing to answer."""
        messages = channel.unanswered
        for message in messages:
            traits = {self._traits[n] for n in self.ledger.numbers_in(message)}
            if POISON in traits:
                self.ledger.channel_ended(channel, 0, is_for_cause=True)
                channel.close_by_broker(311)
                break
            if UNWANTED in traits:
                channel.return_(message.tag)
                self.ledger.gave_back(message)
            self._note(channel, [message], True)
            channel.ack(message.tag)
        return bool(messages)
