"""A bus that a test scripts: it decodes the frames that are written to it, and answers as it is told, when it is told.

Knows AMQP's frames and the Protocols of `vigiloconn.interfaces`; it has no queues, no bindings and no will of its own.

    client = ScriptedClient()
    client.add_handler(publisher)
    connection = client.connect()           # the handlers hear of it, as from a real client
    ...                                     # the part under test publishes
    [channel] = connection.channels.values()
    assert [message.body for message in channel.unanswered] == [b"{}"]
    channel.ack()
    client.lose("pulled the plug")

Everything happens on the caller's greenlet, inside the call that makes it happen. So an answer is dealt with when
`ack()` returns, as if the reading greenlet had come to it just then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from struct import pack, unpack_from
from typing import Any, NamedTuple

from amqp.basic_message import Message
from amqp.serialization import decode_properties_basic
from gevent.event import AsyncResult

from vigiloconn.bus.channels import ChannelPool
from vigiloconn.errors import BusDown, BusRefused, LeaveBroker, NoChannel
from vigiloconn.supervisor import Handler

_METHOD, _HEADER, _BODY = 1, 2, 3
_FRAME_END = 0xCE
#: Octets of a frame that are not payload: type, channel, size, end.
_FRAME_OVERHEAD = 8
#: Octets of a content header before its property flags: class, weight, body size.
_PROPERTIES_AT = 12
_BASIC, _PUBLISH, _DELIVER = 60, 40, 60
_SETTLED = {80: "ack", 90: "reject", 120: "nack"}


class WrongFrames(AssertionError):
    """Raised when what is written is not what AMQP 0-9-1 allows: a broker would close the connection."""


@dataclass(frozen=True, slots=True, eq=False)
class Published:
    """A message that was written, with the delivery tag that the broker answers it by. Told from others by identity."""

    channel: ScriptedChannel
    tag: int
    exchange: str
    routing_key: str
    mandatory: bool
    properties: Mapping[str, Any]
    """By py-amqp's names: `message_id`, `delivery_mode`, `expiration`, `application_headers`, ... as far as set."""
    body: bytes

    @property
    def message_id(self) -> str:
        """Its message id, empty where there is none."""
        return str(self.properties.get("message_id", ""))


class Settlement(NamedTuple):
    """An answer to deliveries that was written by a consumer."""

    kind: str
    """`ack`, `reject` or `nack`."""
    tag: int
    multiple: bool
    """Of an ack or nack: all up to this tag."""
    requeue: bool
    """Of a reject or nack: back into the queue."""


class Returned(NamedTuple):
    """What py-amqp gives the listeners of `basic_return` as the error."""

    reply_code: int
    reply_text: str


@dataclass(slots=True)
class _Content:
    """A publish of which not all frames have come."""

    exchange: str
    routing_key: str
    mandatory: bool
    properties: Mapping[str, Any] = field(default_factory=dict)
    missing_bytes: int = -1
    """-1 before the header."""
    parts: list[bytes] = field(default_factory=list)


