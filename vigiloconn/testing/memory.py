"""A broker in memory: exchanges, queues, confirms, returns, redeliveries. Knows what a connector sees of one.

It is the scripted bus with a will of its own. Messages are in one process's memory, and all queues are classic ones.
"""

from __future__ import annotations

import fnmatch
import json
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import gevent
from gevent.event import Event

from vigiloconn.errors import BusDown, BusRefused
from vigiloconn.testing.scripted import Published, ScriptedChannel, ScriptedConnection


class Received(NamedTuple):
    """A message that was taken out of a queue."""

    body: bytes
    routing_key: str
    properties: Mapping[str, Any]

    def json(self) -> Any:
        """Return what the body holds."""
        return json.loads(self.body)

    @property
    def headers(self) -> Mapping[str, Any]:
        """Its application headers."""
        return self.properties.get("application_headers") or {}


@dataclass(slots=True, eq=False)
class _Message:
    body: bytes
    exchange: str
    routing_key: str
    properties: Mapping[str, Any]
    redelivered: bool = False


@dataclass(slots=True)
class _Queue:
    ready: deque[_Message] = field(default_factory=deque)
    unacknowledged: int = 0
    consumers: list[tuple[MemoryChannel, str]] = field(default_factory=list)


class MemoryBus:
    """Queues and exchanges that are there from the first `declare` to the end of the test.

    `fanout` exchanges ignore keys, `topic` ones know `*` and `#`, all others compare them.
    """

    def __init__(self) -> None:
        self.refused: set[str] = set()
        """Exchanges whose messages are answered with a nack."""
        self._queues: dict[str, _Queue] = {}
        self._exchanges: dict[str, str] = {"amq.fanout": "fanout", "amq.topic": "topic", "amq.direct": "direct"}
        self._bindings: list[tuple[str, str, str]] = []
        self._connections: list[MemoryConnection] = []
        self._is_up = True

    # -- what a test does ----------------------------------------------------------------------------------------

    def declare_exchange(self, name: str, kind: str = "fanout") -> str:
        """Make an exchange, unless it is there. Returns its name."""
        self._exchanges.setdefault(name, kind)
        return name

    def declare_queue(self, name: str, exchange: str = "", key: str = "") -> str:
        """Make a queue, unless it is there, and bind it. Returns its name."""
        self._queues.setdefault(name, _Queue())
        if exchange:
            self.bind(name, exchange, key)
        return name

    def bind(self, queue: str, exchange: str, key: str = "") -> None:
        """Bind a queue to an exchange."""
        if (queue, exchange, key) not in self._bindings:
            self._bindings.append((queue, exchange, key))

    def publish(self, exchange: str, routing_key: str, message: Any, **properties: Any) -> bool:
        """Publish a dict as JSON, or bytes; properties are named as py-amqp does. False if no queue wants it."""
        assert exchange == "" or exchange in self._exchanges, f"no exchange {exchange!r}: declare_exchange it first"
        body = message if isinstance(message, bytes) else json.dumps(message).encode()
        return self._route(_Message(body, exchange, routing_key, properties))

    def depth(self, queue: str) -> int:
        """Return how many messages a queue has, those included that are not acknowledged; 0 where there is none."""
        found = self._queues.get(queue)
        return len(found.ready) + found.unacknowledged if found else 0

    def drain(self, queue: str, count: int, timeout_s: float = 10.0) -> list[Received]:
        """Take that many messages out of a queue, as they come. Raises `AssertionError` when they don't."""
        wait_until(lambda: queue in self._queues and len(self._queues[queue].ready) >= count,
                   f"{count} messages in queue {queue!r}", timeout_s)
        taken = [self._queues[queue].ready.popleft() for _ in range(count)]
        return [Received(each.body, each.routing_key, each.properties) for each in taken]

    def lose(self) -> None:
        """Cut all connections: what is unacknowledged goes back, in its place, and connectors connect again."""
        for connection in list(self._connections):
            connection.abort("cut by the test")

    def stop(self) -> None:
        """Take no connections until `start`."""
        self._is_up = False
        self.lose()

    def start(self) -> None:
        """Take connections again; queues are as they were."""
        self._is_up = True

    def connect(self, endpoint: Any, settings: Any, **options: Any) -> MemoryConnection:
        """Return a connection that is not made yet: what a supervisor's `open_connection` is."""
        return MemoryConnection(self, endpoint, settings)

    # -- what its connections do -----------------------------------------------------------------------------------

    def _route(self, message: _Message) -> bool:
        if message.exchange == "":
            targets = {message.routing_key} & self._queues.keys()
        else:
            kind = self._exchanges[message.exchange]
            targets = {
                queue for queue, exchange, key in self._bindings
                if exchange == message.exchange and queue in self._queues and _matches(kind, key, message.routing_key)
            }  # fmt: skip
        for target in targets:
            self._queues[target].ready.append(
                _Message(message.body, message.exchange, message.routing_key, message.properties)
            )
            self._feed(target)
        return bool(targets)

    def _feed(self, name: str) -> None:
        queue = self._queues[name]
        while queue.ready:
            free = [each for each in queue.consumers if each[0].has_room]
            if not free:
                return
            free[0][0].hand_over(queue.ready.popleft(), name, free[0][1])
            queue.unacknowledged += 1
            queue.consumers.append(queue.consumers.pop(queue.consumers.index(free[0])))

    def _give_back(self, name: str, messages: list[_Message]) -> None:
        queue = self._queues[name]
        queue.unacknowledged -= len(messages)
        for message in reversed(messages):
            message.redelivered = True
            queue.ready.appendleft(message)


