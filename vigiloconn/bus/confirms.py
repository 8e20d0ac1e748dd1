"""A channel in confirm mode: which publishes the broker has answered, and how.

Tags are matched here, `multiple` included, because py-amqp takes any answer for the latest publish.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from vigiloconn.errors import BusRefused
from vigiloconn.interfaces import Connection
from vigiloconn.kit.escape import printable

T = TypeVar("T")


class Returned(NamedTuple):
    """What a broker says of a message that no queue wants."""

    code: int
    """The AMQP reply code."""
    text: str
    """The reason, in one line."""


class ConfirmChannel(Generic[T]):
    """Publishes whole frames, each with a token of the caller's, and gives the tokens back as they are answered.

    The callbacks run on the connection's reading greenlet: they must neither block nor call the bus.
    `on_settled(tokens, acked)` gets tokens in the order of publishing; `on_returned(message_id, returned)`
    comes before the ack of the same message; `on_closed(error, unanswered)` when the broker closes the
    channel. When the connection is lost nothing is called: ask for `unanswered()`.

    Raises `BusDown` or `BusRefused` if the channel can't be opened. Confirms: RabbitMQ's extension
    `confirm.select`, documented with its publisher confirms.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        on_settled: Callable[[list[T], bool], None],
        on_returned: Callable[[str, Returned], None],
        on_closed: Callable[[BusRefused, list[T]], None],
    ) -> None:
        self._connection = connection
        self._on_settled = on_settled
        self._on_returned = on_returned
        self._on_closed = on_closed
        self._pending: deque[T] = deque()
        self._first_tag = 1
        self._early: set[int] = set()
        self._channel = connection.open_channel()
        self.id: int = self._channel.channel_id
        self.closed = False
        self._channel.on_closed = self._closed
        self._channel.events["basic_return"].add(self._returned)
        connection.confirms[self.id] = self._confirmed
        self._channel.confirm_select()

    @property
    def outstanding(self) -> int:
        """Number of publishes that the broker has not answered."""
        return len(self._pending) - len(self._early)

    @property
    def connection(self) -> Connection:
        """The connection that this channel is on."""
        return self._connection

    def send(self, buffer: bytes, tokens: Sequence[T]) -> None:
        """Write `buffer`, which holds one publish for each token, in order. One greenlet at a time. Blocks while the
        broker does not read. Raises `BusDown`. If the broker closes the channel first, `on_closed` has the tokens;
        once the channel is `closed`, `BusRefused` is raised and nothing is written.
        """
        if self.closed:
            raise self._channel.closed_by or BusRefused("the channel is closed")
        # Before the write: the reader may see the first answers while the rest is still being written.
        self._pending.extend(tokens)
        self._connection.write(buffer, self._channel)

    def ping(self, on_answer: Callable[[], None]) -> None:
        """Ask for what changes nothing; `on_answer` is called once the broker has read that. Raises `BusDown`."""
        self._channel.ping(on_answer)

    def unanswered(self) -> list[T]:
        """Return the tokens without an answer, in the order of publishing."""
        first = self._first_tag
        return [token for tag, token in enumerate(self._pending, first) if tag not in self._early]

    def hand_over(
        self,
        *,
        on_settled: Callable[[list[Any], bool], None],
        on_returned: Callable[[str, Returned], None],
        on_closed: Callable[[BusRefused, list[Any]], None],
    ) -> None:
        """Tell another from now on. Nothing may be on its way."""
        assert not self._pending
        self._on_settled, self._on_returned, self._on_closed = on_settled, on_returned, on_closed

    def _confirmed(self, tag: int, multiple: bool, acked: bool) -> None:
        pending, early, first = self._pending, self._early, self._first_tag
        if tag < first or tag >= first + len(pending) or (tag in early and not multiple):
            return
        if not multiple and tag != first:
            early.add(tag)
            self._on_settled([pending[tag - first]], acked)
            return
        if early:
            settled = []
            for number in range(first, tag + 1):
                token = pending.popleft()
                if number in early:
                    early.discard(number)
                else:
                    settled.append(token)
            first = tag + 1
            while first in early:
                early.discard(first)
                pending.popleft()
                first += 1
            self._first_tag = first
        else:
            settled = [pending.popleft() for _ in range(tag + 1 - first)]
            self._first_tag = tag + 1
        self._on_settled(settled, acked)

    def _returned(self, error: Any, exchange: str, routing_key: str, message: Any) -> None:
        message_id = message.properties.get("message_id", "")
        text = f"{error.reply_code} {printable(error.reply_text)}: no queue is bound for {routing_key!r}"
        self._on_returned(message_id, Returned(error.reply_code, text))

    def _closed(self, error: BusRefused) -> None:
        if self.closed:
            return
        self.closed = True
        self._connection.confirms.pop(self.id, None)
        unanswered = self.unanswered()
        self._pending.clear()
        self._early.clear()
        self._on_closed(error, unanswered)