class ScriptedChannel:
    """A channel: the methods of py-amqp's that the parts call, then what a test sees and says as the broker."""

    def __init__(self, connection: ScriptedConnection, channel_id: int) -> None:
        # What the parts see.
        self.channel_id = channel_id
        self.is_open = True
        self.closed_by: BusRefused | None = None
        self.on_closed: Callable[[BusRefused], None] | None = None
        self.events: dict[str, set[Callable[..., None]]] = {"basic_return": set()}
        self.callbacks: dict[str, Callable[..., None] | None] = {}
        self.cancel_callbacks: dict[str, Callable[[str], None]] = {}
        # What the test sees.
        self.connection = connection
        self.confirms = False
        """True after `confirm_select`."""
        self.published: list[Published] = []
        """All that was written, in order, answered or not."""
        self.settlements: list[Settlement] = []
        """All acknowledgements and rejections that were written, in order."""
        self.asked: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        """All synchronous calls: name, arguments, named arguments."""
        self.prefetch_messages = 0
        self.consumers: dict[str, str] = {}
        """Consumer tag -> queue."""
        self._unanswered: dict[int, Published] = {}
        self._delivered = 0
        self._unsettled: set[int] = set()
        self._content: _Content | None = None

    # -- what the parts call --------------------------------------------------------------------------------

    def confirm_select(self, nowait: bool = False) -> None:
        self._ask("confirm_select", nowait)
        self.confirms = True

    def ping(self, on_answer: Callable[[], None]) -> None:
        if self.connection.lost is not None:
            raise self.connection.lost
        self.asked.append(("ping", (), {}))
        if self.connection.is_read:
            on_answer()

    def queue_declare(self, queue: str = "", *args: Any, **options: Any) -> tuple[str, int, int]:
        self._ask("queue_declare", queue, *args, **options)
        return queue, 0, 0

    def queue_bind(self, queue: str, exchange: str = "", routing_key: str = "", **options: Any) -> None:
        self._ask("queue_bind", queue, exchange, routing_key, **options)

    def exchange_declare(self, exchange: str, type: str, **options: Any) -> None:
        self._ask("exchange_declare", exchange, type, **options)

    def basic_qos(self, prefetch_size: int, prefetch_count: int, a_global: bool) -> None:
        self._ask("basic_qos", prefetch_size, prefetch_count, a_global)
        self.prefetch_messages = prefetch_count

    def basic_consume(
        self,
        queue: str = "",
        consumer_tag: str = "",
        *flags: bool,
        callback: Callable[..., None] | None = None,
        on_cancel: Callable[[str], None] | None = None,
        **options: Any,
    ) -> str:
        self._ask("basic_consume", queue, consumer_tag, *flags, **options)
        tag = consumer_tag or f"scripted-{len(self.consumers) + 1}"
        self.consumers[tag] = queue
        self.callbacks[tag] = callback
        if on_cancel is not None:
            self.cancel_callbacks[tag] = on_cancel
        return tag

    def basic_cancel(self, consumer_tag: str, nowait: bool = False) -> None:
        self._ask("basic_cancel", consumer_tag, nowait=nowait)
        del self.consumers[consumer_tag]
        self.callbacks.pop(consumer_tag, None)
        self.cancel_callbacks.pop(consumer_tag, None)

    def close(self) -> None:
        """End the channel from our side; nobody is told."""
        self.is_open = False
        self.connection._channel_ended(self)

    def _ask(self, name: str, *args: Any, **options: Any) -> None:
        """Note a synchronous call, and fail it where the script says so."""
        if self.connection.lost is not None:
            raise self.connection.lost
        if self.closed_by is not None:
            raise self.closed_by
        self.asked.append((name, args, options))
        refusal = self.connection._take_refusal(name)
        if refusal is not None:
            self._close_by_broker(refusal)
            raise refusal

    # -- what the test sees ---------------------------------------------------------------------------------

    @property
    def unanswered(self) -> list[Published]:
        """What was written and has no answer, in order."""
        return list(self._unanswered.values())

    @property
    def unsettled(self) -> list[int]:
        """The tags of deliveries that were neither acknowledged nor rejected, in order."""
        return sorted(self._unsettled)

    # -- what the test says as the broker -------------------------------------------------------------------

    def ack(self, tag: int | None = None, *, multiple: bool = False) -> list[Published]:
        """Confirm one publish, or all up to it; without a tag all that is unanswered. Returns what was confirmed."""
        return self._answer(tag, multiple, True)

    def nack(self, tag: int | None = None, *, multiple: bool = False) -> list[Published]:
        """Refuse one publish, or all up to it; without a tag all that is unanswered. Returns what was refused."""
        return self._answer(tag, multiple, False)

    def _answer(self, tag: int | None, multiple: bool, acked: bool) -> list[Published]:
        if tag is None:
            if not self._unanswered:
                return []
            tag, multiple = max(self._unanswered), True
        tags = [each for each in self._unanswered if each == tag or (multiple and each < tag)]
        answered = [self._unanswered.pop(each) for each in tags]
        confirm = self.connection.confirms.get(self.channel_id)
        # Nobody listens once the channel is closed: the answer crosses the close.
        if confirm is not None and self.is_open and self.connection.lost is None:
            confirm(tag, multiple, acked)
        return answered

    def return_(self, tag: int, code: int = 312, text: str = "NO_ROUTE") -> None:
        """Give one publish back, as nobody wants it. It is still to be confirmed: a broker does that right after."""
        published = self._unanswered[tag]
        message = Message(published.body, **published.properties)
        for listener in list(self.events["basic_return"]):
            listener(Returned(code, text), published.exchange, published.routing_key, message)

    def close_by_broker(self, code: int, text: str = "") -> None:
        """Close the channel, as a broker does with a publish or a subscription that it refuses."""
        self._close_by_broker(BusRefused(f"({code}) {text or _TEXTS.get(code, 'REFUSED')}", code))

    def _close_by_broker(self, refusal: BusRefused) -> None:
        self.closed_by = refusal
        self.is_open = False
        self.connection._channel_ended(self)
        if self.on_closed is not None:
            self.on_closed(refusal)

    def cancel_by_broker(self, consumer_tag: str | None = None) -> None:
        """End a consumer, as a broker does when its queue is deleted; without a tag the one that there is."""
        [tag] = [consumer_tag] if consumer_tag is not None else self.consumers
        del self.consumers[tag]
        self.callbacks.pop(tag, None)
        self.cancel_callbacks.pop(tag)(tag)

    def deliver(
        self,
        body: bytes,
        *,
        exchange: str = "",
        routing_key: str = "",
        redelivered: bool = False,
        properties: bytes | None = None,
        consumer_tag: str | None = None,
        **named: Any,
    ) -> int:
        """Deliver a message to a consumer in frames; returns its tag.

        Properties are `named` as py-amqp does (`message_id=`, `application_headers=`), or encoded already, for those
        that no library would write.
        """
        [tag_of_consumer] = [consumer_tag] if consumer_tag is not None else self.consumers
        self._delivered += 1
        self._unsettled.add(self._delivered)
        method = pack(">HH", _BASIC, _DELIVER) + _short(tag_of_consumer)
        method += pack(">QB", self._delivered, redelivered) + _short(exchange) + _short(routing_key)
        encoded = Message("", **named)._serialize_properties() if properties is None else properties
        hear = self.connection.deliveries[self.channel_id]
        hear(_METHOD, method)
        hear(_HEADER, pack(">HHQ", _BASIC, 0, len(body)) + encoded)
        chunk = self.connection.frame_max - _FRAME_OVERHEAD
        for start in range(0, len(body), chunk):
            hear(_BODY, body[start : start + chunk])
        return self._delivered

    # -- frames that were written ---------------------------------------------------------------------------

    def _take_frame(self, kind: int, payload: bytes) -> None:
        if kind == _METHOD and self._content is None:
            self._take_method(payload)
        elif kind == _HEADER and self._content is not None and self._content.missing_bytes < 0:
            self._content.properties = decode_properties_basic(payload, _PROPERTIES_AT)[0]
            (self._content.missing_bytes,) = unpack_from(">Q", payload, 4)
        elif kind == _BODY and self._content is not None and 0 < len(payload) <= self._content.missing_bytes:
            self._content.parts.append(payload)
            self._content.missing_bytes -= len(payload)
        else:
            raise WrongFrames(f"channel {self.channel_id}: frame of type {kind}, {len(payload)} bytes, out of place")
        if self._content is not None and self._content.missing_bytes == 0:
            self._take_message(self._content)

    def _take_method(self, payload: bytes) -> None:
        class_id, method_id = unpack_from(">HH", payload)
        if (class_id, method_id) == (_BASIC, _PUBLISH):
            exchange, at = _read_short(payload, 6)
            routing_key, at = _read_short(payload, at)
            self._content = _Content(exchange, routing_key, bool(payload[at] & 1))
        elif class_id == _BASIC and method_id in _SETTLED:
            tag, bits = unpack_from(">QB", payload, 4)
            self._take_settlement(_SETTLED[method_id], tag, bits)
        else:
            raise WrongFrames(f"channel {self.channel_id}: method {class_id}.{method_id} is not written by frames here")

    def _take_message(self, content: _Content) -> None:
        self._content = None
        tag = len(self.published) + 1
        message = Published(
            self, tag, content.exchange, content.routing_key, content.mandatory, content.properties,
            b"".join(content.parts),
        )  # fmt: skip
        self.published.append(message)
        self.connection.published.append(message)
        if self.confirms:
            self._unanswered[tag] = message

    def _take_settlement(self, kind: str, tag: int, bits: int) -> None:
        multiple = kind != "reject" and bool(bits & 1)
        requeue = bool(bits & (1 if kind == "reject" else 2)) and kind != "ack"
        settled = {each for each in self._unsettled if each == tag or (multiple and each < tag)}
        # With `multiple` too: a broker closes the channel over a tag that is not outstanding.
        if tag not in settled:
            raise WrongFrames(f"channel {self.channel_id}: {kind} of tag {tag}, which is unknown or was settled before")
        self._unsettled -= settled
        self.settlements.append(Settlement(kind, tag, multiple, requeue))


