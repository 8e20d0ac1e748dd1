"""Measures this machine's load every few seconds and sends it as performance data: a source that is no socket.

    vigilo-connector run examples.producer:build --config FILE

`[connector-producer]` takes `period` (seconds, 10 by default) and `host` (the machine's name by default). Values are
journaled like lines of the socket: while the bus is away they wait on the disk.
"""

from __future__ import annotations

import os
import socket
import time

from gevent.event import Event

from vigiloconn.connectors.parts import add_journal, add_status
from vigiloconn.errors import SettingsError
from vigiloconn.handlers.base import Handler
from vigiloconn.interfaces import Sink
from vigiloconn.options import Settings
from vigiloconn.serialize import make_batch
from vigiloconn.supervisor import Supervisor


class LoadProbe(Handler):
    """Puts one batch of three values into `sink` every `period_s`."""

    name = "load probe"

    def __init__(self, sink: Sink, host: str, period_s: float) -> None:
        self._sink = sink
        self._host = host
        self._period_s = period_s
        self._stop = Event()

    def run(self) -> None:
        while not self._stop.wait(self._period_s):
            # Blocks while a full journal has no room, and with it the measuring: there is no queue that could grow.
            self._sink.put(make_batch(
                {"type": "perf", "timestamp": int(time.time()), "host": self._host, "datasource": name, "value": value}
                for name, value in zip(("load1", "load5", "load15"), os.getloadavg(), strict=True)
            ))

    def stop_service(self) -> None:
        self._stop.set()


def build(settings: Settings, supervisor: Supervisor) -> None:
    """Wire it."""
    text = settings.own.get("period", "10")
    try:
        period_s = float(text)
    except ValueError:
        period_s = 0.0
    if not 0.0 < period_s < float("inf"):
        raise SettingsError(f"{settings.path}: [connector-producer] period: expected seconds above 0, got {text!r}")
    provider = add_journal(settings, supervisor)
    supervisor.add(LoadProbe(provider, settings.own.get("host") or socket.gethostname(), period_s))
    add_status(settings, supervisor, provider)
