"""What `check --connect` can see of the brokers: logs in, looks at names, delivers and changes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from vigiloconn.bus.session import bus_session
from vigiloconn.errors import BusDown, BusRefused
from vigiloconn.interfaces import Connection
from vigiloconn.ipv6 import Endpoint, parse_endpoint
from vigiloconn.options import Settings
from vigiloconn.topology.apply import apply_topology, request
from vigiloconn.topology.wanted import Queue, Topology

_DAY_S = 86_400
_FEW_DAYS = 30
_TYPES = ("event", "perf", "state", "nagios")


def brokers_problems(settings: Settings, note: Callable[[str], object] = print) -> Iterator[str]:
    """Give a line for each thing that is wrong with a broker of `[bus]`, and for the login that fails.

    `note` is told how long each broker's certificate is good.
    """
    bus = settings.bus
    for host in bus.hosts:
        endpoint = parse_endpoint(host, bus.default_port)
        try:
            with bus_session(bus, endpoint, name="vigilo-connector check") as connection:
                ends_at = connection.certificate_ends_at()
                if ends_at is not None:
                    note(f"{endpoint}: {certificate_words(ends_at, time.time())}")
                yield from _missing(connection, endpoint, settings)
        except (BusDown, BusRefused) as exc:
            yield str(exc)


def certificate_words(ends_at: float, now: float) -> str:
    """Return what is told of a certificate that is good until `ends_at`."""
    days = int((ends_at - now) // _DAY_S)
    until = time.strftime("%Y-%m-%d", time.gmtime(ends_at))
    few = "only " if days < _FEW_DAYS else ""
    return f"the broker's certificate is good for {few}{days} days more, until {until}"


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