class ScriptedConnection:
    """A connection as `vigiloconn.interfaces.Connection` has it, and the broker at its other end."""

    #: What `open_channel` makes.
    channel_type = ScriptedChannel

    def __init__(
        self,
        *,
        frame_max: int = 131_072,
        max_message_bytes: int = 16 << 20,
        max_channels: int = 2047,
        max_channels_of_user: int | None = None,
    ) -> None:
        # What the parts see.
        self.frame_max = frame_max
        self.max_message_bytes = max_message_bytes
        self.blocked = False
        self.on_blocked: Callable[[bool], None] = lambda blocked: None
        self.confirms: dict[int, Callable[[int, bool, bool], None]] = {}
        self.deliveries: dict[int, Callable[[int, bytes], None]] = {}
        self.contents: dict[int, Callable[[bytes, int, int, int], int]] = {}
        self.refusal: BusRefused | None = None
        self.heard_at = 0.0
        # What the test sees, and sets.
        self.is_read = True
        """False: the broker reads nothing, and does not answer a ping."""
        self.channels: dict[int, ScriptedChannel] = {}
        """The channels that are open, by number."""
        self.opened: list[ScriptedChannel] = []
        """All channels that were ever opened, in order."""
        self.published: list[Published] = []
        """All messages of all channels, in the order of writing."""
        self._max_channels = max_channels
        self._max_channels_of_user = max_channels_of_user
        self._lost: BusDown | None = None
        self._refusals: dict[str, list[BusRefused]] = {}
        self._cut_after: tuple[int, str] | None = None

    # -- what the parts call --------------------------------------------------------------------------------

    @property
    def lost(self) -> BusDown | None:
        return self._lost

    def open_channel(self) -> ScriptedChannel:
        if self._lost is not None:
            raise self._lost
        if len(self.channels) >= self._max_channels:
            raise NoChannel(f"scripted: the broker allows {self._max_channels} channels on a connection (channel_max)")
        if self._max_channels_of_user is not None and len(self.channels) >= self._max_channels_of_user:
            self.close_by_broker(530, "NOT_ALLOWED - number of channels opened has reached the user's limit")
            assert self._lost is not None
            raise self._lost
        refusal = self._take_refusal("open_channel")
        if refusal is not None:
            raise refusal
        # The lowest free number, as py-amqp does: a closed channel's number comes again.
        number = next(each for each in range(1, self._max_channels + 1) if each not in self.channels)
        channel = self.channels[number] = self.channel_type(self, number)
        self.opened.append(channel)
        return channel

    def forget_channel(self, channel: ScriptedChannel) -> None:
        self.confirms.pop(channel.channel_id, None)
        if channel.is_open and self._lost is None:
            channel.close()

    def write(self, buffer: bytes, channel: ScriptedChannel) -> bool:
        if self._lost is not None:
            raise self._lost
        if not channel.is_open:
            return False
        position = 0
        while position < len(buffer):
            kind, channel_id, size = unpack_from(">BHI", buffer, position)
            end = position + 7 + size
            if size + _FRAME_OVERHEAD > self.frame_max:
                raise WrongFrames(f"frame of {size + _FRAME_OVERHEAD} bytes, agreed were {self.frame_max}")
            if end >= len(buffer) or buffer[end] != _FRAME_END:
                raise WrongFrames(f"frame of {size} bytes at {position} of {len(buffer)} has no end of a frame")
            if channel_id != channel.channel_id:
                raise WrongFrames(f"frame of channel {channel_id} among those of channel {channel.channel_id}")
            channel._take_frame(kind, buffer[position + 7 : end])
            position = end + 1
            self._cut_if_due()
        return True

    def abort(self, reason: str) -> None:
        if self._lost is None:
            self._lost = BusDown(f"scripted: {reason}")

    def leave(self, reason: str) -> None:
        if self._lost is None:
            self._lost = LeaveBroker(f"scripted: {reason}")

    # -- what the test says as the broker -------------------------------------------------------------------

    def close_by_broker(self, code: int, text: str) -> None:
        """Close the connection because of something that the other side did."""
        self.refusal = BusRefused(f"scripted: {text}", code)
        self.abort(text)

    def refuse(self, method: str, code: int, text: str = "") -> None:
        """Refuse the next call of a channel's `method` (`queue_declare`, `confirm_select`, ...), which closes the
        channel, or the next `open_channel`. Called n times, the next n are refused."""
        refusal = BusRefused(f"({code}) {text or _TEXTS.get(code, 'REFUSED')}", code)
        self._refusals.setdefault(method, []).append(refusal)

    def cut_after(self, messages: int, reason: str = "cut in the middle of a write") -> None:
        """Lose the connection once `messages` more were written, in the middle of their write."""
        self._cut_after = len(self.published) + messages, reason

    def _cut_if_due(self) -> None:
        if self._cut_after is not None and len(self.published) >= self._cut_after[0]:
            self.abort(self._cut_after[1])
            assert self._lost is not None
            raise self._lost

    def _take_refusal(self, method: str) -> BusRefused | None:
        waiting = self._refusals.get(method)
        return waiting.pop(0) if waiting else None

    def _channel_ended(self, channel: ScriptedChannel) -> None:
        if self.channels.get(channel.channel_id) is channel:
            del self.channels[channel.channel_id]


