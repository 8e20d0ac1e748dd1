"""What `check --connect` can see of the brokers: logs in, looks at names, delivers and changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from vigiloconn.bus.session import bus_session
from vigiloconn.errors import BusDown, BusRefused
from vigiloconn.interfaces import Connection
from vigiloconn.ipv6 import Endpoint, parse_endpoint
from vigiloconn.options import Settings
from vigiloconn.topology.apply import apply_topology, request
from vigiloconn.topology.wanted import Queue, Topology

_TYPES = ("event", "perf", "state", "nagios")


def brokers_problems(settings: Settings) -> Iterator[str]:
    """Give a line for each thing that is wrong with a broker of `[bus]`, and for the login that fails."""
    bus = settings.bus
    for host in bus.hosts:
        endpoint = parse_endpoint(host, bus.default_port)
        try:
            with bus_session(bus, endpoint, name="vigilo-connector check") as connection:
                yield from _missing(connection, endpoint, settings)
        except (BusDown, BusRefused) as exc:
            yield str(exc)


def _missing(connection: Connection, endpoint: Endpoint, settings: Settings) -> Iterator[str]:
    kinds = (*_TYPES, *settings.publications) if settings.connector == "nagios" else tuple(settings.publications)
    for exchange in sorted({settings.publication(kind).exchange for kind in kinds}):
        refusal = request(connection, partial(_look_at, exchange))
        if refusal is not None:
            yield f"{endpoint}: exchange {exchange}: {refusal}"
    bus = settings.bus
    if bus.queue:
        wanted = Topology(queues=(Queue(bus.queue, bus.queue_type, bus.queue_messages_ttl_s or None),))
        for result in apply_topology(connection, wanted, check=True):
            if result.is_failure:
                yield f"{endpoint}: {result}"


def _look_at(exchange: str, channel: Any) -> None:
    channel.exchange_declare(exchange, "direct", passive=True)
