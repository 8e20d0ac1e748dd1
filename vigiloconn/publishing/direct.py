"""Single messages that are in no journal: dead letters, states, what a connector sends by itself.

Knows one channel in confirm mode. What is sent waits in memory until the bus has confirmed it.
"""

from __future__ import annotations

import itertools
import logging
import uuid
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import gevent
from gevent.event import AsyncResult, Event

from vigiloconn.bus.confirms import ConfirmChannel, Returned
from vigiloconn.bus.frames import PublishFrames
from vigiloconn.errors import BadMessage, BusDown, BusRefused
from vigiloconn.interfaces import Channels, Connection

log = logging.getLogger(__name__)

#: Bodies are held in memory: a sender that does not look at its results must not fill it.
MAX_WAITING = 10_000
_BUFFER_MESSAGES = 50
_NACKED = Returned(0, "refused by the broker (basic.nack)")


@dataclass(slots=True, eq=False)
class _Letter:
    exchange: str
    routing_key: str
    body: bytes
    options: dict[str, Any]
    message_id: str
    result: AsyncResult[None] = field(default_factory=AsyncResult)


class DirectSender:
    """Publishes messages one after the other, and again after a loss of the connection, until each is answered.

    `run()` is one life of a greenlet; a client runs it for its connection.
    """

    def __init__(self, channels: Channels) -> None:
        self._channels = channels
        self._connection: Connection | None = None
        self._channel: ConfirmChannel[_Letter] | None = None
        self._waiting: deque[_Letter] = deque()
        self._returned: dict[str, Returned] = {}
        self._one_by_one = 0
        self._refusing: set[str] = set()
        """Exchanges that closed the channel last time: what is under way to others must not pay for it again."""
        self._ids = itertools.count(1)
        self._prefix = uuid.uuid4().hex
        self._wake = Event()

    def send(
        self,
        exchange: str,
        routing_key: str,
        body: bytes,
        *,
        persistent: bool = True,
        mandatory: bool = False,
        headers: Mapping[str, Any] | None = None,
        ttl_ms: int | None = None,
        content_type: str = "application/json",
        content_encoding: str | None = None,
        message_id: str | None = None,
        properties: Mapping[str, Any] | None = None,
    ) -> AsyncResult[None]:
        """Send as soon as the bus is there; never blocks. `properties`: those that are no argument here.

        The result is set to None by the broker's confirm, or to `BusRefused` when it refused the message or,
        with `mandatory`, no queue is bound; to `BadMessage` when it can't be encoded. Raises `BusDown` when
        `MAX_WAITING` messages wait already.
        """
        if self.waiting >= MAX_WAITING:
            raise BusDown(f"{MAX_WAITING} messages wait for the bus already")
        options = {
            "persistent": persistent, "mandatory": mandatory, "headers": headers, "expiration_ms": ttl_ms,
            "content_type": content_type, "content_encoding": content_encoding, "properties": properties,
        }  # fmt: skip
        letter = _Letter(exchange, routing_key, body, options, message_id or f"{self._prefix}-{next(self._ids)}")
        self._waiting.append(letter)
        self._wake.set()
        return letter.result

    @property
    def waiting(self) -> int:
        """Messages without an answer."""
        return len(self._waiting) + self.outstanding

    @property
    def outstanding(self) -> int:
        """Messages that were sent and have no answer."""
        return self._channel.outstanding if self._channel is not None else 0

    def connection_initialized(self, connection: Connection) -> None:
        """The bus is there. Must not block."""
        self._connection = connection
        self._wake.set()

    def connection_lost(self) -> None:
        """Take back what is unanswered."""
        self._connection = None
        channel, self._channel = self._channel, None
        if channel is not None:
            self._waiting.extendleft(reversed(channel.unanswered()))
        self._returned.clear()

    def run(self) -> None:
        """Send what waits, for ever."""
        while True:
            self._wake.wait()
            self._wake.clear()
            self.pump()

    def pump_until(self, answer: AsyncResult[None], timeout_s: float) -> bool:
        """Send on the caller's greenlet until there is `answer`; False where there was nothing new for `timeout_s`.

        After a refusal the rest goes one by one: so once is not enough.
        """
        while not answer.ready():
            self._wake.clear()
            self.pump()
            if not gevent.wait([answer, self._wake], timeout=timeout_s, count=1):
                return False
            if self._connection is not None and self._connection.lost is not None:
                return False
        return True

    def pump(self) -> None:
        """Send until nothing is left, an answer has to come first, or the bus is gone. Blocks only while the broker
        does not read."""
        try:
            while self._connection is not None and self._waiting and self._step(self._connection):
                pass
            if not self._waiting:
                self._channels.leave(self)
        except BusDown as exc:
            log.debug("sending stopped: %s", exc)
        except BusRefused as exc:
            if self._connection is not None:
                self._connection.abort(f"no channel for sending: {exc}")

    def _step(self, connection: Connection) -> bool:
        if self._one_by_one and self.outstanding:
            return False
        channel: ConfirmChannel[_Letter] | None = self._channels.take(connection, self)
        if channel is None:
            return False
        self._channel = channel
        letters: list[_Letter] = []
        parts: list[bytes] = []
        while self._waiting and len(letters) < (1 if self._one_by_one else _BUFFER_MESSAGES):
            if self._waiting[0].exchange in self._refusing and not self._one_by_one:
                if letters or self.outstanding:
                    break
                self._one_by_one = 1
            letter = self._waiting.popleft()
            try:
                frames = PublishFrames(
                    channel.id, letter.exchange, letter.routing_key, frame_max=connection.frame_max, **letter.options
                )
                parts.append(frames.render(letter.body, letter.message_id.encode()))
            except UnicodeEncodeError as exc:
                letter.result.set_exception(BadMessage(f"message_id {letter.message_id!a:.80}: no UTF-8: {exc.reason}"))
            except BadMessage as exc:
                letter.result.set_exception(exc)
            else:
                letters.append(letter)
        if letters:
            channel.send(b"".join(parts), letters)
        return bool(letters) or not self.outstanding

    def settled(self, letters: list[_Letter], acked: bool) -> None:
        for letter in letters:
            self._refusing.discard(letter.exchange)
            returned = self._returned.pop(letter.message_id, None)
            if not acked:
                returned = _NACKED
            if returned is None:
                letter.result.set(None)
            else:
                text = f"exchange {letter.exchange!r}: {returned.text}"
                letter.result.set_exception(BusRefused(text, returned.code))
        self._one_by_one = max(0, self._one_by_one - len(letters))
        self._channels.wake_first()
        self._wake.set()

    def returned(self, message_id: str, returned: Returned) -> None:
        self._returned[message_id] = returned

    def taken_away(self) -> None:
        self._channel = None

    def wake(self) -> None:
        self._wake.set()

    def closed(self, error: BusRefused, unanswered: list[_Letter]) -> None:
        """The broker does not say which message it meant: find out by sending them one by one."""
        self._channel = None
        self._returned.clear()
        if len(unanswered) == 1:
            unanswered[0].result.set_exception(error)
            self._refusing.add(unanswered[0].exchange)
            self._one_by_one = max(0, self._one_by_one - 1)
        else:
            self._one_by_one = len(unanswered)
            self._waiting.extendleft(reversed(unanswered))
        self._channels.wake_first()
        self._wake.set()