@dataclass(slots=True, eq=False)
class Sent:
    """A single message that was given to `ScriptedClient.send`; set its `result` as the bus would."""

    exchange: str
    routing_key: str
    message: Mapping[str, Any] | bytes
    options: dict[str, Any]
    result: AsyncResult[None] = field(default_factory=AsyncResult)


class ScriptedClient:
    """A client as `vigiloconn.interfaces.Client` has it: tells its handlers what the test makes happen, in the order
    in which `VigiloClient` does. `clock` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        # What the parts see.
        self.connection: ScriptedConnection | None = None
        self.channels = ChannelPool(clock)
        self.last_error: BusDown | BusRefused | None = None
        self.has_others = False
        # What the test sees.
        self.sent: list[Sent] = []
        """What went past the journal, in order."""
        self.successes = 0
        """How often a handler said that the broker does its work."""
        self._handlers: list[Handler] = []

    # -- what the parts call --------------------------------------------------------------------------------

    def send(
        self, exchange: str, routing_key: str, message: Mapping[str, Any] | bytes, **options: Any
    ) -> AsyncResult[None]:
        sent = Sent(exchange, routing_key, message, options)
        self.sent.append(sent)
        return sent.result

    def note_success(self) -> None:
        self.successes += 1

    def add_handler(self, handler: Handler) -> None:
        handler.client = self
        self._handlers.append(handler)

    # -- what the test makes happen -------------------------------------------------------------------------

    def connect(self, connection: ScriptedConnection | None = None) -> ScriptedConnection:
        """Connect, to a broker that has no wishes where none is given, and tell the handlers."""
        if self.connection is not None:
            raise AssertionError("connected already: lose() the other one first")
        made = self.connection = connection or ScriptedConnection()
        made.on_blocked = self._on_blocked
        self.last_error = None
        for handler in self._handlers:
            handler.connection_initialized()
        return made

    def lose(self, reason: str = "pulled the plug") -> None:
        """Lose the connection, or notice that it is lost, and tell the handlers."""
        connection = self.connection
        if connection is None:
            return
        connection.abort(reason)
        self.last_error = connection.refusal or connection.lost
        self.connection = None
        for handler in self._handlers:
            handler.connection_lost()

    def block(self, blocked: bool = True) -> None:
        """Let the broker say that it takes no publishes (True), or does again."""
        if self.connection is None:
            raise AssertionError("not connected")
        self.connection.blocked = blocked
        self.connection.on_blocked(blocked)

    def _on_blocked(self, blocked: bool) -> None:
        for handler in self._handlers:
            handler.connection_blocked(blocked)


#: What RabbitMQ says first with these codes.
_TEXTS = {
    311: "CONTENT_TOO_LARGE",
    403: "ACCESS_REFUSED",
    404: "NOT_FOUND",
    405: "RESOURCE_LOCKED",
    406: "PRECONDITION_FAILED",
    530: "NOT_ALLOWED",
    540: "NOT_IMPLEMENTED",
    541: "INTERNAL_ERROR",
}


def bodies(messages: Sequence[Published]) -> list[bytes]:
    """Return the bodies of messages."""
    return [message.body for message in messages]


def _short(text: str) -> bytes:
    encoded = text.encode()
    return pack(">B", len(encoded)) + encoded


def _read_short(payload: bytes, at: int) -> tuple[str, int]:
    """Return a short string and where what follows it begins."""
    end = at + 1 + payload[at]
    return payload[at + 1 : end].decode(), end
