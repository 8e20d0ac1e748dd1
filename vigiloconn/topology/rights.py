"""What an account may do on a broker, asked without delivering or changing anything. Knows no settings.

A passive declare needs no right at all. So each right is asked for by something that can't succeed, or is taken back:
RabbitMQ looks at the right before all else.
"""

from __future__ import annotations

import uuid
from typing import Any

from vigiloconn.bus.frames import PublishFrames
from vigiloconn.errors import BusRefused
from vigiloconn.interfaces import Connection
from vigiloconn.topology.apply import request

_REFUSED = 403
#: Of the wrong type wherever it stands: no broker makes anything of it.
_WRONG = "none"


def why_not_write(connection: Connection, exchange: str, key: str) -> BusRefused | None:
    """Return why nothing may be published to an exchange, None where it may. Raises `BusDown`.

    What is published is taken back before it is routed.
    """

    def publish(channel: Any) -> None:
        channel.tx_select()
        frames = PublishFrames(channel.channel_id, exchange, key, frame_max=connection.frame_max, mandatory=False)
        connection.write(frames.render(b"{}", b""), channel)
        channel.tx_rollback()

    return request(connection, publish)


def why_not_bind(connection: Connection, queue: str, exchange: str) -> BusRefused | None:
    """Return why a queue may not be bound to an exchange: that needs to write the one and to read the other.

    What is unbound is a key that nobody can have bound.
    """
    return _refused(connection, lambda channel: channel.queue_unbind(queue, exchange, uuid.uuid4().hex))


def why_not_consume(connection: Connection, queue: str) -> BusRefused | None:
    """Return why nothing may be consumed from a queue. No consumer comes to be: its priority is no number."""

    def consume(channel: Any) -> None:
        channel.basic_consume(queue, arguments={"x-priority": _WRONG})

    return _refused(connection, consume)


def why_not_declare(connection: Connection, queue: str) -> BusRefused | None:
    """Return why a queue may not be declared. None comes to be: its time to live is no number."""

    def declare(channel: Any) -> None:
        channel.queue_declare(queue, durable=True, auto_delete=False, arguments={"x-message-ttl": _WRONG})

    return _refused(connection, declare)


def _refused(connection: Connection, ask: Any) -> BusRefused | None:
    refusal = request(connection, ask)
    return refusal if refusal is not None and refusal.code == _REFUSED else None