class MemoryChannel(ScriptedChannel):
    """A channel of a broker that answers by itself, on the connection's reading greenlet."""

    connection: MemoryConnection

    def __init__(self, connection: ScriptedConnection, channel_id: int) -> None:
        super().__init__(connection, channel_id)
        self.held: dict[int, tuple[str, _Message]] = {}
        """Delivery tag -> queue and message, of what is not settled."""
        self._handed_over = 0

    @property
    def has_room(self) -> bool:
        """True while the prefetch count allows another message."""
        return self.is_open and (not self.prefetch_messages or len(self.held) < self.prefetch_messages)

    def hand_over(self, message: _Message, queue: str, consumer: str) -> None:
        """Deliver a message, a moment later."""
        self._handed_over += 1
        self.held[self._handed_over] = (queue, message)

        def deliver() -> None:
            if self.is_open:
                self.deliver(
                    message.body, exchange=message.exchange, routing_key=message.routing_key, consumer_tag=consumer,
                    redelivered=message.redelivered, **message.properties,
                )  # fmt: skip

        self.connection.do(deliver)

    def queue_declare(self, queue: str = "", *args: Any, **options: Any) -> tuple[str, int, int]:
        answer = super().queue_declare(queue, *args, **options)
        self.connection.bus.declare_queue(queue)
        return answer

    def queue_bind(self, queue: str, exchange: str = "", routing_key: str = "", **options: Any) -> None:
        if exchange not in self.connection.bus._exchanges:
            self.connection.refuse("queue_bind", 404, f"NOT_FOUND - no exchange '{exchange}'")
        super().queue_bind(queue, exchange, routing_key, **options)
        self.connection.bus.bind(queue, exchange, routing_key)

    def exchange_declare(self, exchange: str, type: str, **options: Any) -> None:
        if options.get("passive") and exchange not in self.connection.bus._exchanges:
            self.connection.refuse("exchange_declare", 404, f"NOT_FOUND - no exchange '{exchange}'")
        super().exchange_declare(exchange, type, **options)
        self.connection.bus.declare_exchange(exchange, type)

    def basic_consume(self, queue: str = "", *args: Any, **options: Any) -> str:
        bus = self.connection.bus
        if queue not in bus._queues:
            self.connection.refuse("basic_consume", 404, f"NOT_FOUND - no queue '{queue}'")
        tag = super().basic_consume(queue, *args, **options)
        bus._queues[queue].consumers.append((self, tag))
        bus._feed(queue)
        return tag

    def _take_message(self, content: Any) -> None:
        super()._take_message(content)
        self.connection.do(lambda published=self.published[-1]: self._answer_to(published))  # type: ignore[misc]

    def _answer_to(self, published: Published) -> None:
        if not self.is_open:
            return
        bus = self.connection.bus
        if published.exchange and published.exchange not in bus._exchanges:
            self.close_by_broker(404, f"NOT_FOUND - no exchange '{published.exchange}'")
            return
        if published.exchange in bus.refused:
            self.nack(published.tag)
            return
        message = _Message(published.body, published.exchange, published.routing_key, published.properties)
        if not bus._route(message) and published.mandatory and self.confirms:
            self.return_(published.tag)
        if self.confirms:
            self.ack(published.tag)

    def _take_settlement(self, kind: str, tag: int, bits: int) -> None:
        super()._take_settlement(kind, tag, bits)
        settlement = self.settlements[-1]
        settled: dict[str, list[_Message]] = {}
        for each in [each for each in self.held if each == tag or (settlement.multiple and each < tag)]:
            queue, message = self.held.pop(each)
            settled.setdefault(queue, []).append(message)
        for queue, messages in settled.items():
            if settlement.requeue:
                self.connection.bus._give_back(queue, messages)
            else:
                self.connection.bus._queues[queue].unacknowledged -= len(messages)
            self.connection.bus._feed(queue)

    def ended(self) -> None:
        """Give back what was held: the channel is gone."""
        self.is_open = False
        bus = self.connection.bus
        for queue in bus._queues.values():
            queue.consumers = [each for each in queue.consumers if each[0] is not self]
        held, self.held = self.held, {}
        for name in {queue for queue, _ in held.values()}:
            bus._give_back(name, [message for queue, message in held.values() if queue == name])
            bus._feed(name)


