"""A queue of dead letters as an operator sees it: looked at, sent back, dropped. Knows letters; not who asks.

AMQP has no way to look without taking. What is taken here is not acknowledged before it is done with, so that it goes
back when the channel is closed, however this process ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from gevent.event import AsyncResult

from vigiloconn.bus.channels import ChannelPool
from vigiloconn.consuming.deadletter import SUFFIX
from vigiloconn.errors import BusDown, BusRefused
from vigiloconn.interfaces import Connection
from vigiloconn.kit.escape import printable
from vigiloconn.kit.limits import MAX_NAME_BYTES
from vigiloconn.publishing.direct import DirectSender
from vigiloconn.topology.apply import request

#: Letters that are sent back together, before the first of them is acknowledged.
_TOGETHER = 100
_CONFIRM_S = 30.0
_OURS = "x-vigilo-"
_PROPERTIES = f"{_OURS}properties"
_NOT_FOUND = 404
#: What a message gets back. Not its expiration, which would end it while somebody looks for it, nor its user id: the
#: broker refuses one that is not who sends.
_RESTORED: dict[str, Callable[[Any], bool]] = {
    "priority": lambda value: _is_whole(value, 8),
    "timestamp": lambda value: _is_whole(value, 63),
    **dict.fromkeys(("correlation_id", "reply_to", "type", "app_id"), lambda value: _is_short_text(value)),
}


class Letter(NamedTuple):
    """One dead letter."""

    number: int
    """Its place in the queue, from 1."""
    tag: int
    body: bytes
    headers: dict[str, Any]
    properties: dict[str, Any]

    @property
    def reason(self) -> str:
        """Why it could not be handled."""
        return str(self.headers.get(f"{_OURS}reason", "(no reason: not a letter of ours)"))


def original_properties(letter: Letter) -> dict[str, Any]:
    """Return what the message had beside its headers, as far as the letter says."""
    found = letter.headers.get(_PROPERTIES)
    return dict(found) if isinstance(found, dict) else {}


def _is_restored(name: str, value: object) -> bool:
    # A letter may be anybody's: one value that can't be encoded must not keep the others from going.
    return name in _RESTORED and _RESTORED[name](value)


def _is_whole(value: object, bits: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**bits


def _is_short_text(value: object) -> bool:
    try:
        return isinstance(value, str) and len(value.encode()) <= MAX_NAME_BYTES
    except UnicodeEncodeError:
        return False


def dead_queue(queue: str) -> str:
    """Return the queue of the dead letters of `queue`, which may be that queue itself."""
    return queue if queue.endswith(SUFFIX) else queue + SUFFIX


def looking_counts(connection: Connection, queue: str) -> str:
    """Return why even looking at a queue changes something, "" where it does not.

    Raises `BusRefused` where there is no such queue, or it may not be declared.
    """
    refusal = request(connection, lambda channel: channel.queue_declare(queue, passive=True))
    if refusal is not None:
        raise refusal

    def compare(channel: Any) -> None:
        channel.queue_declare(queue, durable=True, auto_delete=False, arguments={"x-queue-type": "classic"})

    refusal = request(connection, compare)
    if refusal is None:
        return ""
    text = str(refusal)
    if "x-queue-type" in text and "quorum" in text:
        return "it is a quorum queue, which counts each look against its delivery limit and drops what reaches it"
    if "x-queue-type" not in text:
        return f"its type can't be told ({printable(text)}): a quorum queue counts each look against its delivery limit"
    return ""


class DeadQueue:
    """The letters of one queue, on a channel of its own."""

    def __init__(self, connection: Connection, queue: str) -> None:
        self.queue = queue
        self._connection = connection
        self._channel = connection.open_channel()

    @classmethod
    @contextmanager
    def opened(cls, connection: Connection, queue: str) -> Iterator[DeadQueue]:
        """Open it in a `with` block; what was taken and is not done with goes back at the end."""
        found = cls(connection, queue)
        try:
            yield found
        finally:
            connection.forget_channel(found._channel)

    def letters(self, limit: int | None = None) -> Iterator[Letter]:
        """Go through the letters that are there now, in order. Each stays in the queue unless it is done with."""
        left = int(self._channel.queue_declare(self.queue, passive=True).message_count)
        for number in range(1, min(left, limit if limit is not None else left) + 1):
            message = self._channel.basic_get(self.queue)
            if message is None:
                return
            properties = dict(message.properties)
            headers = dict(properties.pop("application_headers", None) or {})
            yield Letter(number, message.delivery_info["delivery_tag"], bytes(message.body), headers, properties)

    def drop(self, letter: Letter) -> None:
        """Take a letter out for good."""
        self._channel.basic_ack(letter.tag)

    def requeue(self, letters: Iterator[Letter], queue: str, did: Callable[[int], None]) -> int:
        """Send letters to `queue` itself, and take each out once the broker has confirmed it; return how many.

        By the default exchange: the one that it came by might feed other queues once more. Raises `BusRefused` and
        `BusDown`; the letters that are not confirmed stay.
        """
        sender = _Sender(self._connection, queue)
        done = 0
        portion: list[Letter] = []
        for letter in letters:
            portion.append(letter)
            if len(portion) == _TOGETHER:
                done += self._sent_back(sender, portion, did)
                portion = []
        return done + self._sent_back(sender, portion, did)

    def _sent_back(self, sender: _Sender, portion: list[Letter], did: Callable[[int], None]) -> int:
        answers = [(letter, sender.send(letter)) for letter in portion]
        for letter, answer in answers:
            sender.wait(answer)
            self._channel.basic_ack(letter.tag)
            did(1)
        return len(answers)


class _Sender:
    """Publishes with confirms on the caller's greenlet."""

    def __init__(self, connection: Connection, queue: str) -> None:
        self._queue = queue
        self._connection = connection
        self._direct = DirectSender(ChannelPool())
        self._direct.connection_initialized(connection)

    def send(self, letter: Letter) -> AsyncResult[None]:
        properties, original = letter.properties, original_properties(letter)
        # What we added goes; what it had and is not sent again stays to be read.
        kept = {key: value for key, value in letter.headers.items() if not key.startswith(_OURS)}
        if left := {key: value for key, value in original.items() if not _is_restored(key, value)}:
            kept[_PROPERTIES] = left
        return self._direct.send(
            "", self._queue, letter.body, mandatory=True, headers=kept or None,
            content_type=properties.get("content_type") or "application/octet-stream",
            content_encoding=properties.get("content_encoding"), message_id=properties.get("message_id"),
            properties={key: value for key, value in original.items() if _is_restored(key, value)},
        )  # fmt: skip

    def wait(self, answer: AsyncResult[None]) -> None:
        """Return once it is confirmed. Raises `BusRefused`, `BusDown`."""
        if not self._direct.pump_until(answer, _CONFIRM_S):
            raise self._connection.lost or BusDown(f"no confirm within {_CONFIRM_S:g} s")
        error = answer.exception
        if isinstance(error, BusRefused) and error.code == 312:
            raise BusRefused(f"queue {self._queue!r} is not there: its letters stay", _NOT_FOUND)
        if error is not None:
            raise error
