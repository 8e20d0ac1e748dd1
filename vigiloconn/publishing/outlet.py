"""An outlet: one exchange's way to the bus, on a channel of its own.

A channel per exchange, because the broker answers a publish that it refuses by closing the channel:
so a missing exchange costs the others nothing, and there is no doubt about which one it was.

    OPEN      messages go as they come
    HELD      the broker refused: messages gather in the journal's held table, in order
    PROBING   the oldest held message is on its way, alone, on a fresh channel
    DRAINING  it was confirmed: the held ones go, newer ones still queue behind them
"""

from __future__ import annotations

import enum
import logging
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Protocol

from vigiloconn.bus.confirms import ConfirmChannel
from vigiloconn.errors import BadMessage, BusDown, BusRefused
from vigiloconn.interfaces import Connection, Record
from vigiloconn.kit.backoff import backoff_delays
from vigiloconn.kit.ratelog import RateLimitedLog
from vigiloconn.options import Publication
from vigiloconn.publishing.routes import Routes, perf_body, perf_head
from vigiloconn.publishing.watermark import Watermark

log = logging.getLogger(__name__)

Token = Record | list[Record]

#: One write's size. Larger ones gain nothing, and hold the connection's lock for longer.
_BUFFER_MESSAGES = 200
_BUFFER_BYTES = 256 << 10
#: Messages of a held exchange that are in memory at a time.
_HELD_MESSAGES = 1000
_REFUSED_CODES = (403, 404)


class State(enum.Enum):
    OPEN = "open"
    HELD = "held"
    PROBING = "probing"
    DRAINING = "draining"


class Journal(Protocol):
    """What an outlet asks of the journal's side; nothing here blocks."""

    @property
    def uuid(self) -> str: ...
    def discard_upto(self, id: int) -> None: ...
    def discard_held_upto(self, exchange: str, id: int) -> None: ...
    def hold(self, exchange: str, records: list[Record]) -> None: ...
    def park(self, exchange: str, records: list[Record], reason: str) -> None: ...
    def ask_held(self, exchange: str, after_id: int) -> None: ...
    def take_held(self, exchange: str) -> list[Record] | None: ...


class Publisher(Protocol):
    """What an outlet asks of the publisher that owns it."""

    @property
    def journal(self) -> Journal: ...
    main_watermark: Watermark
    batch_send_perf: int
    batch_linger_s: float
    settle_max_s: float
    log_traffic: bool
    is_stopping: bool
    parked_log: RateLimitedLog

    def publication(self, kind: str) -> Publication: ...
    def parks_unroutable(self, kind: str) -> bool: ...
    def count(self, figure: str, number: int) -> None: ...
    def progress(self) -> None: ...
    def is_full(self) -> bool: ...


