"""A plain, blocking AMQP client for tests, on py-amqp. Knows the bus, nothing of the runtime under test.

Works with and without gevent's patches: every wait ends by a timeout on the socket.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import amqp

from tests.support.confirms import Confirms

#: Deliveries at a time, acknowledged in one.
_PREFETCH = 2000
_CONFIRM_TIMEOUT_S = 30.0
#: py-amqp's default of one second closes the connection to a paused or blocked broker, which tests want to outlast.
_SOCKET_SETTINGS = {socket.TCP_USER_TIMEOUT: 120_000}


class Broker(Protocol):
    """What has to be known to log in; a `RabbitNode` has it."""

    host: str
    port: int
    user: str
    password: str


class Message(NamedTuple):
    """A message as it came from a queue."""

    body: bytes
    routing_key: str
    exchange: str
    properties: dict[str, Any]
    """`content_type`, `delivery_mode`, `expiration`, `message_id`, `application_headers`, ... as far as set."""
    redelivered: bool

    def json(self) -> Any:
        """Return the body as JSON."""
        return json.loads(self.body)


class Bus:
    """One connection with one channel in use. Made by `connect`; a context manager that closes itself."""

    def __init__(self, connection: amqp.Connection) -> None:
        self.connection = connection
        self.channel = connection.channel()
        self._confirms: Confirms | None = None

    def __enter__(self) -> Bus:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop the connection without asking the broker, which may be paused. Exclusive queues go with it."""
        self.connection.collect()

    def declare_exchange(self, name: str, kind: str = "fanout", durable: bool = True) -> str:
        self.channel.exchange_declare(name, kind, durable=durable, auto_delete=False)
        return name

    def delete_exchange(self, name: str) -> None:
        self.channel.exchange_delete(name)

    def declare_queue(
        self,
        name: str = "",
        exchange: str | None = None,
        key: str = "",
        *,
        durable: bool = True,
        exclusive: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> str:
        """Declare a queue, bound to `exchange` with `key` when one is given. Returns its name; the broker
        makes one up for an empty `name`."""
        declared = self.channel.queue_declare(
            name, durable=durable, exclusive=exclusive, auto_delete=False, arguments=dict(arguments or {})
        )
        if exchange is not None:
            self.bind(declared.queue, exchange, key)
        return str(declared.queue)

    def bind(self, queue: str, exchange: str, key: str = "") -> None:
        self.channel.queue_bind(queue, exchange, key)

    def unbind(self, queue: str, exchange: str, key: str = "") -> None:
        self.channel.queue_unbind(queue, exchange, key)

    def delete_queue(self, name: str) -> None:
        self.channel.queue_delete(name)

    def publish(
        self, exchange: str, key: str, body: bytes | str | dict[str, Any], *, confirm: bool = True, **properties: Any
    ) -> None:
        """Publish one message; a dict becomes JSON.

        With `confirm`, return once the broker has it, and all that was published before it on this channel, in its
        queues: persistent messages are on its disk then. Raises `MessageNacked` when it refused one of them, and
        `AssertionError` when it did not answer.
        """
        if isinstance(body, dict):
            body = json.dumps(body)
        if isinstance(body, str):
            body = body.encode()
        if self._confirms is None or self._confirms.channel is not self.channel:
            self._confirms = Confirms(self.channel)
        confirms = self._confirms
        confirms.note_publish()
        self.channel.basic_publish(amqp.Message(body, **properties), exchange=exchange, routing_key=key)
        if confirm:
            self.wait_events(lambda: not confirms.unanswered, _CONFIRM_TIMEOUT_S, "all publishes are confirmed")
            confirms.check()

    def queue_depth(self, queue: str) -> int:
        """Return the number of messages that are ready in a queue; those delivered but unacknowledged don't count.

        Raises `amqp.NotFound` when there is no such queue.
        """
        channel = self.connection.channel()
        try:
            return int(channel.queue_declare(queue, passive=True).message_count)
        finally:
            channel.close()

    def drain(self, queue: str, count: int, timeout_s: float = 30.0) -> list[Message]:
        """Take exactly `count` messages out of a queue, in order; what is behind them stays there.

        Raises `AssertionError` with the number that did come when they are fewer after `timeout_s`; those are gone.
        """
        taken: list[Message] = []
        deadline = time.monotonic() + timeout_s
        while len(taken) < count:
            taken += self._drain_round(queue, min(count - len(taken), _PREFETCH), deadline)
            if time.monotonic() > deadline:
                break
        if len(taken) < count:
            last = taken[-1].body[:200] if taken else None
            raise AssertionError(f"{queue}: {len(taken)} of {count} messages in {timeout_s:g} s, the last {last!r}")
        return taken

    def _drain_round(self, queue: str, count: int, deadline: float) -> list[Message]:
        """Take up to `count` messages. The prefetch is that number and nothing is acknowledged before the consumer
        is gone, so the broker delivers none beyond it."""
        taken: list[Message] = []
        tags: list[int] = []

        def on_message(message: amqp.Message) -> None:
            taken.append(_message(message))
            tags.append(message.delivery_tag)

        channel = self.connection.channel()
        channel.basic_qos(0, count, False)
        consumer = channel.basic_consume(queue, callback=on_message)
        try:
            _drain_events(self.connection, lambda: len(taken) >= count, deadline)
            channel.basic_cancel(consumer)
            if tags:
                channel.basic_ack(tags[-1], multiple=True)
        finally:
            channel.close()
        return taken

    def drain_all(self, queue: str) -> list[Message]:
        """Take what is ready in a queue now, be it nothing."""
        taken: list[Message] = []
        while depth := self.queue_depth(queue):
            taken += self.drain(queue, depth)
        return taken

    def wait_events(self, condition: Callable[[], object], timeout_s: float, what: str) -> None:
        """Read from the connection until `condition()` is true. Raises `AssertionError` naming `what` otherwise."""
        if not _drain_events(self.connection, condition, time.monotonic() + timeout_s):
            raise AssertionError(f"{what}: not within {timeout_s:g} s")


def connect(
    node: Broker,
    vhost: str = "/",
    *,
    user: str | None = None,
    password: str | None = None,
    port: int | None = None,
    timeout_s: float = 10.0,
    **options: Any,
) -> Bus:
    """Connect to a node, or to a proxy before it (`port`). `options` go to `amqp.Connection`."""
    host = f"[{node.host}]" if ":" in node.host else node.host
    connection = amqp.Connection(
        f"{host}:{port or node.port}", user or node.user, password or node.password, virtual_host=vhost,
        connect_timeout=timeout_s, socket_settings=_SOCKET_SETTINGS, **options,
    )
    connection.connect()
    return Bus(connection)


def _drain_events(connection: amqp.Connection, condition: Callable[[], object], deadline: float) -> bool:
    while not condition():
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            return False
        try:
            connection.drain_events(timeout=left_s)
        except TimeoutError:
            return bool(condition())
    return True


def _message(message: amqp.Message) -> Message:
    body = message.body.encode() if isinstance(message.body, str) else bytes(message.body)
    info = message.delivery_info
    return Message(body, info["routing_key"], info["exchange"], dict(message.properties), bool(info["redelivered"]))
