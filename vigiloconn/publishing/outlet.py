"""An outlet: one exchange's way to the bus, on a channel of its own.

A channel per exchange, because the broker answers a publish that it refuses by closing the channel:
so a missing exchange costs the others nothing, and there is no doubt about which one it was. Which states
an outlet has, and what leads from one to another, is in `states`.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

from vigiloconn.bus.confirms import ConfirmChannel, Returned
from vigiloconn.errors import BadMessage, BadMoment, BusDown, BusRefused
from vigiloconn.interfaces import Channels, Connection, Journal, Record
from vigiloconn.kit.backoff import backoff_delays
from vigiloconn.kit.ratelog import RateLimitedLog
from vigiloconn.options import Settings
from vigiloconn.publishing.batches import PerfBatches, batch_body, batch_name
from vigiloconn.publishing.held import HeldReader
from vigiloconn.publishing.ledger import Ledger
from vigiloconn.publishing.pace import Pace
from vigiloconn.publishing.routes import Routes
from vigiloconn.publishing.states import Event, State, next_state
from vigiloconn.publishing.suspicion import Suspicion

log = logging.getLogger(__name__)

Token = Record | list[Record]

#: One write's size. Larger ones gain nothing, and hold the connection's lock for longer.
_BUFFER_MESSAGES = 200
_BUFFER_BYTES = 256 << 10
_REFUSED_CODES = (403, 404)
#: What was read back may be younger than it looks, by this much: times are kept for a second's messages together.
_AGE_SLACK_S = 1.0
#: While an exchange drains, newer messages are held at half the rate at which held ones go, so that this ends; and not
#: at all once so few are held.
_FEW_HELD = 1000


class Publisher(Protocol):
    """The publisher, as its outlets see it."""

    ledger: Ledger
    """What is taken from the main table and unfinished: the window."""
    is_stopping: bool
    """True once the stop was asked for: nothing has a reason to wait for company any more."""

    def is_full(self) -> bool:
        """Answer whether nothing more is taken before some of what is under way is done."""

    def count(self, figure: str, number: int, kind: str = "") -> None:
        """Add to a counter; `kind` is the type of the messages, where that is told apart."""

    def confirmed(self, records: Sequence[Record]) -> None:
        """The broker has confirmed these messages together, the oldest first."""

    def made_room(self) -> None:
        """There may be room in the window, or a channel, though the broker was not asked about anything."""

    def answered(self, is_confirm: bool) -> None:
        """The broker has answered, by a confirm or by a refusal."""


class Outlet:
    """Sends the messages of one exchange in order, and decides what an answer of the broker means.

    `step` runs on the publisher's greenlet, the answers come on the reader's. Neither yields between
    looking at the state and changing it, so they need no lock. `clock` gives monotonic seconds.
    """

    def __init__(
        self,
        exchange: str,
        settings: Settings,
        journal: Journal,
        publisher: Publisher,
        channels: Channels,
        *,
        clock: Callable[[], float],
        held_count: int = 0,
    ) -> None:
        self.exchange = exchange
        self.state = State.HELD if held_count else State.OPEN
        self.reason = "messages were held when the connector stopped" if held_count else ""
        self.queue: deque[Record] = deque()
        self.behind: deque[Record] = deque()
        """Messages of the main table that wait for the held ones of a draining exchange."""
        self.channel: ConfirmChannel[Token] | None = None
        self._settings = settings
        self._journal = journal
        self._publisher = publisher
        self._channels = channels
        self._clock = clock
        self._held = HeldReader(exchange, journal, held_count)
        # What was on its way when the outlet ceased to be open: no longer in the publisher's window.
        self._late = Ledger(journal.discard)
        self._books: Ledger | HeldReader = self._held if held_count else publisher.ledger
        self._batches = PerfBatches(settings.bus.batch_send_perf, settings.bus.batch_linger_ms / 1000, clock)
        self._routes = Routes(exchange, settings.publication, self._batches.is_on)
        self._returned: dict[str, Returned] = {}
        self._suspicion = Suspicion()
        self._delays = self._fresh_delays()
        self._probe_at = 0.0
        self._may_hold = 0.0
        self._is_paused = False
        self._pace = Pace()
        self.heard_at = 0.0
        """When the broker last answered, or something was sent while nothing was unanswered."""
        self.unread_since: float | None = None
        """When the broker was asked whether it still reads, and has not answered since."""
        self._asked_for = 0.0
        self._is_in_line = False
        """It waits for a channel, until it has one or leaves the line."""
        self._parked_log = RateLimitedLog(log)
        self._expired_log = RateLimitedLog(log)

    # -- what the publisher asks -----------------------------------------------------------------------

    @property
    def outstanding(self) -> int:
        """Publishes that the broker has not answered."""
        return self.channel.outstanding if self.channel is not None else 0

    @property
    def unanswered_s(self) -> float:
        """For how long nothing was answered while something was on its way."""
        return self._clock() - self.heard_at if self.outstanding else 0.0

    @property
    def held_count(self) -> int:
        """Messages that are held."""
        return self._held.count

    def details(self) -> dict[str, Any]:
        """Return what a person wants to know, name -> what JSON can hold."""
        is_waiting = self.state is State.HELD and not self.outstanding
        return {
            "exchange": self.exchange,
            "state": self.state.value,
            "reason": self.reason or None,
            "in_flight": self.outstanding,
            "queued": len(self.queue) + len(self.behind),
            "held": self.held_count,
            "next_try_s": round(max(0.0, self._probe_at - self._clock()), 1) if is_waiting else None,
        }

    @property
    def is_at_rest(self) -> bool:
        """True while nothing was taken from the held table that is not finished."""
        return self.state in (State.OPEN, State.HELD, State.SILENT)

    @property
    def is_idle(self) -> bool:
        """True while it has nothing to send, and waits for nothing but answers."""
        return self.state is State.OPEN and not self.queue and not self._is_in_line

    def add(self, record: Record) -> None:
        """Take a message of the main table: into the queue, or behind those that are held."""
        if self.state is State.OPEN:
            self.queue.append(record)
        elif self.state is State.DRAINING:
            self.behind.append(record)
        else:
            self._hold([record])

    def forget_added(self) -> None:
        """What was added is added again."""
        self.queue.clear()
        self.behind.clear()

    def deadline(self) -> float | None:
        """Return when `step` has something to do by itself (seconds of the clock), None when it has not."""
        if self.state is State.HELD and self.outstanding == 0:
            return None if self._is_paused else self._probe_at
        return self._batches.due

    # -- an operator's changes ---------------------------------------------------------------------------

    def withdraw(self, is_meant: Callable[[Record], bool]) -> int:
        """Finish messages of the main table that are meant and not on their way; return how many."""
        gone: list[Record] = []
        if self._books is not self._held and self.state is State.OPEN:
            self.queue, withdrawn = _parted(self.queue, is_meant)
            gone += withdrawn
        self.behind, withdrawn = _parted(self.behind, is_meant)
        gone += withdrawn
        self._publisher.ledger.finish(gone)
        self._batches.finished(gone)
        return len(gone)

    def pause(self) -> None:
        """Take nothing from what is held until `resume`. Raises `BadMoment` where something of it is on its way."""
        if self.state is not State.HELD or self.outstanding:
            # A trial has its answer at once.
            raise BadMoment(
                f"what is held for exchange {self.exchange} is on its way now ({self.state.value})",
                soon=self.state in (State.HELD, State.PROBING),
            )
        self._is_paused = True

    def resume(self, moved_out: int) -> None:
        """Go on; so many messages were taken out of what is held."""
        self._is_paused = False
        if moved_out:
            self._held.moved_out(moved_out)
            self._probe_at = 0.0
        self._publisher.made_room()

    def moved_in(self, first_id: int, count: int) -> None:
        """So many messages, the lowest of this id, were put among what is held: they go first."""
        self._held.moved_in(first_id, count)
        if self.state is State.OPEN:
            self._refuse([], "messages were moved to it")
            self._probe_at = 0.0
        self._publisher.made_room()

    def prepare(self, connection: Connection) -> None:
        """Have a channel for what is to go, before anything is on its way. Raises as `step` does."""
        if self.queue and self.channel is None and self.state is State.OPEN:
            self._ready_channel(connection)

    def step(self, connection: Connection) -> int:
        """Send what may be sent now in one write; return the number of publishes. Raises `BusDown`."""
        self._batches.due = None
        if self.state in (State.HELD, State.SILENT):
            if self.outstanding or (self.state is State.HELD and (self._is_paused or self._clock() < self._probe_at)):
                return 0
            self._begin_with_held()
        if self.state is not State.OPEN:
            self._read_held()
            self._hold_some_behind()
        if not self.queue:
            self._channels.leave(self)
            self._is_in_line = False
            return 0
        limit = min(_BUFFER_MESSAGES, self._pace.room(self.outstanding, self._clock() - self.heard_at))
        if limit <= 0:
            return 0
        if self._is_alone():
            if self.outstanding:
                return 0
            limit = 1
        channel = self._ready_channel(connection)
        if channel is None:
            return 0
        buffer, tokens = self._render(channel.id, connection.frame_max, limit)
        if tokens:
            if not channel.outstanding:
                self.heard_at = self._clock()
            channel.send(buffer, tokens)
            self._publisher.count("published", len(tokens))
        self._pace.sent(self.outstanding, bool(self.queue))
        return len(tokens)

    def step_aside(self) -> None:
        """Give the window to others: nothing was answered for long."""
        if self.state is State.DRAINING:
            self._hold_behind(len(self.behind))
            return
        log.warning(
            "exchange %s: silent: %d messages unanswered for %.1f s; further ones are held until it answers",
            self.exchange, self.outstanding, self.unanswered_s,
        )  # fmt: skip
        self._move(Event.UNANSWERED)
        self.reason = "it does not answer"
        self._hold_back(list(self.queue))

    def ask_whether_read(self) -> None:
        """Ask once in each silence whether the broker still reads what comes on this connection. Raises `BusDown`."""
        if self.channel is not None and self._asked_for != self.heard_at:
            self._asked_for = self.heard_at
            self.unread_since = self._clock()
            self.channel.ping(self._is_read)

    def _is_read(self) -> None:
        self.unread_since = None

    def unblocked(self) -> None:
        """The broker takes messages again: it could not answer before."""
        self.heard_at = self._clock()

    def connection_lost(self, error: BusDown | BusRefused | None) -> None:
        """Take back what is unanswered: it counts as not sent."""
        channel, self.channel = self.channel, None
        unanswered = _flat(channel.unanswered()) if channel is not None else []
        self._returned.clear()
        self._batches.due = self.unread_since = None
        if isinstance(error, BusRefused) and unanswered:
            # The broker closed the connection because of something that we sent; perhaps this.
            self._suspicion.closed(unanswered)
        if self.state is State.OPEN:
            self._move(Event.LOST)
            self.queue.extendleft(reversed(unanswered))
            return
        if self._books is self._late:
            self._hold(unanswered)
        self.queue.clear()
        self._probe_at = 0.0
        if self.state is State.HELD:
            self._move(Event.LOST)
        else:
            self._to_held(Event.LOST, (error and str(error)) or "the connection was lost")

    # -- the state ---------------------------------------------------------------------------------------

    def _move(self, event: Event) -> None:
        """The only place where the state changes."""
        self.state = next_state(self.state, event)

    def _is_alone(self) -> bool:
        """Answer whether each publish has to wait for the answer to the one before it."""
        return self.state is State.PROBING or self._suspicion.is_careful

    # -- sending -----------------------------------------------------------------------------------------

    def _ready_channel(self, connection: Connection) -> ConfirmChannel[Token] | None:
        channel: ConfirmChannel[Token] | None = self._channels.take(connection, self)
        self._is_in_line = channel is None
        if channel is not None and channel is not self.channel:
            self.channel = channel
            self._routes.forget()
        return channel

    def _render(self, channel_id: int, frame_max: int, limit: int) -> tuple[bytes, list[Token]]:
        """Take messages off the queue and return their frames, and a token for each publish."""
        queue = self.queue
        parts: list[bytes] = []
        tokens: list[Token] = []
        size = 0
        prefix = self._journal.uuid.encode() + b"-"
        log_traffic = self._settings.bus.log_traffic
        while queue and len(tokens) < limit and size < _BUFFER_BYTES:
            record = queue[0]
            try:
                frames, ttl_s, is_batched = self._routes.get(record.key, channel_id, frame_max)
            except BadMessage as exc:
                self._park([queue.popleft()], str(exc))
                continue
            if ttl_s is not None and self._journal.age_s(record) > ttl_s + _AGE_SLACK_S:
                self._expire(queue.popleft(), ttl_s)
                continue
            token: Token = record
            body = record.body
            if is_batched:
                token = self._take_batch()
                if not token:
                    break
                body = batch_body(token)
                name = batch_name(token).encode()
            else:
                queue.popleft()
                name = b"%d" % record.id
            if log_traffic:
                log.debug("to %s: %s", self.exchange, body)
            parts += frames.pieces(body, prefix + name)
            size += len(body)
            tokens.append(token)
        return b"".join(parts), tokens

    def _take_batch(self) -> list[Record]:
        # In a full window it would wait for what can't come before it is gone.
        may_wait = not self._publisher.is_stopping and not self._publisher.is_full()
        more_comes = self.state is not State.OPEN and not self._held.is_at_end()
        return self._batches.take(self.queue, may_wait=may_wait, more_comes=more_comes)

    # -- answers -------------------------------------------------------------------------------------------

    def settled(self, tokens: list[Token], acked: bool) -> None:
        self.heard_at = self._clock()
        if not acked:
            self._publisher.count("nacked", len(tokens))
            for token in tokens:
                self._returned.pop(_name(token), None)
            self._refuse(_flat(tokens), "the broker refused it (basic.nack): is a queue full?")
            return
        if self._returned:
            tokens = self._without_returned(tokens)
        self._pace.confirmed(len(tokens))
        records = _flat(tokens) if self._batches.is_on else tokens
        if not records:
            return
        self._publisher.count("sent", len(tokens))
        self._publisher.confirmed(records)  # type: ignore[arg-type]
        self._finish(records, is_taken=True)  # type: ignore[arg-type]

    def _finish(self, records: Sequence[Record], is_taken: bool = False) -> None:
        """Tell the journal that these are done; `is_taken`: the exchange took them."""
        self._books.finish(records)
        self._move_on(records, is_taken)

    def _move_on(self, records: Sequence[Record], is_taken: bool) -> None:
        self._suspicion.finished(records[-1].id)
        if self.behind:
            self._may_hold += len(records) / 2
        if self._batches.is_on:
            self._batches.finished(records)
        if is_taken:
            if self.state is State.PROBING:
                self._move(Event.TAKEN)
                log.info("exchange %s: accepts again, %d held messages go first", self.exchange, self.held_count)
            self._publisher.answered(is_confirm=True)
        else:
            self._publisher.made_room()

    def returned(self, message_id: str, returned: Returned) -> None:
        self._returned[message_id.partition("-")[2]] = returned
        self._publisher.count("returned", 1)

    def _without_returned(self, tokens: list[Token]) -> list[Token]:
        """Deal with the messages that nobody on the bus wants; return the others."""
        wanted: list[Token] = []
        for token in tokens:
            records = token if isinstance(token, list) else [token]
            returned = self._returned.pop(_name(token), None)
            if returned is None:
                wanted.append(token)
            elif self._settings.runtime.when_unroutable_for(records[0].key.type) == "park":
                self._park(records, returned.text, is_taken=True)
            else:
                self._publisher.count("unroutable", len(records), records[0].key.type)
                self._finish(records, is_taken=True)
        return wanted

    def _park(self, records: list[Record], reason: str, is_taken: bool = False) -> None:
        self._journal.park(self.exchange, records, reason)
        self._publisher.count("parked", len(records))
        self._parked_log("exchange %s: message %d parked: %s", self.exchange or "unknown", records[0].id, reason)
        self._books.hand_over(records)
        self._move_on(records, is_taken)

    def _expire(self, record: Record, ttl_s: int) -> None:
        self._publisher.count("expired", 1)
        text = "exchange %s: message %d expired: it waited for longer than its TTL of %d s"
        self._expired_log(text, self.exchange, record.id, ttl_s)
        self._finish([record])

    def closed(self, error: BusRefused, unanswered: list[Token]) -> None:
        """The broker closed the channel."""
        self.channel = self.unread_since = None
        self._returned.clear()
        records = _flat(unanswered)
        if error.code in _REFUSED_CODES:
            self._refuse(records, str(error))
        elif self._is_alone() and len(unanswered) == 1:
            self._give_up(records, error)
        else:
            log.warning("exchange %s: channel closed: %s", self.exchange, error)
            self._suspicion.closed(records)
            self._take_back(records)
        self._publisher.answered(is_confirm=False)

    def taken_away(self) -> None:
        self.channel = None

    def wake(self) -> None:
        self._publisher.made_room()

    def _give_up(self, records: list[Record], error: BusRefused) -> None:
        """The channel was closed because of this publish. A batch is split until the message is found it was for."""
        if len(records) == 1:
            self._park(records, str(error))
            return
        log.warning("exchange %s: batch of %d messages is split: %s", self.exchange, len(records), error)
        self._batches.split(records)
        self._take_back(records)

    def _take_back(self, records: list[Record]) -> None:
        """What was on its way when the channel was closed goes again, first."""
        if self._books is self._late:
            self._hold(records)
        elif self.state is not State.HELD:
            self.queue.extendleft(reversed(records))

    # -- held ------------------------------------------------------------------------------------------------

    def _refuse(self, records: list[Record], reason: str) -> None:
        """The exchange does not take messages now: it is held."""
        if self._books is self._held:
            self.queue.clear()
        else:
            self._hold_back([*records, *self.queue])
        self._to_held(Event.REFUSED, reason)
        self._publisher.answered(is_confirm=False)

    def _to_held(self, event: Event, reason: str) -> None:
        if self.state is State.OPEN:
            self._delays = self._fresh_delays()
        if self.state is not State.HELD:
            delay_s = 0.0 if event is Event.LOST else next(self._delays)
            self._probe_at = self._clock() + delay_s
            log.warning(
                "exchange %s: held, %d messages wait: %s; tried again in %.1f s",
                self.exchange, self.held_count, reason, delay_s,
            )
        self._move(event)
        self.reason = reason
        self._hold_behind(len(self.behind))

    def _hold_back(self, records: list[Record]) -> None:
        """Hold what was refused or not sent. What is on its way may still be confirmed, but takes no more room."""
        self._hold(records)
        self.queue.clear()
        if self._books is not self._late:
            on_the_way = _flat(self.channel.unanswered()) if self.channel is not None else []
            self._publisher.ledger.hand_over(on_the_way)
            self._late.take(on_the_way)
            self._books = self._late

    def _hold(self, records: list[Record]) -> None:
        if records:
            self._held.hold(records)
            self._publisher.ledger.hand_over(records)
            self._late.hand_over(records)

    def _hold_some_behind(self) -> None:
        """Make room for others in the window, where many are held; else it is not for long."""
        if self.behind and self._held.count > _FEW_HELD and (messages := int(min(self._may_hold, len(self.behind)))):
            self._may_hold -= messages
            self._hold_behind(messages)

    def _hold_behind(self, messages: int) -> None:
        if messages:
            self._hold([self.behind.popleft() for _ in range(messages)])
            self._publisher.made_room()

    def _begin_with_held(self) -> None:
        if self.state is State.SILENT:
            log.info("exchange %s: answers again, %d held messages go first", self.exchange, self.held_count)
            self._move(Event.ANSWERED)
        else:
            self._move(Event.DUE)
        self._books = self._held
        self._may_hold = 0.0
        self.queue = deque(self._held.begin())

    def _read_held(self) -> None:
        """Keep the queue filled from the held table; open the outlet when there are no more."""
        self.queue += self._held.read()
        # To look for more before something more is held would never end.
        if not self.queue and self._held.is_done():
            self._open()

    def _open(self) -> None:
        log.info("exchange %s: no more held messages", self.exchange)
        self._move(Event.EMPTIED)
        self.reason = ""
        self._books = self._publisher.ledger
        self.queue, self.behind = self.behind, deque()

    def _fresh_delays(self) -> Iterator[float]:
        # An operator who mended an exchange expects it to be found within two heartbeats.
        return backoff_delays(1.0, min(60.0, self._settings.bus.heartbeat_s))


def _name(token: Token) -> str:
    """Return what a publish's message id ends with, behind the journal's name."""
    return batch_name(token) if isinstance(token, list) else str(token.id)


def _parted(records: deque[Record], is_meant: Callable[[Record], bool]) -> tuple[deque[Record], list[Record]]:
    """Return those that stay, and those that are meant."""
    return deque(r for r in records if not is_meant(r)), [r for r in records if is_meant(r)]


def _flat(tokens: Iterable[Token]) -> list[Record]:
    """Return the messages behind tokens."""
    records: list[Record] = []
    for token in tokens:
        if isinstance(token, list):
            records += token
        else:
            records.append(token)
    return records