class MemoryConnection(ScriptedConnection):
    """A connection as `VigiloClient` makes one: what the broker says is heard by the greenlet that calls `read`."""

    channel_type = MemoryChannel

    def __init__(self, bus: MemoryBus, endpoint: Any, settings: Any) -> None:
        super().__init__(max_message_bytes=settings.max_message_bytes)
        self.bus = bus
        self.endpoint = endpoint
        self.waiting_s = 0.0
        self._todo: deque[Callable[[], None]] = deque()
        self._wake = Event()

    def connect(self) -> None:
        """Log in. Raises `BusDown`."""
        if not self.bus._is_up:
            raise BusDown(f"{self.endpoint}: connection refused")
        self.bus._connections.append(self)

    def read(self) -> None:
        """Hear what the broker says until the connection is lost, and raise why."""
        while self._lost is None:
            self._wake.wait()
            self._wake.clear()
            while self._todo and self._lost is None:
                self._todo.popleft()()
                gevent.sleep(0)
        raise self.refusal or self._lost

    def do(self, action: Callable[[], None]) -> None:
        """Let the reading greenlet do this."""
        self._todo.append(action)
        self._wake.set()

    def tick(self) -> None:
        """There are no heartbeats."""
        self.heard_at = time.monotonic()

    def close(self, timeout_s: float) -> None:
        """Say goodbye."""
        self.abort("closed by us")

    def abort(self, reason: str) -> None:
        super().abort(reason)
        self._end()

    def leave(self, reason: str) -> None:
        super().leave(reason)
        self._end()

    def _end(self) -> None:
        if self in self.bus._connections:
            self.bus._connections.remove(self)
        for channel in list(self.channels.values()):
            channel.ended()  # type: ignore[attr-defined]
        self._wake.set()

    def _channel_ended(self, channel: ScriptedChannel) -> None:
        super()._channel_ended(channel)
        channel.ended()  # type: ignore[attr-defined]


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = 10.0) -> None:
    """Let the connector work until `condition()` is true. Raises `AssertionError`."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        gevent.sleep(0.002)


def _matches(kind: str, pattern: str, key: str) -> bool:
    if kind == "fanout":
        return True
    if kind == "topic" and ("#" in pattern or "*" in pattern):
        # `*` is one word, and `#` any number: near enough with the words' ends as characters of their own.
        return fnmatch.fnmatchcase(key, pattern.replace("#", "*"))
    return pattern == key


__all__ = ["BusRefused", "MemoryBus", "MemoryChannel", "MemoryConnection", "Received", "wait_until"]
