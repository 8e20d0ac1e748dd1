"""Messages for the connector's queue, each an obligation once the broker has confirmed it. Knows queues."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable
from typing import Any

import amqp

from tests.support.bus import Broker, connect

_CONFIRM_S = 3.0
_RECONNECT_S = 0.1


class Feeder:
    """A thread that publishes numbered messages to one queue until it is told to stop; each number once."""

    def __init__(
        self, node: Broker, vhost: str, queue: str, make: Callable[[int], dict[str, Any]], pause_s: float, seed: int
    ) -> None:
        self.number = 0
        """Of the latest message that was made."""
        self.obligations: list[int] = []
        self._node = node
        self._vhost = vhost
        self._queue = queue
        self._make = make
        self._pause_s = pause_s
        self._chance = random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feeder", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Publish no more."""
        self._stop.set()
        self._thread.join(20.0)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with connect(self._node, self._vhost, timeout_s=_CONFIRM_S) as bus:
                    while not self._stop.wait(self._pause_s * self._chance.uniform(0.0, 2.0)):
                        self._publish_some(bus.channel)
            # ValueError, AttributeError: what py-amqp makes of a connection that ends under it.
            except (OSError, amqp.AMQPError, ValueError, AttributeError):
                self._stop.wait(_RECONNECT_S)

    def _publish_some(self, channel: Any) -> None:
        for _ in range(self._chance.randint(1, 20)):
            self.number += 1
            message = amqp.Message(json.dumps(self._make(self.number)), delivery_mode=2)
            channel.basic_publish_confirm(
                message, exchange="", routing_key=self._queue, confirm_timeout=_CONFIRM_S
            )
            self.obligations.append(self.number)
