"""A consumer that takes everything, through every loss of its broker. Knows queues, not what is in them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import amqp

from tests.support.bus import Broker, Bus, Message, connect

_PREFETCH = 1000
_RECONNECT_S = 0.1
_TURN_S = 0.2
_FINISH_S = 60.0
#: With other nodes to go to, one that gives nothing for this time may be frozen, and is left.
_SILENT_S = 3.0


class Delivery(NamedTuple):
    """A message as it came."""

    at: float
    """Monotonic seconds."""
    exchange: str
    routing_key: str
    message_id: str
    body: bytes
    redelivered: bool


class Collector:
    """A thread that takes and acknowledges what comes in some queues of one virtual host, until it is told to stop."""

    def __init__(
        self, nodes: Sequence[Broker], vhost: str, queues: Sequence[str],
        on_delivery: Callable[[Delivery], None] = lambda _: None,
    ) -> None:
        self.deliveries: list[Delivery] = []
        self._nodes = nodes
        self._vhost = vhost
        self._queues = queues
        self._on_delivery = on_delivery
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="collector", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Take no more than is on its way, then what is left in the queues. Harmless when called twice."""
        if not self._stop.is_set():
            self._stop.set()
            self._thread.join(_FINISH_S)
            # What was delivered and not read is back in its queue now, or soon.
            with connect(self._nodes[0], self._vhost) as bus:
                for queue in self._queues:
                    self.deliveries += map(_taken, bus.drain_all(queue))

    def _run(self) -> None:
        turn = 0
        while not self._stop.is_set():
            try:
                with connect(self._nodes[turn % len(self._nodes)], self._vhost, timeout_s=3.0) as bus:
                    self._consume(bus)
            # ValueError: what py-amqp makes of a connection that ends in the middle of a frame.
            except (OSError, amqp.AMQPError, ValueError, AttributeError):
                turn += 1
                self._stop.wait(_RECONNECT_S)

    def _consume(self, bus: Bus) -> None:
        channel = bus.channel
        channel.basic_qos(0, _PREFETCH, False)
        untold = 0
        heard_s = time.monotonic()

        def take(message: amqp.Message) -> None:
            nonlocal untold, heard_s
            heard_s = time.monotonic()
            delivery = _delivery(message)
            self.deliveries.append(delivery)
            self._on_delivery(delivery)
            untold += 1
            if untold >= _PREFETCH // 4:
                channel.basic_ack(message.delivery_tag, multiple=True)
                untold = 0

        for queue in self._queues:
            channel.basic_consume(queue, callback=take)
        while True:
            try:
                bus.connection.drain_events(timeout=_TURN_S)
            except TimeoutError:
                if untold:
                    # 0 means all that was delivered on this channel.
                    channel.basic_ack(0, multiple=True)
                    untold = 0
                if self._stop.is_set():
                    return
                if len(self._nodes) > 1 and time.monotonic() - heard_s > _SILENT_S:
                    raise OSError("nothing comes from this node") from None


def _taken(message: Message) -> Delivery:
    return Delivery(
        time.monotonic(), message.exchange, message.routing_key, message.properties.get("message_id", ""), message.body,
        message.redelivered,
    )


def _delivery(message: Any) -> Delivery:
    body = message.body.encode() if isinstance(message.body, str) else bytes(message.body)
    info = message.delivery_info
    return Delivery(
        time.monotonic(), info["exchange"], info["routing_key"], message.properties.get("message_id", ""), body,
        bool(info["redelivered"]),
    )
