"""A queue to consume: its declaration and bindings. Knows what brokers refuse, not who consumes.

A refused declare or bind closes the channel, so each is done on a channel of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vigiloconn.amqp import BusConnection
from vigiloconn.errors import BusRefused
from vigiloconn.values import Subscription

_MS_PER_S = 1000


def queue_arguments(queue_type: str, ttl_s: int) -> dict[str, Any]:
    """Return the arguments of the declare. A classic queue without TTL has none, so that an old one fits."""
    arguments: dict[str, Any] = {}
    if queue_type != "classic":
        arguments["x-queue-type"] = queue_type
    if ttl_s:
        arguments["x-message-ttl"] = ttl_s * _MS_PER_S
    return arguments


def declare_queue(connection: BusConnection, queue: str, arguments: dict[str, Any]) -> None:
    """Declare a durable queue. Raises `BusRefused` (406 where it exists with other arguments), `BusDown`."""
    channel = connection.open_channel()
    try:
        channel.queue_declare(queue, durable=True, auto_delete=False, arguments=arguments)
    finally:
        connection.forget_channel(channel)


def bind_queue(
    connection: BusConnection, queue: str, subscriptions: Sequence[Subscription]
) -> list[tuple[Subscription, BusRefused]]:
    """Bind a queue to each subscription and return those that were refused, with the reason. Raises `BusDown`."""
    refused: list[tuple[Subscription, BusRefused]] = []
    for subscription in subscriptions:
        channel = connection.open_channel()
        try:
            channel.queue_bind(queue, subscription.exchange, queue if subscription.key is None else subscription.key)
        except BusRefused as exc:
            refused.append((subscription, exc))
        finally:
            connection.forget_channel(channel)
    return refused