class Outlet:
    """Sends the messages of one exchange in order, and decides what an answer of the broker means.

    `step` runs on the publisher's greenlet, the answers come on the reader's. Neither yields between
    looking at the state and changing it, so they need no lock.
    """

    def __init__(self, exchange: str, publisher: Publisher, held_count: int = 0) -> None:
        self.exchange = exchange
        self.state = State.HELD if held_count else State.OPEN
        self.reason = "messages were held when the connector stopped" if held_count else ""
        self.queue: deque[Record] = deque()
        self.channel: ConfirmChannel[Token] | None = None
        self.held_count = held_count
        self._publisher = publisher
        self._journal = publisher.journal
        self._held_watermark = Watermark()
        self._watermark = self._held_watermark if held_count else publisher.main_watermark
        self._held_read_upto = 0
        self._held_asked: int | None = None
        self._held_end: int | None = None
        self._holds = 0
        self._routes = Routes(exchange, publisher.publication, publisher.batch_send_perf)
        self._returned: dict[str, str] = {}
        self._delays = backoff_delays(1.0, publisher.settle_max_s)
        self._probe_at = 0.0
        self._suspect_id = 0
        self._careful_upto = 0
        self._linger_until: float | None = None

    # -- what the publisher asks -----------------------------------------------------------------------

    @property
    def outstanding(self) -> int:
        """Publishes that the broker has not answered."""
        return self.channel.outstanding if self.channel is not None else 0

    @property
    def is_at_rest(self) -> bool:
        """True while nothing was taken from the held table that is not finished."""
        return self.state in (State.OPEN, State.HELD)

    def add(self, record: Record) -> None:
        """Take a message of the main watermark: into the queue, or behind those that are held."""
        if self.state is State.OPEN:
            self.queue.append(record)
        else:
            self._hold([record])

    def deadline(self) -> float | None:
        """Return when `step` has something to do by itself (monotonic seconds), None when it has not."""
        if self.state is State.HELD and self.outstanding == 0:
            return self._probe_at
        return self._linger_until

    def step(self, connection: Connection) -> int:
        """Send what may be sent now in one write; return the number of publishes. Raises `BusDown`."""
        self._linger_until = None
        if self.state is State.HELD:
            if self.outstanding or time.monotonic() < self._probe_at:
                return 0
            self._begin_probe()
        if self.state is not State.OPEN:
            self._read_held()
        if not self.queue:
            return 0
        limit = _BUFFER_MESSAGES
        if self.state is State.PROBING or self._careful_upto:
            if self.outstanding:
                return 0
            limit = 1
        channel = self._ready_channel(connection)
        buffer, tokens = self._render(channel.id, connection.frame_max, limit)
        if tokens:
            channel.send(buffer, tokens)
        return len(tokens)

    def connection_lost(self, error: BusDown | BusRefused | None) -> None:
        """Take back what is unanswered: it counts as not sent."""
        channel, self.channel = self.channel, None
        unanswered = _flat(channel.unanswered()) if channel is not None else []
        self._returned.clear()
        self._linger_until = None
        if isinstance(error, BusRefused) and unanswered:
            # The broker closed the connection because of something that we sent; perhaps this.
            self._suspect(unanswered)
        if self._watermark is not self._publisher.main_watermark:
            self.queue.clear()
            self._to_held((error and str(error)) or "the connection was lost", at_once=True)
        elif self.state is State.OPEN:
            self.queue.extendleft(reversed(unanswered))
        else:
            self._hold(unanswered)
            self._probe_at = 0.0

    # -- sending -----------------------------------------------------------------------------------------

    def _ready_channel(self, connection: Connection) -> ConfirmChannel[Token]:
        channel = self.channel
        if channel is None or channel.closed or channel.connection is not connection:
            channel = ConfirmChannel(
                connection, on_settled=self._settled, on_returned=self._on_returned, on_closed=self._closed
            )
            if connection.lost is not None:
                raise connection.lost
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
        now = time.time()
        while queue and len(tokens) < limit and size < _BUFFER_BYTES:
            record = queue[0]
            try:
                frames, ttl_s, is_batched = self._routes.get(record.key, channel_id, frame_max)
            except BadMessage as exc:
                self._park([queue.popleft()], str(exc))
                continue
            if ttl_s is not None and now - record.accepted_at > ttl_s:
                self._publisher.count("expired", 1)
                self._finish([queue.popleft()])
                continue
            token: Token = record
            body = record.body
            if is_batched:
                token = self._perf_group()
                if not token:
                    break
                body = perf_body(token)
            else:
                queue.popleft()
            if self._publisher.log_traffic:
                log.debug("to %s: %s", self.exchange, body)
            frame = frames.render(body, prefix + b"%d" % record.id)
            size += len(frame)
            parts.append(frame)
            tokens.append(token)
        return b"".join(parts), tokens

    def _perf_group(self) -> list[Record]:
        """Take the performance messages at the head that go as one; none while there is reason to wait for more."""
        wanted = self._publisher.batch_send_perf
        group = perf_head(self.queue, wanted)
        may_grow = len(group) == len(self.queue) and len(group) < wanted
        # In a full window it would wait for what can't come before it is gone.
        if may_grow and not self._publisher.is_stopping and not self._publisher.is_full():
            now = time.monotonic()
            # An incomplete one waits for as long as the oldest in it may be late.
            due = now + max(0.0, group[0].accepted_at + self._publisher.batch_linger_s - time.time())
            if due > now:
                self._linger_until = due
                return []
        for _ in group:
            self.queue.popleft()
        return group

    # -- answers -------------------------------------------------------------------------------------------

    def _settled(self, tokens: list[Token], acked: bool) -> None:
        if not acked:
            for record in _flat(tokens):
                self._returned.pop(str(record.id), None)
            self._refuse(_flat(tokens), "the broker refused it (basic.nack): is a queue full?")
            return
        if self._returned:
            tokens = self._without_returned(tokens)
        records = _flat(tokens) if self._publisher.batch_send_perf > 1 else tokens
        if not records:
            return
        self._publisher.count("sent", len(tokens))
        self._finish(records, is_taken=True)  # type: ignore[arg-type]

    def _finish(self, records: Sequence[Record], is_taken: bool = False) -> None:
        """Tell the watermark, and through it the journal, that these are done; `is_taken`: the exchange took them."""
        watermark = self._watermark
        moved = watermark.finish(records)
        if self._careful_upto and records[-1].id >= self._careful_upto:
            self._careful_upto = 0
        if watermark is self._held_watermark:
            self.held_count -= len(records)
            if moved:
                self._journal.discard_held_upto(self.exchange, watermark.finished_upto)
            if is_taken and self.state is State.PROBING:
                self.state = State.DRAINING
                log.info("exchange %s: accepts again, %d held messages go first", self.exchange, self.held_count)
        elif moved:
            self._journal.discard_upto(watermark.finished_upto)
        self._publisher.progress()

    def _on_returned(self, message_id: str, reason: str) -> None:
        self._returned[message_id.rpartition("-")[2]] = reason

    def _without_returned(self, tokens: list[Token]) -> list[Token]:
        """Deal with the messages that nobody on the bus wants; return the others."""
        wanted: list[Token] = []
        for token in tokens:
            records = token if isinstance(token, list) else [token]
            reason = self._returned.pop(str(records[0].id), None)
            if reason is None:
                wanted.append(token)
            elif self._publisher.parks_unroutable(records[0].key.type):
                self._park(records, reason, is_taken=True)
            else:
                self._publisher.count("unroutable", len(records))
                self._finish(records, is_taken=True)
        return wanted

    def _park(self, records: list[Record], reason: str, is_taken: bool = False) -> None:
        self._journal.park(self.exchange, records, reason)
        self._publisher.count("parked", len(records))
        self._publisher.parked_log(
            "exchange %s: message %d parked: %s", self.exchange or "unknown", records[0].id, reason
        )
        self._finish(records, is_taken)

    def _closed(self, error: BusRefused, unanswered: list[Token]) -> None:
        """The broker closed the channel."""
        self.channel = None
        self._returned.clear()
        records = _flat(unanswered)
        was_alone = self.state is State.PROBING or bool(self._careful_upto)
        if error.code in _REFUSED_CODES:
            self._refuse(records, str(error))
        elif was_alone and len(unanswered) == 1:
            self._park(records, str(error))
        else:
            log.warning("exchange %s: channel closed: %s", self.exchange, error)
            self._suspect(records)
            if self.state is State.HELD and self._watermark is self._publisher.main_watermark:
                self._hold(records)
            elif self.state is not State.HELD:
                self.queue.extendleft(reversed(records))
        self._publisher.progress()

    def _suspect(self, records: list[Record]) -> None:
        """Remember the head; at the second time send one by one, until the culprit is found."""
        if records and records[0].id == self._suspect_id:
            self._careful_upto = records[-1].id
        self._suspect_id = records[0].id if records else 0

    # -- held ------------------------------------------------------------------------------------------------

    def _refuse(self, records: list[Record], reason: str) -> None:
        """The exchange does not take messages now: it is held."""
        if self._watermark is self._publisher.main_watermark:
            # What is on its way may still be confirmed; only what was refused or not sent is moved.
            self._hold([*records, *self.queue])
        self.queue.clear()
        self._to_held(reason)
        self._publisher.progress()

    def _to_held(self, reason: str, at_once: bool = False) -> None:
        if self.state is State.OPEN:
            self._delays = backoff_delays(1.0, self._publisher.settle_max_s)
        if self.state is not State.HELD:
            delay_s = 0.0 if at_once else next(self._delays)
            self._probe_at = time.monotonic() + delay_s
            log.warning(
                "exchange %s: held, %d messages wait: %s; tried again in %.1f s",
                self.exchange, self.held_count, reason, delay_s,
            )
        self.state = State.HELD
        self.reason = reason

    def _hold(self, records: list[Record]) -> None:
        if not records:
            return
        self._journal.hold(self.exchange, records)
        self.held_count += len(records)
        self._holds += 1
        watermark = self._publisher.main_watermark
        if watermark.finish(records):
            self._journal.discard_upto(watermark.finished_upto)

    def _begin_probe(self) -> None:
        if self.channel is not None:
            self.channel.close()
            self.channel = None
        self._watermark = self._held_watermark
        self.state = State.PROBING
        self._held_asked = self._held_end = None
        # What was read and not confirmed goes first; the rest is still in the table.
        self.queue = deque(self._held_watermark.unfinished())

    def _read_held(self) -> None:
        """Keep the queue filled from the held table; open the outlet when there are no more."""
        if self._held_asked is not None:
            page = self._journal.take_held(self.exchange)
            if page is None:
                return
            is_complete, self._held_asked = self._held_asked == self._holds, None
            self._held_watermark.take(page)
            self.queue.extend(page)
            if page:
                self._held_read_upto = page[-1].id
            elif is_complete:
                self._held_end = self._holds
        if self._held_end == self._holds:
            # Everything was read. To ask again before something more is held would never end.
            if not self.queue and not self._held_watermark.unfinished():
                self._open()
            return
        if len(self._held_watermark) <= _HELD_MESSAGES // 2:
            self._held_asked = self._holds
            self._journal.ask_held(self.exchange, self._held_read_upto)

    def _open(self) -> None:
        log.info("exchange %s: no more held messages", self.exchange)
        self.state = State.OPEN
        self.reason = ""
        self.held_count = 0
        self._watermark = self._publisher.main_watermark
        self._delays = backoff_delays(1.0, self._publisher.settle_max_s)


def _flat(tokens: Iterable[Token]) -> list[Record]:
    """Return the messages behind tokens."""
    records: list[Record] = []
    for token in tokens:
        if isinstance(token, list):
            records += token
        else:
            records.append(token)
    return records
