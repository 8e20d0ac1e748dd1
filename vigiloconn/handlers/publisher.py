"""The bus's side of the flow: takes messages in order, sends them within a window, tells what is done.

Knows routes and the window. What an answer of the broker means for one exchange is the outlet's to know.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from gevent.event import Event

from vigiloconn.errors import BusDown, BusRefused
from vigiloconn.handlers.backup import BackupProvider
from vigiloconn.interfaces import Connection, Level, Problem, Record
from vigiloconn.kit.histogram import Histogram
from vigiloconn.options import Settings
from vigiloconn.publishing.ledger import Ledger
from vigiloconn.publishing.outlet import Outlet
from vigiloconn.publishing.states import State
from vigiloconn.supervisor import Handler

log = logging.getLogger(__name__)

#: Bodies that are taken and not confirmed; keeps the memory small when lines are long.
_WINDOW_BYTES = 4 << 20
#: Messages are taken when at least this many fit, or a full window would be topped up one by one.
_MIN_TAKE = 100
#: An exchange that answers nothing for this time, while another does, steps aside once the window is full: what is
#: behind it may be for others. Where none answers, or there is no other, it has until `confirm_timeout`.
_SILENT_S = 2.0
#: An exchange that answers nothing for this time is a problem, even alone.
_SILENT_TOLD_S = 10.0
#: A broker that lives, and for this time has neither confirmed nor read what it was asked, has stopped reading.
_UNREAD_S = 5.0
#: How long the stop waits for confirms.
_STOP_CONFIRM_S = 1.5


class BusPublisher(Handler):
    """Publishes what a `BackupProvider` holds, with publisher confirms and `mandatory`.

    A message leaves the journal by the broker's confirm of that very message, by its TTL, or by being
    parked or held with its reason. Messages of one exchange leave in the order of acceptance.

    `clock` gives monotonic seconds.

    Counters in `stats()`, in publishes: sent, published, returned, nacked (a batch is one); in messages: confirmed,
    expired, parked, unroutable; gauges: in_flight, held_exchanges.
    """

    name = "publisher"

    def __init__(
        self,
        provider: BackupProvider,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.journal = provider
        self.ledger = Ledger(provider.discard)
        self._clock = clock
        self._settings = settings
        self._window = settings.bus.window
        self._confirm_timeout_s = settings.bus.confirm_timeout_s
        self.outlets: dict[str, Outlet] = {}
        """Exchange -> its outlet, for each to which something was to go."""
        self.confirm_age = Histogram()
        """Seconds from a message's acceptance to its confirm."""
        self._counts: Counter[str] = Counter()
        self._unroutable: Counter[str] = Counter()
        self._connection: Connection | None = None
        self._wake = Event()
        self._has_news = False
        self._sending_since: float | None = None
        self._idle = Event()
        self._is_draining = False
        self.is_stopping = False
        """True once the stop was asked for: nothing has a reason to wait for company any more."""
        self._moved_at = self._clock()

    # -- life --------------------------------------------------------------------------------------------

    def start_service(self) -> None:
        self.journal.on_available = self._wake.set
        publications = {kind: where.exchange for kind, where in sorted(self._settings.publications.items())}
        self.journal.readdress_held(repr(publications), lambda kind: self._settings.publication(kind).exchange)
        for exchange, count in self.journal.held_exchanges().items():
            log.warning("exchange %s: %d messages are held from before", exchange, count)
            self.outlets[exchange] = self._made_outlet(exchange, count)

    def run(self) -> None:
        self._recover()
        while not self.is_stopping:
            self._wake.wait(self._seconds_to_deadline())
            self._wake.clear()
            self.pump()
        self._send_last()

    def stop_service(self) -> None:
        self.is_stopping = True
        self._wake.set()

    def _send_last(self) -> None:
        """Send what the sources put until they ended, then wait a moment for confirms."""
        until_s = self._clock() + min(_STOP_CONFIRM_S, self.supervisor.remaining_s() / 2)
        while self._may_send() and self.journal.has_fresh() and (left_s := until_s - self._clock()) > 0:
            self._wake.wait(left_s)
            self._wake.clear()
            self.pump()
        self._is_draining = True
        self._wait_idle(max(0.0, until_s - self._clock()))

    def connection_initialized(self) -> None:
        self._connection = self.client.connection
        self._is_draining = False
        self._moved_at = self._clock()
        self._wake.set()

    def connection_lost(self) -> None:
        self._connection = None
        for outlet in self.outlets.values():
            outlet.connection_lost(self.client.last_error)
        self._idle.set()

    def connection_blocked(self, blocked: bool) -> None:
        self._moved_at = self._clock()
        for outlet in self.outlets.values():
            outlet.unblocked()
        self._wake.set()

    def outstanding(self) -> int:
        return self.in_flight

    def drain(self, timeout_s: float) -> None:
        self._is_draining = True
        self._wait_idle(timeout_s)

    def tick(self) -> None:
        """Leave a broker that confirms nothing any more, where there is another."""
        self.client.channels.wake_first()
        connection = self._connection
        if connection is None or connection.blocked or not self.in_flight:
            self._moved_at = self._clock()
        elif self._is_stalled() and self.client.has_others:
            connection.leave(self._stall())
        elif self._is_unread(connection):
            silent = [outlet.exchange for outlet in self.outlets.values() if outlet.unanswered_s >= _SILENT_S]
            connection.abort(f"the broker has stopped reading it: no answer for exchange {', '.join(silent)}")
        elif self._silent_before_others():
            # Whether the broker still reads is asked on the greenlet that may block.
            self._wake.set()

    def _is_unread(self, connection: Connection) -> bool:
        """Answer whether the broker lives and reads nothing of this connection any more: RabbitMQ does so ("flow") when
        one queue takes nothing, and then the other exchanges starve on it."""
        asked = [outlet.unread_since for outlet in self.outlets.values()] + [self._sending_since]
        since = min((at for at in asked if at is not None and at >= self._moved_at), default=None)
        return since is not None and len(self.outlets) > 1 and connection.heard_at - since > _UNREAD_S

    def _silent_before_others(self) -> list[Outlet]:
        """Return the outlets that have no answer while others have something to send."""
        busy = [outlet for outlet in self.outlets.values() if outlet.queue or outlet.outstanding]
        return [outlet for outlet in busy if outlet.unanswered_s >= _SILENT_S] if len(busy) > 1 else []

    def _is_stalled(self) -> bool:
        return bool(self.in_flight) and self._clock() - self._moved_at > self._confirm_timeout_s

    def _stall(self) -> str:
        return f"{self.in_flight} messages sent and none confirmed for {self._clock() - self._moved_at:.0f} s"

    def stats(self) -> dict[str, float]:
        names = ("sent", "published", "confirmed", "returned", "nacked", "expired", "parked", "unroutable")
        return {
            **{name: self._counts[name] for name in names},
            "in_flight": self.in_flight,
            "held_exchanges": sum(outlet.state is not State.OPEN for outlet in self.outlets.values()),
        }

    def details(self) -> dict[str, Any]:
        return {
            "exchanges": [outlet.details() for _, outlet in sorted(self.outlets.items())],
            "unroutable": dict(self._unroutable),
        }

    def problems(self) -> list[Problem]:
        found = []
        for outlet in self.outlets.values():
            if outlet.state is State.SILENT or (outlet.state is State.OPEN and outlet.unanswered_s > _SILENT_TOLD_S):
                text = (
                    f"exchange {outlet.exchange} does not answer: {outlet.outstanding} messages sent and none confirmed"
                    f" for {outlet.unanswered_s:.0f} s, {outlet.held_count} wait behind them: has a queue no majority?"
                )
                found.append(Problem("exchange-silent", Level.WARNING, text, outlet.exchange))
            elif outlet.state is State.DRAINING:
                text = f"exchange {outlet.exchange} takes messages again, {outlet.held_count} held ones go first"
                found.append(Problem("exchange-held", Level.WARNING, text, outlet.exchange))
            elif outlet.state is not State.OPEN:
                text = f"exchange {outlet.exchange} is held, {outlet.held_count} messages wait: {outlet.reason}"
                found.append(Problem("exchange-held", Level.WARNING, text, outlet.exchange))
        if self._connection is not None and self._is_stalled() and not self._connection.blocked:
            text = f"{self._stall()}, and there is no other broker to go to"
            found.append(Problem("confirms-missing", Level.WARNING, text))
        if self._connection is not None and self._connection.blocked:
            text = "the broker takes no messages (connection.blocked)"
            found.append(Problem("broker-blocked", Level.WARNING, text))
        return found

    def oldest_s(self) -> float:
        """Return the age of the oldest message in the window, 0 where there is none."""
        first = self.ledger.first()
        return self.journal.age_s(first) if first is not None else 0.0

    # -- an operator's changes -------------------------------------------------------------------------

    def withdraw(self, is_meant: Callable[[Record], bool]) -> int:
        """Discard messages that are meant, were taken to be sent and are not on their way; return how many."""
        gone = sum([outlet.withdraw(is_meant) for outlet in self.outlets.values()])
        if gone:
            self.made_room()
        return gone

    @contextmanager
    def held_at_rest(self, exchange: str) -> Iterator[Callable[[int], None]]:
        """Send nothing of what is held for `exchange` in a `with` block, in which its messages may leave the held
        table; give what it yields their number. Raises `BadMoment`."""
        outlet = self.outlets.get(exchange)
        moved_out: list[int] = []
        if outlet is not None:
            outlet.pause()
        try:
            yield moved_out.append
        finally:
            if outlet is not None:
                outlet.resume(sum(moved_out))

    def moved_in(self, exchange: str, first_id: int, count: int) -> None:
        """So many messages, the lowest of this id, were put among what is held for `exchange`."""
        outlet = self.outlets.get(exchange)
        if outlet is not None:
            outlet.moved_in(first_id, count)
        else:
            self.outlets[exchange] = self._made_outlet(exchange, count)
        self._wake.set()

    # -- what the outlets ask ------------------------------------------------------------------------------

    def count(self, figure: str, number: int, kind: str = "") -> None:
        """Add to a counter; `kind` is the type of the messages, where that is told apart."""
        self._counts[figure] += number
        if kind:
            self._unroutable[kind] += number

    def confirmed(self, records: Sequence[Record]) -> None:
        """The broker has confirmed these messages together, the oldest first."""
        self._counts["confirmed"] += len(records)
        # Each counts as the oldest of those that were answered together: one look at the clock for all.
        self.confirm_age.observe(self.journal.age_s(records[0]), len(records))

    def is_full(self) -> bool:
        """Answer whether nothing more is taken before some of what is under way is done."""
        room = self._window - len(self.ledger)
        return room < min(_MIN_TAKE, self._window) or self.ledger.size_bytes > _WINDOW_BYTES

    def made_room(self) -> None:
        """There may be room in the window, or a channel, though the broker was not asked about anything."""
        self._has_news = True
        self._wake.set()

    def answered(self, is_confirm: bool) -> None:
        """The broker has answered: there may be room in the window. Only a confirm shows that it does its work."""
        self._moved_at = self._clock()
        if is_confirm:
            self.client.note_success()
        self.client.channels.wake_first()
        if self._has_work():
            self._wake.set()
        if self._is_draining and not self.in_flight:
            self._idle.set()

    def _has_work(self) -> bool:
        """Answer whether something waits that an answer of the broker may let go on."""
        return self.journal.has_more() or any(not outlet.is_idle for outlet in self.outlets.values())

    # -- sending ---------------------------------------------------------------------------------------------

    def _recover(self) -> None:
        """Begin anew after a crash: what it left between a queue and the wire is in no queue any more."""
        if not self.ledger and all(outlet.is_at_rest for outlet in self.outlets.values()):
            return
        if self._connection is not None:
            self._connection.abort("the publisher was restarted")
            self.connection_lost()
        for outlet in self.outlets.values():
            outlet.forget_added()
        for record in self.ledger.unfinished():
            self._outlet(record.key.type).add(record)

    @property
    def in_flight(self) -> int:
        """Publishes that the broker has not answered."""
        return sum(outlet.outstanding for outlet in self.outlets.values())

    def _seconds_to_deadline(self) -> float | None:
        if not self._may_send():
            return None
        deadlines = [due for outlet in self.outlets.values() if (due := outlet.deadline()) is not None]
        if self.is_full():
            deadlines += [outlet.heard_at + self._may_be_silent_s(outlet) for outlet in self._unanswered()]
        return max(0.001, min(deadlines) - self._clock()) if deadlines else None

    def _may_send(self) -> bool:
        connection = self._connection
        return connection is not None and not connection.blocked and not self._is_draining

    def pump(self) -> None:
        """Send until nothing is left, the window is full or the bus is gone. Blocks only while the broker does not
        read; `run` calls it whenever something has changed."""
        while self._may_send() and (connection := self._connection) is not None:
            self._has_news = False
            taken = self._fill()
            # With a hundred exchanges most have nothing to send.
            outlets = [outlet for outlet in self.outlets.values() if not outlet.is_idle]
            self._sending_since = self._clock()
            try:
                for outlet in outlets:
                    outlet.prepare(connection)
                sent = sum([outlet.step(connection) for outlet in outlets])
                for outlet in self._silent_before_others():
                    outlet.ask_whether_read()
            except BusDown as exc:
                log.debug("sending stopped: %s", exc)
                return
            except BusRefused as exc:
                connection.abort(f"no channel for publishing: {exc}")
                return
            finally:
                self._sending_since = None
            if not (sent or taken or self._has_news) or not self._has_work():
                return

    def _unanswered(self) -> list[Outlet]:
        """Return the outlets that have a part of the window, and something on its way."""
        in_window = [outlet for outlet in self.outlets.values() if outlet.state is State.OPEN or outlet.behind]
        return [outlet for outlet in in_window if outlet.outstanding]

    def _may_be_silent_s(self, outlet: Outlet) -> float:
        """Return for how long an outlet may keep its part of a full window without an answer."""
        others = [other for other in self.outlets.values() if other is not outlet and other.state is State.OPEN]
        has_others = any(other.unanswered_s < _SILENT_S for other in others)
        return _SILENT_S if has_others else self._confirm_timeout_s

    def _set_silent_aside(self) -> None:
        silent = [outlet for outlet in self._unanswered() if outlet.unanswered_s >= self._may_be_silent_s(outlet)]
        for outlet in silent:
            outlet.step_aside()

    def _fill(self) -> int:
        """Take messages for the free part of the window, to the outlets of their exchanges."""
        if self.is_full():
            self._set_silent_aside()
        # A backlog is left for the next start: it could not be confirmed in the time that a stop has.
        if self.is_full() or (self.is_stopping and not self.journal.has_fresh()):
            return 0
        ledger = self.ledger
        records = self.journal.take(self._window - len(ledger))
        if not records:
            return 0
        ledger.take(records)
        kind, outlet = "", None
        for record in records:
            if outlet is None or record.key.type != kind:
                kind = record.key.type
                outlet = self._outlet(kind)
            outlet.add(record)
        return len(records)

    def _outlet(self, kind: str) -> Outlet:
        exchange = self._settings.publication(kind).exchange
        outlet = self.outlets.get(exchange)
        if outlet is None:
            outlet = self.outlets[exchange] = self._made_outlet(exchange)
        return outlet

    def _made_outlet(self, exchange: str, held_count: int = 0) -> Outlet:
        return Outlet(
            exchange, self._settings, self.journal, self, self.client.channels,
            clock=self._clock, held_count=held_count,
        )  # fmt: skip

    def _wait_idle(self, timeout_s: float) -> None:
        self._idle.clear()
        if self.in_flight:
            self._idle.wait(timeout_s)


def buspublisher_factory(settings: Settings, provider: BackupProvider) -> BusPublisher:
    """Return a publisher for what `provider` holds, as `settings` say."""
    return BusPublisher(provider, settings)
