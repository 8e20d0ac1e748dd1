"""A connection to the bus for as long as a block of code runs. Knows connecting and reading, no handlers."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gevent
from gevent.event import Event

from vigiloconn import ipv6
from vigiloconn.bus.connection import BusConnection, tls_context
from vigiloconn.bus.words import hint
from vigiloconn.errors import BusDown, BusRefused
from vigiloconn.ipv6 import Endpoint
from vigiloconn.options import BusSettings

log = logging.getLogger(__name__)

#: How long the goodbye may take.
_CLOSE_S = 2.0


@contextmanager
def bus_session(settings: BusSettings, endpoint: Endpoint | None = None, *, name: str) -> Iterator[BusConnection]:
    """Connect, read and keep the connection alive while the block runs; then close it in order.

    `endpoint` defaults to the first of `settings.hosts`; `name` is what the broker shows. Nothing is tried again:
    raises `BusDown` or `BusRefused` when the connection can't be made, and when it is lost the block's next call
    raises. `SettingsError` for certificates that can't be loaded. The standard library must be patched by gevent.
    """
    if endpoint is None:
        endpoint = ipv6.parse_endpoint(settings.hosts[0], settings.default_port)
    if settings.use_ssl:
        tls_context(settings)
    connection = BusConnection(endpoint, settings, dial=_dial, name=name)
    try:
        connection.connect()
    except (BusDown, BusRefused) as exc:
        # For a person, who tries nothing else until it is mended.
        exc.args = (f"{exc}{hint(exc, endpoint, settings.use_ssl)}",)
        raise
    over = Event()
    # A block has no supervisor; neither greenlet outlives it, and neither raises.
    helpers: list[gevent.Greenlet[..., Any]] = [
        gevent.spawn(_read, connection), gevent.spawn(_tick, connection, over)
    ]
    try:
        yield connection
    finally:
        connection.close(_CLOSE_S)
        over.set()
        gevent.joinall(helpers, timeout=_CLOSE_S)
        gevent.killall(helpers)


def _dial(endpoint: Endpoint, timeout_s: float) -> socket.socket:
    return ipv6.connect(endpoint, timeout_s, spawn=gevent.spawn)


def _read(connection: BusConnection) -> None:
    try:
        connection.read()
    except (BusDown, BusRefused) as exc:
        log.debug("session over: %s", exc)


def _tick(connection: BusConnection, over: Event) -> None:
    while connection.lost is None and not over.wait(min(1.0, connection.settings.heartbeat_s / 4)):
        connection.tick()
